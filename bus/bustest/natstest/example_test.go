package natstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/bus/bustest/natstest"
)

func ExampleNew() {
	_ = func(t *testing.T) { // func TestOrder(t *testing.T)
		h := natstest.New(t)
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return nil })
		require.NoError(t, err)
		require.NoError(t, bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-1"}))
		bustest.Handled[OrderPlaced](h).One()
	}
}

func ExampleRun() {
	_ = func(t *testing.T) { // func TestReminder(t *testing.T)
		natstest.Run(t, func(t *testing.T, h *bustest.Harness) {
			require.NoError(t, bus.Publish(t.Context(), h.Bus, OrderPlaced{}, bus.WithDelay(time.Hour)))
			h.Advance(time.Hour)
			bustest.Handled[OrderPlaced](h).None() // nobody listens
		})
	}
}
