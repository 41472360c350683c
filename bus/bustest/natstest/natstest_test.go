package natstest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/bus/bustest/natstest"
)

type OrderPlaced struct{ ID string }

func (OrderPlaced) MessageName() string { return "order.placed" }

var errDown = errors.New("mail server down")

// There is no TestMain: bubbles follow each other, and tests in real time, without
// one.
func TestRun(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			natstest.Run(t, func(t *testing.T, h *bustest.Harness) {
				_, err := bus.Subscribe(t.Context(), h.Bus, func(ctx context.Context, e OrderPlaced) error {
					if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
						return bus.RetryAfter(20*time.Minute, errDown)
					}
					return nil
				})
				require.NoError(t, err)
				began := time.Now()
				require.NoError(t, bus.Publish(t.Context(), h.Bus, OrderPlaced{}, bus.WithDelay(10*time.Minute)))
				bustest.Handled[OrderPlaced](h).None()
				require.Zero(t, time.Since(began))
				h.Advance(10*time.Minute + time.Second)
				bustest.Handled[OrderPlaced](h).One()
				require.Equal(t, 30*time.Minute, time.Since(began).Round(time.Minute))
				bustest.Failed[OrderPlaced](h).One()
			})
		})
		t.Run("in real time", func(t *testing.T) {
			h := natstest.New(t)
			require.NoError(t, bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
			bustest.Published[OrderPlaced](h).One()
		})
	}
}

// Servers of parallel tests know nothing of each other, and their goroutines end.
func TestNew(t *testing.T) {
	t.Run("parallel", func(t *testing.T) {
		for i := range 4 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				h := natstest.New(t)
				other := h.NewBus(bus.Config{Service: "other"})
				_, err := bus.Subscribe(t.Context(), other, func(context.Context, OrderPlaced) error { return nil })
				require.NoError(t, err)
				require.NoError(t, bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
				bustest.Handled[OrderPlaced](h).InGroup("other").One()
			})
		}
	})
}

// recording is a test that ends with its first failure.
type recording struct {
	testing.TB
	message string
}

func (*recording) Helper() {}

func (r *recording) Fatalf(format string, args ...any) {
	r.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestNewInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recording{}
		done := make(chan struct{})
		go func() { defer close(done); natstest.New(r) }()
		<-done
		require.Equal(t, "natstest: New in a bubble of fake time: use Run, which makes the bubble itself", r.message)
	})
}
