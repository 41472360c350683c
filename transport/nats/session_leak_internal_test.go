package nats

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

// footprint is what a transport, its connection and its server hold on to.
type footprint struct {
	goroutines    int
	subscriptions int // of the client
	interest      int // subscriptions of all clients, as the server counts them
	consumers     int // of all streams
	sources       int
	hooks         int // on the connection
	heapObjects   int
}

func footprintOf(t *testing.T, s *natsserver.Server, tr *Transport) footprint {
	t.Helper()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := footprint{
		goroutines: runtime.NumGoroutine(), subscriptions: tr.link.conn().NumSubscriptions(),
		interest: int(s.NumSubscriptions()), heapObjects: int(m.HeapObjects),
	}
	streams := tr.link.jetStream().ListStreams(t.Context())
	for info := range streams.Info() {
		f.consumers += info.State.Consumers
	}
	require.NoError(t, streams.Err())
	tr.mu.Lock()
	defer tr.mu.Unlock()
	f.sources = len(tr.sources)
	tr.link.mu.Lock()
	defer tr.link.mu.Unlock()
	f.hooks = len(tr.link.hooks) + len(tr.link.deny)
	return f
}

// 3,000 sessions (500 under the race detector), each with a listener that hears an event and a handler that
// answers a command, leave nothing behind on either side.
func TestSessionsLeaveNothingBehind(t *testing.T) {
	s, err := natsserver.NewServer(&natsserver.Options{
		DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
	})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	require.True(t, s.ReadyForConnections(30*time.Second))
	nc, err := nats.Connect("", nats.InProcessServer(s))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	// So few events stay stored that the server's memory does not grow with them.
	tr := testOpen(t, Config{Conn: nc, Storage: jetstream.MemoryStorage, MaxAge: time.Second, DedupWindow: 100 * time.Millisecond})
	ctx := t.Context()
	session := func(i int) {
		id := fmt.Sprintf("import/%d", i)
		src, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Session: id})
		require.NoError(t, err)
		served, err := tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do", Session: id}})
		require.NoError(t, err)
		require.NoError(t, tr.Publish(ctx, &transport.Message{To: transport.Address{Session: id, Name: "a.done"}, Body: []byte("x")}))
		d, err := src.Next(ctx)
		require.NoError(t, err)
		require.NoError(t, d.Ack(ctx))
		require.NoError(t, src.(transport.CatchUpper).CatchUp(ctx, 0))
		go func() {
			if r, err := served.Next(ctx); err == nil {
				_ = r.Reply(ctx, &transport.Message{})
			}
		}()
		_, err = tr.Request(ctx, &transport.Message{To: transport.Address{Session: id, Name: "a.do"}, Session: id})
		require.NoError(t, err)
		require.NoError(t, served.Close(context.WithoutCancel(ctx)))
		require.NoError(t, src.Close(context.WithoutCancel(ctx)))
	}
	// What the server keeps of events goes with them.
	forgotten := func() {
		require.Eventually(t, func() bool {
			st, err := tr.link.jetStream().Stream(ctx, tr.names.events())
			return err == nil && st.CachedInfo().State.Msgs == 0
		}, time.Minute, 50*time.Millisecond)
	}
	n := 3_000
	if underRace() {
		n = 500
	}
	warmUp := n / 10
	for i := range warmUp {
		session(i)
	}
	forgotten()
	before := footprintOf(t, s, tr)
	began := time.Now()
	for i := range n {
		session(warmUp + i)
	}
	took := time.Since(began)
	forgotten()
	after := footprintOf(t, s, tr)
	t.Logf("%d sessions in %v: before %+v, after %+v", n, took.Round(time.Millisecond), before, after)
	const some = 10 // goroutines that the server starts now and then
	require.LessOrEqual(t, after.goroutines, before.goroutines+some)
	if !underRace() { // whose own objects grow
		require.LessOrEqual(t, after.heapObjects, before.heapObjects+n/4)
	}
	after.goroutines, after.heapObjects = before.goroutines, before.heapObjects
	require.Equal(t, before, after)
}

// underRace reports whether the race detector is on, which makes a server some
// twenty times slower.
func underRace() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
