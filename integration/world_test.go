package integration_test

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/bus/bustest/natstest"
	servers "github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

func TestMain(m *testing.M) { servers.Main(m) }

// world is a harness with a test in it, in a bubble of fake time. Handlers may fail
// in it.
type world struct {
	*testing.T
	*bustest.Harness
	inProcess bool // values pass by reference
}

// everywhere runs one behaviour over every transport.
func everywhere(t *testing.T, f func(w *world)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := memory.New(memory.Config{})
			t.Cleanup(func() { require.NoError(t, tr.Close(context.Background())) })
			w := newWorld(t, func(context.Context) (transport.Transport, error) { return shared{tr}, nil })
			w.inProcess = true
			f(w)
		})
	})
	everywhereEncoded(t, func(t *testing.T, h *bustest.Harness) { f(&world{T: t, Harness: h}) }, lenient...)
}

var lenient = []bustest.Option{bustest.WithoutBus(), bustest.AllowFailures()}

// newWorld is a world on a driver of the caller's.
func newWorld(t *testing.T, open func(context.Context) (transport.Transport, error)) *world {
	return &world{T: t, Harness: bustest.New(t, append(lenient, bustest.WithDriver(open))...)}
}

// everywhereEncoded runs f with a harness over every transport that the test kit has.
func everywhereEncoded(t *testing.T, f func(t *testing.T, h *bustest.Harness), opts ...bustest.Option) {
	t.Run("memory with codec", func(t *testing.T) { bustest.Run(t, f, opts...) })
	t.Run("nats", func(t *testing.T) { natstest.Run(t, f, opts...) })
}

// shared lets several buses live on one memory transport, as processes do on one
// broker.
type shared struct{ *memory.Transport }

func (shared) Close(context.Context) error { return nil }

// open returns the transport of one more process.
func (w *world) open() transport.Transport {
	w.Helper()
	return w.Transport()
}

// bus starts one more process and closes it when the test ends.
func (w *world) bus(cfg bus.Config) *bus.Bus {
	w.Helper()
	return w.busOn(w.open(), cfg)
}

func (w *world) busOn(tr transport.Transport, cfg bus.Config) *bus.Bus {
	w.Helper()
	if w.Harness == nil {
		return w.bare(tr, cfg)
	}
	joined := w.Join(cfg)
	if w.inProcess {
		joined.Sending, joined.Receiving = cfg.Sending, cfg.Receiving // middleware stands in the way of direct calls
	}
	return w.bare(tr, joined)
}

// bare is busOn for a bus that has nothing of the harness in its configuration.
func (w *world) bare(tr transport.Transport, cfg bus.Config) *bus.Bus {
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

// process is a bus whose transport can fail.
func (w *world) process(service string) (*bus.Bus, *faulty) {
	w.Helper()
	tr := newFaulty(w.open())
	return w.busOn(tr, bus.Config{Service: service}), tr
}

// acrossProcesses is everywhere, without the transport whose processes cannot
// die one by one.
func acrossProcesses(t *testing.T, f func(w *world)) {
	everywhere(t, func(w *world) {
		if !w.inProcess {
			f(w)
		}
	})
}

// session opens a session and closes it when the test ends.
func (w *world) session(b *bus.Bus, id string) *bus.Session {
	w.Helper()
	s, err := b.Session(w.Context(), id)
	require.NoError(w, err)
	w.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
