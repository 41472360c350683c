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
