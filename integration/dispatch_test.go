package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

func TestListenerThatIsAddedGetsWorkersOfItsOwn(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		slow, wide := world.NewRecord[int](), world.NewRecord[int]()
		release := make(chan struct{})
		defer close(release)
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			slow.Add(1)
			<-release
			return nil
		}, bus.WithName("slow"), bus.WithConcurrency(1))
		require.NoError(w, err)
		for range 5 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		slow.Wait(w, 1)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { wide.Add(1); return nil },
			bus.WithName("wide"), bus.WithConcurrency(16))
		require.NoError(w, err)
		wide.Wait(w, 4)
		world.Settle(time.Minute)
		require.Len(w, slow.All(), 1)
	})
}

// What waits for its turn when the bus closes has not started: it goes back, and
// no listener of a lower priority sees it first.
func TestCloseHandsBackWhatWaitsForItsTurn(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CloseTimeout: time.Hour})
		narrow, wide, other := world.NewRecord[int](), world.NewRecord[int](), world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(narrow, func(int) error { time.Sleep(time.Minute); return nil }),
			bus.WithName("narrow"), bus.WithPriority(100), bus.WithConcurrency(1))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, attempts(wide, succeed), bus.WithName("wide"))
		require.NoError(w, err)
		for range 10 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		narrow.Wait(w, 1)
		world.Settle(time.Second)
		began := time.Now()
		closed := make(chan error, 1)
		go func() { closed <- b.Close(w.Context()) }()
		world.Settle(time.Second)
		_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), attempts(other, succeed))
		require.NoError(w, err)
		other.Wait(w, 9)
		require.Less(w, time.Since(began), 30*time.Second, "at once")
		require.NoError(w, <-closed)
		require.LessOrEqual(w, time.Since(began), time.Minute, "it waits for what runs only")
		require.Len(w, narrow.All(), 1)
		require.Len(w, wide.All(), 1, "of the event that had begun")
		world.Settle(5 * time.Minute)
		require.Equal(w, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, other.All(), "whole, and no attempt used up")
	})
}
