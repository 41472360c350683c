package natstest

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// Bubble runs f in a synctest bubble with an empty server in memory. Close in f
// every connection that it opens, also with t.Cleanup; the server is shut down
// after that. Simulate minutes rather than days under the race detector: an idle
// server has timers that fire. Nothing else that uses nats.go may run meanwhile.
//
// The race detector of Go 1.26 itself may crash in a bubble, with a SIGSEGV below
// runtime.(*timer).maybeRunChan or "ThreadSanitizer: CHECK failed": two goroutines
// that look at expired timers at the same moment share one of its threads. It is
// seldom, and GOMAXPROCS=1 keeps it away.
func Bubble(t *testing.T, f func(t *testing.T, s *embedded.Server)) {
	t.Helper()
	ats.Register() // before a server does, inside
	defer ats.Unregister()
	DropPooledTimers()
	defer DropPooledTimers()
	synctest.Test(t, func(t *testing.T) {
		s, err := embedded.Start(embedded.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			// A stream that was about to read another one waits for an answer that
			// no longer comes; the bubble must not end before it gives up.
			time.Sleep(time.Minute)
		})
		f(t, s)
	})
}

// Outside does what has to be done outside of bubbles that start servers of their
// own, for as long as t runs. Bubble does the same by itself.
func Outside(t testing.TB) {
	ats.Register() // before a server does, inside
	t.Cleanup(ats.Unregister)
	DropPooledTimers()
	t.Cleanup(DropPooledTimers)
}

// DropPooledTimers empties nats.go's sync.Pool, so that no timer gets from one
// bubble into another: what a pool holds survives one collection and not two.
func DropPooledTimers() {
	runtime.GC()
	runtime.GC()
}

// Connect opens a connection to s through memory and closes it when the test
// ends.
func Connect(t testing.TB, s nats.InProcessConnProvider, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", append([]nats.Option{nats.InProcessServer(s)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	closeConn(t, nc)
	return nc
}

// closeConn closes nc when the test ends, and waits until its goroutines have.
func closeConn(t testing.TB, nc *nats.Conn) {
	closed := make(chan struct{})
	before := nc.Opts.ClosedCB
	nc.SetClosedHandler(func(nc *nats.Conn) {
		if before != nil {
			before(nc)
		}
		close(closed)
	})
	t.Cleanup(func() {
		if !nc.IsClosed() {
			nc.Close()
		}
		<-closed
	})
}

// InBubble reports whether the calling goroutine is in a bubble.
func InBubble() (yes bool) {
	defer func() { yes = recover() == nil }()
	synctest.Wait() // panics outside
	return true
}
