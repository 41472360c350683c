package natstest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// Instance is a server that can stop and come back, on the same port and with
// the same data.
type Instance struct {
	t   testing.TB
	cfg embedded.Config

	mu  sync.Mutex
	s   *embedded.Server // nil while stopped
	url string
}

// Server starts a server on a free loopback port, with file streams in a folder
// of the test. It is shut down when the test ends.
func Server(t testing.TB) *Instance {
	t.Helper()
	return Start(t, embedded.Config{Listen: "127.0.0.1:0", Dir: t.TempDir()})
}

// Start is Server with a configuration. Without Listen the server is reached
// through InProcessConn only; without Dir a restart forgets all streams.
func Start(t testing.TB, cfg embedded.Config) *Instance {
	t.Helper()
	s := &Instance{t: t, cfg: cfg}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// URL is where clients connect, the same after a restart.
func (s *Instance) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

// InProcessConn opens a connection through memory to the server that runs now,
// so that a client of it reconnects after a restart too.
func (s *Instance) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.s == nil {
		return nil, embedded.ErrClosed
	}
	return s.s.InProcessConn()
}

// Start starts the stopped server again. The test fails at once if it cannot.
func (s *Instance) Start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.s != nil {
		s.t.Fatal("natstest: the server runs already")
	}
	srv, err := embedded.Start(s.cfg)
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	s.s = srv
	if s.url = srv.ClientURL(); s.url != "" {
		s.cfg.Listen = s.url[len("nats://"):]
	}
}

// Stop shuts the server down and waits for it. Stopping twice is harmless.
func (s *Instance) Stop() {
	s.t.Helper()
	s.mu.Lock()
	srv := s.s
	s.s = nil
	s.mu.Unlock()
	if srv == nil {
		return
	}
	if err := srv.Shutdown(context.Background()); err != nil {
		s.t.Errorf("natstest: %v", err)
	}
}

// Restart stops and starts the server.
func (s *Instance) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// Connect opens a connection over TCP that reconnects at once and for ever, and
// closes it when the test ends.
func (s *Instance) Connect(opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	all := append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(5 * time.Millisecond)}, opts...)
	nc, err := nats.Connect(s.URL(), all...)
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	closeConn(s.t, nc)
	return nc
}
