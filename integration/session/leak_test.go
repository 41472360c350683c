package session_test

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

var sessionsFlag = flag.Int("sessions", 10_000, "how many sessions the leak tests open and close")

// footprint is what a bus holds on to.
type footprint struct {
	goroutines, consumers, subscriptions, keys int
	heap                                       uint64
}

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d consumers, %d subscriptions, %d keys, %d KiB of heap",
		f.goroutines, f.consumers, f.subscriptions, f.keys, f.heap>>10)
}

// manySessions opens sessions, uses each, and closes them, some at once. What is
// left then is what was there before.
func manySessions(t *testing.T, b *bus.Bus, look func() footprint) {
	const some = 20 // workers that are idle, and what the server does of its own
	n := *sessionsFlag
	ctx := t.Context()
	require.NoError(t, bus.Handle(ctx, b, world.Answering("bus")))
	round := func(from, to int) {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 32)
		for i := from; i < to; i++ {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				id := fmt.Sprintf("import/%d", i)
				heard := 0
				err := bus.InSession(ctx, b, id, func(ctx context.Context, s *bus.Session) error {
					if err := bus.Handle(ctx, s, world.Answering("session")); err != nil {
						return err
					}
					if _, err := bus.Subscribe(ctx, s, func(context.Context, world.UserCreated) error { heard++; return nil }); err != nil {
						return err
					}
					if who, err := bus.Execute(ctx, b, world.CreateUser{Name: "x"}); err != nil || who != "session" {
						return fmt.Errorf("%q answered: %w", who, err)
					}
					return bus.Publish(ctx, b, world.UserCreated{})
				})
				if err != nil || heard != 1 {
					t.Errorf("%s: heard %d events: %v", id, heard, err)
				}
			})
		}
		wg.Wait()
	}
	round(0, min(n/10, 500)) // what is made once is made
	before := look()
	began := time.Now()
	round(500, 500+n)
	took := time.Since(began)
	var after footprint
	for range 100 { // the server forgets a moment later
		if after = look(); after.goroutines <= before.goroutines+some && after.subscriptions <= before.subscriptions {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d sessions in %v; before: %v; after: %v", n, took.Round(time.Millisecond), before, after)
	require.LessOrEqual(t, after.goroutines, before.goroutines+some, "goroutines")
	require.LessOrEqual(t, after.consumers, before.consumers+2, "consumers, with one that lists the keys")
	require.LessOrEqual(t, after.subscriptions, before.subscriptions, "subscriptions")
	require.LessOrEqual(t, after.keys, before.keys, "keys")
	all, err := b.Sessions(ctx)
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestManySessionsLeaveNothingInMemory(t *testing.T) {
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "svc"})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	var last uint64
	manySessions(t, b, func() footprint {
		last = world.HeapInUse()
		return footprint{goroutines: runtime.NumGoroutine(), heap: last}
	})
	// What remembers ids for the dedup window is not the sessions'. Handlers that are
	// gone are looked at for slow runs once more, within seconds.
	for range 100 {
		if last < 32<<20 {
			break
		}
		time.Sleep(100 * time.Millisecond)
		last = world.HeapInUse()
	}
	require.Less(t, last, uint64(32<<20), "heap")
}

func TestManySessionsLeaveNothingOnNATS(t *testing.T) {
	s := natstest.Start(t, embedded.Config{Listen: "127.0.0.1:0"})
	own, err := natsgo.Connect(s.URL())
	require.NoError(t, err)
	defer own.Close()
	tr, err := nats.Open(t.Context(), nats.Config{Conn: own})
	require.NoError(t, err)
	// The bucket keeps a trace of each record that was deleted within a minute, and
	// a list reads them all.
	b, err := bus.New(tr, bus.Config{Service: "svc", PublishTimeout: time.Minute})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	nc, err := natsgo.Connect(s.URL())
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	manySessions(t, b, func() (f footprint) {
		f.heap = world.HeapInUse()
		f.goroutines = runtime.NumGoroutine()
		f.subscriptions = own.NumSubscriptions()
		for info := range js.ListStreams(t.Context()).Info() {
			f.consumers += info.State.Consumers
			if info.Config.MaxMsgsPerSubject == 1 { // the key-value bucket
				bucket, err := js.KeyValue(t.Context(), info.Config.Name[len("KV_"):])
				require.NoError(t, err)
				keys, err := bucket.ListKeys(t.Context())
				require.NoError(t, err)
				for range keys.Keys() {
					f.keys++
				}
			}
		}
		return f
	})
}
