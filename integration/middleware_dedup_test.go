package integration_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

// again publishes an event under its id once the log has forgotten that it has it.
func again(w *world.World, b *bus.Bus, id string) {
	w.Helper()
	world.Settle(3 * time.Minute)
	require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(id)}, bus.WithID(id)))
}

// A failed event is not remembered: it runs again, and what comes after its success
// is dropped.
func TestDeduplicateRecordsSuccessOnly(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Receiving: []bus.Middleware{middleware.Deduplicate(time.Hour)}})
		runs := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			runs.Add(m.Attempt)
			if m.Attempt == 1 && len(runs.All()) == 1 {
				return world.ErrOops
			}
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "e1"}, bus.WithID("e1")))
		require.Equal(w, []int{1, 2}, runs.Wait(w, 2), "it failed and ran again")
		again(w, b, "e1")
		world.Settle(time.Minute)
		require.Len(w, runs.All(), 2, "the copy is dropped")
		again(w, b, "e2")
		require.Len(w, runs.Wait(w, 3), 3)
		world.Settle(time.Hour)
		again(w, b, "e1")
		require.Len(w, runs.Wait(w, 4), 4, "the window has passed")

		w.DeadLetters(tr, 0)
		// What was dropped is acknowledged: another process of the group gets nothing.
		require.NoError(w, b.Close(w.Context()))
		other := world.NewRecord[int]()
		_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), func(context.Context, world.UserCreated) error { other.Add(1); return nil })
		require.NoError(w, err)
		world.Settle(5 * time.Minute)
		require.Empty(w, other.All())
	})
}

// One Deduplicate for the whole bus does not take one listener's success for
// another's.
func TestDeduplicateTellsListenersApart(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Receiving: []bus.Middleware{middleware.Deduplicate(time.Hour)}})
		heard := world.NewRecord[string]()
		for name, opts := range map[string][]bus.SubscribeOption{
			"first":        {bus.WithName("first")},
			"second":       {bus.WithName("second")},
			"other group":  {bus.WithGroup("other"), bus.WithName("first")},
			"private":      {bus.WithPrivate()},
			"private too":  {bus.WithPrivate()},
			"with failure": {bus.WithName("fails")},
		} {
			fails := name == "with failure"
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
				heard.Add(name)
				if fails {
					fails = false
					return world.ErrOops
				}
				return nil
			}, opts...)
			require.NoError(w, err)
		}
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e1")))
		all := []string{"first", "second", "other group", "private", "private too", "with failure", "with failure"}
		require.ElementsMatch(w, all, heard.Wait(w, len(all)))
		again(w, b, "e1")
		world.Settle(time.Minute)
		require.Len(w, heard.All(), len(all))
	})
}

// A copy that comes while the first is handled waits for it, and takes its turn if
// it fails.
func TestDeduplicateOfACopyMeanwhile(t *testing.T) {
	for _, fails := range []bool{false, true} {
		world.Everywhere(t, func(w *world.World) {
			b := w.Bus(bus.Config{})
			var now atomic.Int32
			runs := world.NewRecord[int]()
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				require.Equal(w, int32(1), now.Add(1), "never two at once")
				defer now.Add(-1)
				time.Sleep(5 * time.Minute)
				m, _ := bus.MetaFrom(ctx)
				runs.Add(m.Attempt)
				if fails && len(runs.All()) == 1 {
					return world.ErrOops
				}
				return nil
			}, bus.WithMiddleware(middleware.Deduplicate(time.Hour)))
			require.NoError(w, err)
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e1")))
			again(w, b, "e1")
			world.Settle(20 * time.Minute)
			if fails {
				require.Equal(w, []int{1, 1}, runs.All(), "the copy ran, and then the first found that it is done")
			} else {
				require.Equal(w, []int{1}, runs.All())
			}
		})
	}
}

// With a store that processes share, one knows what another has handled.
func TestDeduplicateAcrossProcesses(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		runs := world.NewRecord[string]()
		process := func(name string) *bus.Bus {
			tr := w.Open()
			b := w.BusOn(tr, bus.Config{Receiving: []bus.Middleware{
				middleware.Deduplicate(time.Hour, middleware.DedupStore(tr.Store(), nil)),
			}})
			_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
				runs.Add(name + " " + string(e.ID))
				if len(runs.All()) == 1 {
					return world.ErrOops
				}
				return nil
			})
			require.NoError(w, err)
			return b
		}
		sender := w.Bus(bus.Config{Service: "sender"})
		first := process("first")
		require.NoError(w, bus.Publish(w.Context(), sender, world.UserCreated{ID: "e1"}, bus.WithID("e1")))
		require.Equal(w, []string{"first e1", "first e1"}, runs.Wait(w, 2))
		world.Settle(time.Second)
		require.NoError(w, first.Close(w.Context()))
		process("second")
		again(w, sender, "e1")
		again(w, sender, "e2")
		require.Equal(w, []string{"first e1", "first e1", "second e2"}, runs.Wait(w, 3))
		world.Settle(time.Hour + time.Minute)
		again(w, sender, "e1")
		require.Equal(w, "second e1", runs.Wait(w, 4)[3], "the store forgets, too")
	})
}

// In a batch each event is remembered, or not, for itself.
func TestDeduplicateOfABatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Receiving: []bus.Middleware{middleware.Deduplicate(time.Hour)}})
		runs := listenBatch(w, b, func(ctx context.Context, events []world.UserCreated) error {
			if len(events) == 3 {
				return bus.ItemErrors{1: world.ErrOops}
			}
			return nil
		})
		publish := func(ids ...string) {
			world.Settle(3 * time.Minute) // the log has forgotten the ids
			for _, id := range ids {
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(id)}, bus.WithID(id)))
			}
			world.Settle(time.Minute)
		}
		publish("a", "b", "c")
		require.Equal(w, []string{"a b c", "b#2"}, batches(runs.All()), "what failed ran again")
		publish("c", "b", "d", "a")
		require.Equal(w, []string{"a b c", "b#2", "d"}, batches(runs.All()), "the others are dropped")
		world.Settle(time.Hour)
		publish("a", "d")
		require.Equal(w, []string{"a b c", "b#2", "d", "a d"}, batches(runs.All()), "the window has passed")
	})
}
