// Package world is what the tests of the bus are written in: a behaviour is one
// function, and [Everywhere] runs it over every transport in a bubble of fake
// time.
package world

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/bus/bustest/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// World is a harness with a test in it, in a bubble of fake time. Handlers may fail
// in it.
type World struct {
	*testing.T
	*bustest.Harness
	InProcess bool // values pass by reference
}

// Everywhere runs one behaviour over every transport.
func Everywhere(t *testing.T, f func(w *World)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := memory.New(memory.Config{})
			t.Cleanup(func() { require.NoError(t, tr.Close(context.Background())) })
			w := New(t, func(context.Context) (transport.Transport, error) { return Shared{tr}, nil })
			w.InProcess = true
			f(w)
		})
	})
	EverywhereEncoded(t, func(t *testing.T, h *bustest.Harness) { f(&World{T: t, Harness: h}) }, lenient...)
}

var lenient = []bustest.Option{bustest.WithoutBus(), bustest.AllowFailures()}

// New is a world on a driver of the caller's.
func New(t *testing.T, open func(context.Context) (transport.Transport, error)) *World {
	return &World{T: t, Harness: bustest.New(t, append(lenient, bustest.WithDriver(open))...)}
}

// EverywhereEncoded runs f with a harness over every transport that the test kit has.
func EverywhereEncoded(t *testing.T, f func(t *testing.T, h *bustest.Harness), opts ...bustest.Option) {
	t.Run("memory with codec", func(t *testing.T) { bustest.Run(t, f, opts...) })
	t.Run("nats", func(t *testing.T) { natstest.Run(t, f, opts...) })
}

// Shared lets several buses live on one memory transport, as processes do on one
// broker.
type Shared struct{ *memory.Transport }

// Close does nothing: whoever made the memory transport closes it.
func (Shared) Close(context.Context) error { return nil }

// Open returns the transport of one more process.
func (w *World) Open() transport.Transport {
	w.Helper()
	return w.Transport()
}

// Bus starts one more process and closes it when the test ends.
func (w *World) Bus(cfg bus.Config) *bus.Bus {
	w.Helper()
	return w.BusOn(w.Open(), cfg)
}

// BusOn is Bus on a transport of the caller's.
func (w *World) BusOn(tr transport.Transport, cfg bus.Config) *bus.Bus {
	w.Helper()
	if w.Harness == nil {
		return w.Bare(tr, cfg)
	}
	joined := w.Join(cfg)
	if w.InProcess {
		joined.Sending, joined.Receiving = cfg.Sending, cfg.Receiving // middleware stands in the way of direct calls
	}
	return w.Bare(tr, joined)
}

// Bare is BusOn for a bus that has nothing of the harness in its configuration.
func (w *World) Bare(tr transport.Transport, cfg bus.Config) *bus.Bus {
	w.Helper()
	if cfg.Service == "" {
		cfg.Service = "svc"
	}
	b, err := bus.New(tr, cfg)
	require.NoError(w, err)
	w.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

// DeadLetters waits until n dead letters are stored and returns them.
func (w *World) DeadLetters(tr transport.Transport, n int) []*transport.DeadLetter {
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

// Settle lets d of fake time pass, for what must not happen.
func Settle(d time.Duration) { time.Sleep(d) }

// Process is a bus whose transport can fail.
func (w *World) Process(service string) (*bus.Bus, *Faulty) {
	w.Helper()
	tr := NewFaulty(w.Open())
	return w.BusOn(tr, bus.Config{Service: service}), tr
}

// AcrossProcesses is Everywhere, without the transport whose processes cannot
// die one by one.
func AcrossProcesses(t *testing.T, f func(w *World)) {
	Everywhere(t, func(w *World) {
		if !w.InProcess {
			f(w)
		}
	})
}

// Session opens a session and closes it when the test ends.
func (w *World) Session(b *bus.Bus, id string) *bus.Session {
	w.Helper()
	s, err := b.Session(w.Context(), id)
	require.NoError(w, err)
	w.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}
