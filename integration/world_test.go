package integration_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// world is a broker and the processes around it, in a bubble of fake time.
type world struct {
	*testing.T
	inProcess bool // values pass by reference
	open      func() transport.Transport
}

// everywhere runs one behaviour over every transport.
func everywhere(t *testing.T, f func(w *world)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(memoryWorld(t, memory.Config{})) })
	})
	t.Run("memory with codec", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(memoryWorld(t, memory.Config{Codec: codec.JSON})) })
	})
	t.Run("nats", func(t *testing.T) {
		natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
			f(&world{T: t, open: func() transport.Transport {
				tr, err := nats.Open(t.Context(), nats.Config{Server: s})
				require.NoError(t, err)
				return tr
			}})
		})
	})
}

func memoryWorld(t *testing.T, cfg memory.Config) *world {
	tr := memory.New(cfg)
	t.Cleanup(func() { require.NoError(t, tr.Close(context.Background())) })
	return &world{T: t, inProcess: cfg.Codec == nil, open: func() transport.Transport { return shared{tr} }}
}

// shared lets several buses live on one memory transport, as processes do on one
// broker.
type shared struct{ *memory.Transport }

func (shared) Close(context.Context) error { return nil }

// bus starts one more process and closes it when the test ends.
func (w *world) bus(cfg bus.Config) *bus.Bus {
	w.Helper()
	return w.busOn(w.open(), cfg)
}

func (w *world) busOn(tr transport.Transport, cfg bus.Config) *bus.Bus {
	w.Helper()
	if cfg.Service == "" {
		cfg.Service = "svc"
	}
	b, err := bus.New(tr, cfg)
	require.NoError(w, err)
	w.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

// deadLetters waits until n dead letters are stored and returns them.
func (w *world) deadLetters(tr transport.Transport, n int) []*transport.DeadLetter {
	w.Helper()
	for range 600 {
		all, err := tr.DeadLetters().List(w.Context(), transport.DeadLetterQuery{})
		require.NoError(w, err)
		if len(all) >= n {
			require.Len(w, all, n)
			return all
		}
		time.Sleep(100 * time.Millisecond) // fake time
	}
	require.Fail(w, "dead letters missing")
	return nil
}

// record collects what handlers saw.
type record[T any] struct {
	mu    sync.Mutex
	items []T
	added chan struct{}
}

func newRecord[T any]() *record[T] { return &record[T]{added: make(chan struct{}, 10_000)} }

func (r *record[T]) add(v T) {
	r.mu.Lock()
	r.items = append(r.items, v)
	r.mu.Unlock()
	r.added <- struct{}{}
}

// wait returns what was collected once there are n, within a minute.
func (r *record[T]) wait(t testing.TB, n int) []T {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		if all := r.all(); len(all) >= n {
			return all
		}
		select {
		case <-r.added:
		case <-timeout:
			require.Failf(t, "timeout", "%d of %d seen: %v", len(r.all()), n, r.all())
		}
	}
}

func (r *record[T]) all() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]T(nil), r.items...)
}

func (r *record[T]) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = nil
}

// settle lets d of fake time pass, for what must not happen.
func settle(d time.Duration) { time.Sleep(d) }
