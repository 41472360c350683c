package pressure_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	servers "github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// A group that stands still holds back no other: on NATS never, and in memory until
// the log is full.
func TestSlowGroupHoldsBackNobody(t *testing.T) {
	const room = 500
	run := func(w *world.World, b *bus.Bus, n int) (publish func() error) {
		open := make(chan struct{})
		w.Cleanup(func() { close(open) })
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { <-open; return nil }, bus.WithGroup("slow"))
		require.NoError(w, err)
		quick := world.NewRecord[world.UserID]()
		_, err = bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { quick.Add(e.ID); return nil }, bus.WithGroup("quick"))
		require.NoError(w, err)
		began := time.Now()
		for range n {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"}))
		}
		quick.Wait(w, n)
		require.LessOrEqual(w, time.Since(began), time.Second)
		return func() error {
			err := bus.Publish(w.Context(), b, world.UserCreated{ID: "last"}, bus.WithTimeout(time.Second))
			world.Settle(time.Second)
			if err == nil {
				quick.Wait(w, n+1)
			}
			return err
		}
	}
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world.World{T: t}
			b := w.Bare(memory.New(memory.Config{MaxEvents: room}), bus.Config{})
			publish := run(w, b, room)
			err := publish()
			require.Equal(t, bus.CodeBacklog, bus.CodeOf(err))
			require.ErrorContains(t, err, `backlog full: group "slow" is 500 events behind`)
		})
	})
	t.Run("nats", func(t *testing.T) {
		servers.Bubble(t, func(t *testing.T, s *embedded.Server) {
			w := &world.World{T: t}
			tr, err := nats.Open(t.Context(), nats.Config{Server: s})
			require.NoError(t, err)
			publish := run(w, w.Bare(tr, bus.Config{}), 4*room)
			require.NoError(t, publish())
		})
	})
}

// The server hands a process no more events than its workers handle and twice as many
// that wait for them; and where the handlers were quick before, no more than it reads
// ahead.
func TestPrefetchAtTheServer(t *testing.T) {
	servers.Bubble(t, func(t *testing.T, s *embedded.Server) {
		const workers = 8
		w := &world.World{T: t}
		tr, err := nats.Open(t.Context(), nats.Config{Server: s})
		require.NoError(t, err)
		b := w.Bare(tr, bus.Config{})
		nc, err := natsgo.Connect("", natsgo.InProcessServer(s))
		require.NoError(t, err)
		defer nc.Close()
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		pending := func() int {
			c, err := js.Consumer(t.Context(), "JITNEY_EVT", "svc=user=created")
			require.NoError(t, err)
			return c.CachedInfo().NumAckPending
		}
		takes, started := 3*time.Second, make(chan struct{}, 10_000)
		_, err = bus.Subscribe(t.Context(), b, func(context.Context, world.UserCreated) error {
			started <- struct{}{}
			time.Sleep(takes)
			return nil
		}, bus.WithConcurrency(workers))
		require.NoError(t, err)
		all := make([]any, 1000)
		for i := range all {
			all[i] = world.UserCreated{}
		}
		require.NoError(t, bus.PublishAll(t.Context(), b, all...))
		most := 0
		for range 60 {
			world.Settle(500 * time.Millisecond)
			most = max(most, pending())
		}
		t.Logf("%d events pending at the server at the most, %d handled", most, len(started))
		require.Greater(t, len(started), 8*workers)
		require.GreaterOrEqual(t, most, 2*workers, "the workers find their next event here")
		require.LessOrEqual(t, most, 3*workers)
	})
}

// A stream that is full refuses events with a typed error, and a publisher that adapts
// tries less and less.
func TestFullStreamSlowsThePublisher(t *testing.T) {
	servers.Bubble(t, func(t *testing.T, s *embedded.Server) {
		w := &world.World{T: t}
		tr, err := nats.Open(t.Context(), nats.Config{Server: s, MaxBytes: 64 << 10})
		require.NoError(t, err)
		b := w.Bare(tr, bus.Config{Backpressure: bus.Backpressure{Strategy: bus.AdaptiveRateLimit}})
		tries := func(d time.Duration) (n int) {
			for began := time.Now(); time.Since(began) < d; n++ {
				err = bus.Publish(t.Context(), b, world.UserCreated{Note: strings.Repeat("x", 1<<10)})
			}
			return n
		}
		tries(10 * time.Second)
		require.Equal(t, bus.CodeBacklog, bus.CodeOf(err))
		require.ErrorIs(t, err, transport.ErrBacklog)
		require.InDelta(t, 100, tries(10*time.Second), 5, "ten a second")
	})
}
