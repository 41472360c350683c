package integration_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/health"
	"github.com/jitney-bus/jitney/transport"
)

func conditions(h bus.Health) map[string]bus.Condition {
	m := map[string]bus.Condition{}
	for _, c := range h.Checks {
		m[c.Name] = c.Condition
	}
	return m
}

func TestHealth(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, attempts(newRecord[int](), succeed))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, attempts(newRecord[int](), succeed), bus.WithPrivate())
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, create))
		h := b.Health(w.Context())
		require.Equal(w, bus.OK, h.Condition, "%v", h)
		require.True(w, h.Ready())
		require.NoError(w, h.Err())
		require.False(w, h.Time.IsZero())
		require.Greater(w, len(h.Checks), 3, "those of the transport too")
		text, err := json.Marshal(h)
		require.NoError(w, err)
		var back bus.Health
		require.NoError(w, json.Unmarshal(text, &back))
		require.Equal(w, h.Checks, back.Checks)

		b.Drain()
		require.True(w, b.Draining())
		h = b.Health(w.Context())
		require.Equal(w, bus.Unavailable, h.Condition)
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(h.Err()))
		require.ErrorContains(w, h.Err(), "bus: draining")
		_, err = bus.Execute(w.Context(), b, createUser{Name: "ada"})
		require.NoError(w, err, "everything goes on")
		require.NoError(w, b.Close(context.Background()))
		h = b.Health(w.Context())
		require.ErrorContains(w, h.Err(), "bus: closed")
	})
}

func TestHealthOfReadersThatFail(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, attempts(newRecord[int](), succeed))
		require.NoError(w, err)
		tr.set(failing("next", transport.ErrUnavailable))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}), "who waits in Next finds out")
		settle(10 * time.Second)
		require.Equal(w, bus.Degraded, conditions(b.Health(w.Context()))["readers"])
		tr.set(nil)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(10 * time.Second)
		require.Equal(w, bus.OK, conditions(b.Health(w.Context()))["readers"])
	})
}

// Readiness fails before the bus takes no more work, for as long as DrainDelay.
func TestRunDrainsFirst(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{DrainDelay: 10 * time.Second})
		require.NoError(w, bus.Handle(w.Context(), b, create))
		probes := health.New(b, health.Config{})
		defer probes.Close()
		ready := func() int {
			r := httptest.NewRecorder()
			probes.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			return r.Code
		}
		settle(time.Second)
		require.Equal(w, 200, ready())
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error, 1)
		go func() { ran <- b.Run(ctx) }()
		cancel()
		settle(time.Millisecond)
		for range 9 {
			require.Equal(w, 503, ready())
			_, err := bus.Execute(w.Context(), b, createUser{Name: "ada"})
			require.NoError(w, err, "it still takes work")
			settle(time.Second)
		}
		settle(5 * time.Second)
		require.NoError(w, <-ran)
		_, err := bus.Execute(w.Context(), b, createUser{Name: "ada"})
		require.ErrorIs(w, err, bus.ErrClosed)
		require.Equal(w, 503, ready())
	})
}
