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
	"github.com/jitney-bus/jitney/integration/internal/world"
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
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed), bus.WithPrivate())
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
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
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.NoError(w, err, "everything goes on")
		require.NoError(w, b.Close(context.Background()))
		h = b.Health(w.Context())
		require.ErrorContains(w, h.Err(), "bus: closed")
	})
}

func TestHealthOfReadersThatFail(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed))
		require.NoError(w, err)
		tr.Set(world.Failing("next", transport.ErrUnavailable))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}), "who waits in Next finds out")
		world.Settle(10 * time.Second)
		require.Equal(w, bus.Degraded, conditions(b.Health(w.Context()))["readers"])
		tr.Set(nil)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(10 * time.Second)
		require.Equal(w, bus.OK, conditions(b.Health(w.Context()))["readers"])
	})
}

// Readiness fails before the bus takes no more work, for as long as DrainDelay.
func TestRunDrainsFirst(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{DrainDelay: 10 * time.Second})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		probes := health.New(b, health.Config{})
		defer probes.Close()
		ready := func() int {
			r := httptest.NewRecorder()
			probes.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			return r.Code
		}
		world.Settle(time.Second)
		require.Equal(w, 200, ready())
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error, 1)
		go func() { ran <- b.Run(ctx) }()
		cancel()
		world.Settle(time.Millisecond)
		for range 9 {
			require.Equal(w, 503, ready())
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
			require.NoError(w, err, "it still takes work")
			world.Settle(time.Second)
		}
		world.Settle(5 * time.Second)
		require.NoError(w, <-ran)
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.ErrorIs(w, err, bus.ErrClosed)
		require.Equal(w, 503, ready())
	})
}
