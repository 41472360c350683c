package pressure_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/bus/bustest/natstest"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

// held is how many of 300 events one process has, running or not, while its handler
// hangs, however quick that was before: another process of the group gets the rest.
func held(w *world.World, opts ...bus.SubscribeOption) int {
	w.Helper()
	const quick, more = 2000, 300
	publisher := w.Bus(bus.Config{Service: "publisher"})
	publish := func(n int) {
		for range n {
			require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{}))
		}
	}
	var hangs atomic.Bool
	ran := world.NewRecord[int]()
	_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{CloseTimeout: time.Millisecond}), func(ctx context.Context, _ world.UserCreated) error {
		if hangs.Load() {
			<-ctx.Done()
			return ctx.Err()
		}
		ran.Add(1)
		return nil
	}, opts...)
	require.NoError(w, err)
	for range quick {
		publish(1)
		time.Sleep(100 * time.Microsecond)
	}
	ran.Wait(w, quick)
	hangs.Store(true)
	publish(more)
	world.Settle(time.Second)
	others := world.NewRecord[int]()
	_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), func(context.Context, world.UserCreated) error { others.Add(1); return nil })
	require.NoError(w, err)
	world.Settle(time.Second)
	return more - len(others.All())
}

// What a process holds and does not run others could do.
func TestPrefetchIsTwiceTheWorkers(t *testing.T) {
	for name, c := range map[string]struct {
		opts    []bus.SubscribeOption
		workers int
	}{
		"by default": {nil, 16},
		"one":        {[]bus.SubscribeOption{bus.WithConcurrency(1)}, 1},
		"forty":      {[]bus.SubscribeOption{bus.WithConcurrency(40)}, 40},
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				n := held(w, c.opts...)
				require.GreaterOrEqual(w, n, c.workers, "they run")
				require.LessOrEqual(w, n, c.workers+2*c.workers)
			})
		})
	}
}

func TestPrefetchAsAsked(t *testing.T) {
	natstest.Run(t, func(t *testing.T, h *bustest.Harness) {
		n := held(&world.World{T: t, Harness: h}, bus.WithConcurrency(1), bus.WithPrefetch(200))
		require.Greater(t, n, 50)
		require.LessOrEqual(t, n, 1+200)
	}, bustest.WithoutBus(), bustest.AllowFailures())
}

func TestPrefetchThatIsNone(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ignore := func(context.Context, world.UserCreated) error { return nil }
		for text, opts := range map[string][]bus.SubscribeOption{
			"prefetch 0 is not between 1 and 10000":     {bus.WithPrefetch(0)},
			"prefetch 10001 is not between 1 and 10000": {bus.WithPrefetch(10_001)},
			"has its events to itself":                  {bus.WithPrefetch(10), bus.WithPrivate()},
		} {
			_, err := bus.Subscribe(w.Context(), b, ignore, opts...)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorContains(w, err, text)
		}
		_, err := bus.Subscribe(w.Context(), w.Session(b, "s"), ignore, bus.WithPrefetch(10))
		require.ErrorContains(w, err, "has its events to itself")
		_, err = bus.Subscribe(w.Context(), b, ignore, bus.WithName("first"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, ignore, bus.WithName("second"), bus.WithPrefetch(10))
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		require.ErrorContains(w, err, "for its first handler")
	})
}
