package integration_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

// again publishes an event under its id once the log has forgotten that it has it.
func (w *world) again(b *bus.Bus, id string) {
	w.Helper()
	settle(3 * time.Minute)
	require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: userID(id)}, bus.WithID(id)))
}

// A failed event is not remembered: it runs again, and what comes after its success
// is dropped.
func TestDeduplicateRecordsSuccessOnly(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Receiving: []bus.Middleware{middleware.Deduplicate(time.Hour)}})
		runs := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			runs.add(m.Attempt)
			if m.Attempt == 1 && len(runs.all()) == 1 {
				return errOops
			}
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "e1"}, bus.WithID("e1")))
		require.Equal(w, []int{1, 2}, runs.wait(w, 2), "it failed and ran again")
		w.again(b, "e1")
		settle(time.Minute)
		require.Len(w, runs.all(), 2, "the copy is dropped")
		w.again(b, "e2")
		require.Len(w, runs.wait(w, 3), 3)
		settle(time.Hour)
		w.again(b, "e1")
		require.Len(w, runs.wait(w, 4), 4, "the window has passed")

		w.deadLetters(tr, 0)
		// What was dropped is acknowledged: another process of the group gets nothing.
		require.NoError(w, b.Close(w.Context()))
		other := newRecord[int]()
		_, err = bus.Subscribe(w.Context(), w.bus(bus.Config{}), func(context.Context, userCreated) error { other.add(1); return nil })
		require.NoError(w, err)
		settle(5 * time.Minute)
		require.Empty(w, other.all())
	})
}

// One Deduplicate for the whole bus does not take one listener's success for
// another's.
func TestDeduplicateTellsListenersApart(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{Receiving: []bus.Middleware{middleware.Deduplicate(time.Hour)}})
		heard := newRecord[string]()
		for name, opts := range map[string][]bus.SubscribeOption{
			"first":        {bus.WithName("first")},
			"second":       {bus.WithName("second")},
			"other group":  {bus.WithGroup("other"), bus.WithName("first")},
			"private":      {bus.WithPrivate()},
			"private too":  {bus.WithPrivate()},
			"with failure": {bus.WithName("fails")},
		} {
			fails := name == "with failure"
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
				heard.add(name)
				if fails {
					fails = false
					return errOops
				}
				return nil
			}, opts...)
			require.NoError(w, err)
		}
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e1")))
		all := []string{"first", "second", "other group", "private", "private too", "with failure", "with failure"}
		require.ElementsMatch(w, all, heard.wait(w, len(all)))
		w.again(b, "e1")
		settle(time.Minute)
		require.Len(w, heard.all(), len(all))
	})
}

// A copy that comes while the first is handled waits for it, and takes its turn if
// it fails.
func TestDeduplicateOfACopyMeanwhile(t *testing.T) {
	for _, fails := range []bool{false, true} {
		everywhere(t, func(w *world) {
			b := w.bus(bus.Config{})
			var now atomic.Int32
			runs := newRecord[int]()
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				require.Equal(w, int32(1), now.Add(1), "never two at once")
				defer now.Add(-1)
				time.Sleep(5 * time.Minute)
				m, _ := bus.MetaFrom(ctx)
				runs.add(m.Attempt)
				if fails && len(runs.all()) == 1 {
					return errOops
				}
				return nil
			}, bus.WithMiddleware(middleware.Deduplicate(time.Hour)))
			require.NoError(w, err)
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e1")))
			w.again(b, "e1")
			settle(20 * time.Minute)
			if fails {
				require.Equal(w, []int{1, 1}, runs.all(), "the copy ran, and then the first found that it is done")
			} else {
				require.Equal(w, []int{1}, runs.all())
			}
		})
	}
}

// With a store that processes share, one knows what another has handled.
func TestDeduplicateAcrossProcesses(t *testing.T) {
	everywhere(t, func(w *world) {
		runs := newRecord[string]()
		process := func(name string) *bus.Bus {
			tr := w.open()
			b := w.busOn(tr, bus.Config{Receiving: []bus.Middleware{
				middleware.Deduplicate(time.Hour, middleware.DedupStore(tr.Store(), nil)),
			}})
			_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error {
				runs.add(name + " " + string(e.ID))
				if len(runs.all()) == 1 {
					return errOops
				}
				return nil
			})
			require.NoError(w, err)
			return b
		}
		sender := w.bus(bus.Config{Service: "sender"})
		first := process("first")
		require.NoError(w, bus.Publish(w.Context(), sender, userCreated{ID: "e1"}, bus.WithID("e1")))
		require.Equal(w, []string{"first e1", "first e1"}, runs.wait(w, 2))
		settle(time.Second)
		require.NoError(w, first.Close(w.Context()))
		process("second")
		w.again(sender, "e1")
		w.again(sender, "e2")
		require.Equal(w, []string{"first e1", "first e1", "second e2"}, runs.wait(w, 3))
		settle(2 * time.Hour)
		w.again(sender, "e1")
		require.Equal(w, "second e1", runs.wait(w, 4)[3], "the store forgets, too")
	})
}

// In a batch each event is remembered, or not, for itself.
func TestDeduplicateOfABatch(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{Receiving: []bus.Middleware{middleware.Deduplicate(time.Hour)}})
		runs := listenBatch(w, b, func(ctx context.Context, events []userCreated) error {
			if len(events) == 3 {
				return bus.ItemErrors{1: errOops}
			}
			return nil
		})
		publish := func(ids ...string) {
			settle(3 * time.Minute) // the log has forgotten the ids
			for _, id := range ids {
				require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: userID(id)}, bus.WithID(id)))
			}
			settle(time.Minute)
		}
		publish("a", "b", "c")
		require.Equal(w, []string{"a b c", "b#2"}, batches(runs.all()), "what failed ran again")
		publish("c", "b", "d", "a")
		require.Equal(w, []string{"a b c", "b#2", "d"}, batches(runs.all()), "the others are dropped")
		settle(time.Hour)
		publish("a", "d")
		require.Equal(w, []string{"a b c", "b#2", "d", "a d"}, batches(runs.all()), "the window has passed")
	})
}
