package memory

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

// 10,000 sessions, each with a listener that hears an event and has another to be
// retried, and a handler that answers a command, leave nothing behind.
func TestSessionsLeaveNothingBehind(t *testing.T) {
	ctx := t.Context()
	tr := New(Config{MaxHistory: 16, MaxDedup: 16})
	session := func(i int) {
		id := fmt.Sprintf("import/%d", i)
		src, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Session: id})
		require.NoError(t, err)
		served, err := tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do", Session: id}})
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, tr.Publish(ctx, &transport.Message{To: transport.Address{Session: id, Name: "a.done"}, ID: id}))
			require.NoError(t, tr.Publish(ctx, &transport.Message{To: transport.Address{Session: id, Name: "a.done"}, Value: i}))
		}
		d, err := src.Next(ctx)
		require.NoError(t, err)
		require.NoError(t, d.Ack(ctx))
		d, err = src.Next(ctx)
		require.NoError(t, err)
		require.NoError(t, d.Nak(ctx, time.Hour)) // another is never taken
		waiting := make(chan error, 2)
		go func() { waiting <- src.(transport.CatchUpper).CatchUp(ctx, 0) }()
		go func() {
			r, err := served.Next(ctx)
			if err == nil {
				err = r.Reply(ctx, &transport.Message{})
			}
			waiting <- err
		}()
		_, err = tr.Request(ctx, &transport.Message{To: transport.Address{Session: id, Name: "a.do"}, Session: id})
		require.NoError(t, err)
		require.NoError(t, served.Close(ctx))
		require.NoError(t, src.Close(ctx))
		for range 2 {
			if err := <-waiting; err != nil {
				require.ErrorIs(t, err, transport.ErrClosed)
			}
		}
	}
	objects := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapObjects)
	}
	const warmUp, n = 1000, 10_000
	for i := range warmUp {
		session(i)
	}
	goroutines, before := runtime.NumGoroutine(), objects()
	for i := range n {
		session(warmUp + i)
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+2 }, 10*time.Second, time.Millisecond,
		"goroutines: with the one that looks")
	after := objects()
	t.Logf("%d sessions: %d objects before, %d after", n, before, after)
	require.LessOrEqual(t, after, before+n/10, "objects on the heap")
	require.Len(t, tr.topics, 1, "it is one name")
	topic := tr.topics["a.done"]
	require.Empty(t, topic.groups)
	require.Empty(t, topic.private)
	require.Empty(t, topic.sessions)
	require.Empty(t, tr.commands.services)
	require.Equal(t, 16, tr.log.count)
	require.Zero(t, tr.Stats().Events)
	done := make(chan struct{})
	go func() {
		tr.alarms.Wait() // none is set
		close(done)
	}()
	<-done
	require.NoError(t, tr.Close(context.WithoutCancel(ctx)))
}
