// Package natstest runs the harness of package bustest on NATS JetStream: each
// test has a server of its own in this process, in memory and without a port, and
// every bus has a connection of its own to it. The assertions are the same:
//
//	func TestOrders(t *testing.T) {
//		h := natstest.New(t) // instead of bustest.New
//		…
//		bustest.Published[OrderPlaced](h).One()
//	}
//
// Tests with New may be parallel. Tests with Run, in a bubble of fake time, may
// not, and nothing in the process may use nats.go beside them: nats.go keeps one
// pool of timers for the whole process, and none may get into a bubble or out of
// it. A package that uses Run has no parallel tests that use NATS.
package natstest

import (
	"context"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// pingInterval replaces the driver's one second: a pipe in this process tells at
// once when the server is gone, and in fake time a ping a second is half of what
// an idle hour costs.
const pingInterval = time.Minute

// New returns a harness as bustest.New does, on a NATS server of its own that is
// shut down when the test ends. In a bubble of fake time it fails the test: the
// server needs what Run prepares outside.
func New(t testing.TB, opts ...bustest.Option) *bustest.Harness {
	t.Helper()
	if natstest.InBubble() {
		t.Fatalf("natstest: New in a bubble of fake time: use Run, which makes the bubble itself")
	}
	s, err := embedded.Start(embedded.Config{})
	if err != nil {
		t.Fatalf("natstest: start the server: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("natstest: shut the server down: %v", err)
		}
	})
	return on(t, s, opts)
}

// Run runs f with such a harness in a bubble of fake time, as bustest.Run does.
// Simulate hours rather than weeks, above all under the race detector: an idle
// server has timers that fire.
func Run(t *testing.T, f func(t *testing.T, h *bustest.Harness), opts ...bustest.Option) {
	t.Helper()
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) { f(t, on(t, s, opts)) })
}

func on(t testing.TB, s *embedded.Server, opts []bustest.Option) *bustest.Harness {
	t.Helper()
	driver := bustest.WithDriver(func(ctx context.Context) (transport.Transport, error) {
		return nats.Open(ctx, nats.Config{Server: s, Options: []client.Option{client.PingInterval(pingInterval)}})
	})
	return bustest.New(t, append([]bustest.Option{driver, bustest.IgnoreGoroutines(natstest.SourceSetup)}, opts...)...)
}
