package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

func TestListenerThatIsAddedGetsWorkersOfItsOwn(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		slow, wide := newRecord[int](), newRecord[int]()
		release := make(chan struct{})
		defer close(release)
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
			slow.add(1)
			<-release
			return nil
		}, bus.WithName("slow"), bus.WithConcurrency(1))
		require.NoError(w, err)
		for range 5 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		}
		slow.wait(w, 1)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { wide.add(1); return nil },
			bus.WithName("wide"), bus.WithConcurrency(16))
		require.NoError(w, err)
		wide.wait(w, 4)
		settle(time.Minute)
		require.Len(w, slow.all(), 1)
	})
}

// What waits for its turn when the bus closes has not started: it goes back, and
// no listener of a lower priority sees it first.
func TestCloseHandsBackWhatWaitsForItsTurn(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{CloseTimeout: time.Hour})
		narrow, wide, other := newRecord[int](), newRecord[int](), newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(narrow, func(int) error { time.Sleep(time.Minute); return nil }),
			bus.WithName("narrow"), bus.WithPriority(100), bus.WithConcurrency(1))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, attempts(wide, succeed), bus.WithName("wide"))
		require.NoError(w, err)
		for range 10 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		}
		narrow.wait(w, 1)
		settle(time.Second)
		began := time.Now()
		closed := make(chan error, 1)
		go func() { closed <- b.Close(w.Context()) }()
		settle(time.Second)
		_, err = bus.Subscribe(w.Context(), w.bus(bus.Config{}), attempts(other, succeed))
		require.NoError(w, err)
		other.wait(w, 9)
		require.Less(w, time.Since(began), 30*time.Second, "at once")
		require.NoError(w, <-closed)
		require.LessOrEqual(w, time.Since(began), time.Minute, "it waits for what runs only")
		require.Len(w, narrow.all(), 1)
		require.Len(w, wide.all(), 1, "of the event that had begun")
		settle(5 * time.Minute)
		require.Equal(w, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, other.all(), "whole, and no attempt used up")
	})
}
