package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// batchRun is one run of a batch handler: the ids of the events, each with its
// attempt if that is above 1, and when it began.
type batchRun struct {
	ids string
	at  time.Time
}

// listenBatch subscribes a batch handler that records its runs and returns what fn
// says.
func listenBatch(w *world.World, s bus.Scope, fn func(ctx context.Context, events []world.UserCreated) error, opts ...bus.BatchOption) *world.Record[batchRun] {
	w.Helper()
	runs := world.NewRecord[batchRun]()
	_, err := bus.SubscribeBatch(w.Context(), s, func(ctx context.Context, events []world.UserCreated) error {
		runs.Add(batchRun{batchIDs(ctx, events), time.Now()})
		if fn == nil {
			return nil
		}
		return fn(ctx, events)
	}, opts...)
	require.NoError(w, err)
	return runs
}

func batchIDs(ctx context.Context, events []world.UserCreated) string {
	var ids []string
	for i, e := range events {
		id := string(e.ID)
		if m, _ := bus.MetaAt(ctx, i); m.Attempt > 1 {
			id += fmt.Sprint("#", m.Attempt)
		}
		ids = append(ids, id)
	}
	return strings.Join(ids, " ")
}

func batches(runs []batchRun) (ids []string) {
	for _, r := range runs {
		ids = append(ids, r.ids)
	}
	return ids
}

func publishIDs(w *world.World, s bus.Scope, ids ...string) {
	w.Helper()
	for _, id := range ids {
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{ID: world.UserID(id)}))
	}
}

// eventOf is the event of a dead letter.
func eventOf(w *world.World, d *transport.DeadLetter) (e world.UserCreated) {
	w.Helper()
	if v, ok := d.Message.Value.(world.UserCreated); ok {
		return v
	}
	require.NoError(w, json.Unmarshal(d.Message.Body, &e))
	return e
}

var thrice = bus.WithRetry(resilience.Retry{MaxRetries: 2, Initial: time.Second, Base: 1, Jitter: resilience.NoJitter})

func TestBatchIsBoundedByItsSize(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		runs := listenBatch(w, b, nil, bus.WithBatchSize(3), bus.WithLinger(time.Minute))
		publishIDs(w, b, "a", "b", "c", "d", "e", "f", "g")
		require.Equal(w, []string{"a b c", "d e f"}, batches(runs.Wait(w, 2)))
		world.Settle(50 * time.Second)
		require.Len(w, runs.All(), 2)
		world.Settle(20 * time.Second)
		require.Equal(w, []string{"a b c", "d e f", "g"}, batches(runs.All()))
	})
}

func TestBatchIsBoundedByItsTime(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		runs := listenBatch(w, b, nil)
		for i := range 3 {
			world.Settle(time.Second)
			began := time.Now()
			publishIDs(w, b, "a")
			world.Settle(60 * time.Millisecond)
			publishIDs(w, b, "b")
			world.Settle(39 * time.Millisecond)
			require.Len(w, runs.All(), i)
			world.Settle(2 * time.Millisecond)
			require.Len(w, runs.All(), i+1)
			require.Equal(w, batchRun{"a b", began.Add(100 * time.Millisecond)}, runs.All()[i])
		}
	})
}

func TestBatchIsBoundedByItsBytes(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		runs := listenBatch(w, b, nil, bus.WithBatchBytes(250), bus.WithLinger(time.Minute))
		for i, n := range []int{80, 80, 80, 500, 10} {
			e := world.UserCreated{ID: world.UserID(fmt.Sprint(i)), Note: strings.Repeat("x", n)}
			require.NoError(w, bus.Publish(w.Context(), b, e))
		}
		world.Settle(50 * time.Second)
		if w.InProcess { // nothing is encoded, so nothing is measured
			require.Empty(w, runs.All())
			return
		}
		require.Equal(w, []string{"0 1", "2", "3"}, batches(runs.All()), "none over the limit but one event that is")
		world.Settle(20 * time.Second)
		require.Equal(w, []string{"0 1", "2", "3", "4"}, batches(runs.All()))
		for _, n := range []int{500, 150, 80} { // over it, and exactly full
			e := world.UserCreated{ID: "last", Note: strings.Repeat("x", n)}
			if n == 80 {
				e.Note = strings.Repeat("x", 250-2*len(`{"ID":"last","Note":""}`)-150)
			}
			require.NoError(w, bus.Publish(w.Context(), b, e))
		}
		world.Settle(time.Second)
		require.Equal(w, []string{"last", "last last"}, batches(runs.All()[4:]), "what is full does not wait")
	})
}

// Only what failed comes again, and becomes a dead letter after its own attempts.
func TestItemErrorsFailOnlyTheirEvents(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		runs := listenBatch(w, b, func(_ context.Context, events []world.UserCreated) error {
			failed := bus.ItemErrors{}
			for i, e := range events {
				if strings.HasPrefix(string(e.ID), "bad") {
					failed[i] = fmt.Errorf("%s: %w", e.ID, world.ErrOops)
				}
			}
			return failed
		}, thrice)
		publishIDs(w, b, "a", "bad1", "b", "bad2", "c")
		world.Settle(time.Minute)
		all := batches(runs.All())
		require.Equal(w, "a bad1 b bad2 c", all[0])
		again := slices.Sorted(slices.Values(strings.Fields(strings.Join(all[1:], " "))))
		require.Equal(w, []string{"bad1#2", "bad1#3", "bad2#2", "bad2#3"}, again, "nothing else ran again")
		var dead []string
		for _, d := range w.DeadLetters(tr, 2) {
			require.Equal(w, 3, d.Attempts)
			require.Equal(w, []string{"svc", "default"}, []string{d.Group, d.Handler})
			dead = append(dead, d.Error)
		}
		require.ElementsMatch(w, []string{"bad1: oops", "bad2: oops"}, dead)
	})
}

// What a batch handler returns, and what becomes of the events a, b and c.
func TestBatchHandlersSteerEachEvent(t *testing.T) {
	cases := map[string]struct {
		first func() error
		again string // what ran again within a second
		later string // after that
		dead  string
	}{
		"nil":             {func() error { return nil }, "", "", ""},
		"error":           {func() error { return world.ErrOops }, "a b c", "", ""},
		"permanent":       {func() error { return bus.Permanent(world.ErrOops) }, "", "", "a b c"},
		"after a while":   {func() error { return bus.RetryAfter(20*time.Second, world.ErrOops) }, "", "a b c", ""},
		"panic":           {func() error { panic("boom") }, "a b c", "", ""},
		"item":            {func() error { return bus.ItemErrors{1: world.ErrOops} }, "b", "", ""},
		"item, wrapped":   {func() error { return fmt.Errorf("import: %w", bus.ItemErrors{1: world.ErrOops}) }, "b", "", ""},
		"item, permanent": {func() error { return bus.ItemErrors{0: bus.Permanent(world.ErrOops), 2: world.ErrOops} }, "c", "", "a"},
		"item, later": {func() error {
			return bus.ItemErrors{0: bus.RetryAfter(40*time.Second, world.ErrOops), 2: world.ErrOops}
		}, "c", "a", ""},
		"items, permanent": {func() error {
			return bus.Permanent(bus.ItemErrors{0: world.ErrOops, 1: bus.RetryAfter(20*time.Second, world.ErrOops)})
		}, "", "b", "a"},
		"items, later": {func() error {
			return bus.RetryAfter(20*time.Second, bus.ItemErrors{0: world.ErrOops, 1: bus.Permanent(world.ErrOops)})
		}, "", "a", "b"},
		"no items":           {func() error { return bus.ItemErrors{} }, "", "", ""},
		"nil items":          {func() error { return bus.ItemErrors(nil) }, "", "", ""},
		"no items, wrapped":  {func() error { return fmt.Errorf("database is away: %w", bus.ItemErrors{}) }, "a b c", "", ""},
		"an item without":    {func() error { return bus.ItemErrors{0: nil, 1: world.ErrOops} }, "b", "", ""},
		"index out of range": {func() error { return bus.ItemErrors{1: world.ErrOops, 3: bus.Permanent(world.ErrOops)} }, "a b c", "", ""},
		"negative index":     {func() error { return bus.ItemErrors{-1: world.ErrOops} }, "a b c", "", ""},
		"insane item":        {func() error { return bus.ItemErrors{1: (*trap)(nil)} }, "b", "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				b := w.BusOn(tr, bus.Config{})
				fast := resilience.Retry{MaxRetries: 3, Initial: time.Millisecond, Jitter: resilience.NoJitter}
				runs := listenBatch(w, b, func(ctx context.Context, _ []world.UserCreated) error {
					if m, _ := bus.MetaAt(ctx, 0); m.Attempt > 1 {
						return nil
					}
					return c.first()
				}, bus.WithRetry(fast))
				publishIDs(w, b, "a", "b", "c")
				world.Settle(2 * time.Second)
				ran := func(from int) string {
					ids := strings.Fields(strings.Join(batches(runs.All()[from:]), " "))
					slices.Sort(ids)
					return strings.ReplaceAll(strings.Join(ids, " "), "#2", "")
				}
				require.Equal(w, "a b c", runs.All()[0].ids)
				require.Equal(w, c.again, ran(1))
				n := len(runs.All())
				world.Settle(2 * time.Minute)
				require.Equal(w, c.later, ran(n))
				var dead []string
				for _, d := range w.DeadLetters(tr, len(strings.Fields(c.dead))) {
					dead = append(dead, string(eventOf(w, d).ID))
				}
				slices.Sort(dead)
				require.Equal(w, c.dead, strings.Join(dead, " "))
			})
		})
	}
}

func TestItemErrorsText(t *testing.T) {
	require.Equal(t, "1 event of the batch failed", bus.ItemErrors{3: world.ErrOops}.Error())
	require.Equal(t, "2 events of the batch failed", bus.ItemErrors{3: world.ErrOops, 4: world.ErrOops, 5: nil}.Error())
}

// An index that is out of range says which.
func TestItemErrorsOutOfRangeSaysSo(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		listenBatch(w, b, func(context.Context, []world.UserCreated) error { return bus.ItemErrors{7: world.ErrOops} },
			bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		publishIDs(w, b, "a", "b")
		for _, d := range w.DeadLetters(tr, 2) {
			require.Equal(w, "bus.ItemErrors has an error for index 7 of a batch of 2, so all of them count as failed: oops", d.Error)
		}
	})
}

// A handler that fails whole batches because of one event: the last attempts are
// alone, so no other event pays for it.
func TestLastAttemptOfABatchIsAlone(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		runs := listenBatch(w, b, func(_ context.Context, events []world.UserCreated) error {
			for _, e := range events {
				if e.ID == "bad" {
					return world.ErrOops
				}
			}
			return nil
		}, thrice)
		publishIDs(w, b, "a", "b", "bad", "c")
		world.Settle(time.Minute)
		all := batches(runs.All())
		require.Equal(w, "a b bad c", all[0])
		// Their retries come due at the same moment, in any order.
		require.ElementsMatch(w, []string{"a#2", "b#2", "bad#2", "c#2"}, strings.Fields(all[1]))
		require.ElementsMatch(w, []string{"a#3", "b#3", "bad#3", "c#3"}, all[2:])
		require.Equal(w, world.UserID("bad"), eventOf(w, w.DeadLetters(tr, 1)[0]).ID)
	})
}

// Without retries every attempt is the last, and batches are batches.
func TestBatchWithoutRetries(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		runs := listenBatch(w, b, func(context.Context, []world.UserCreated) error { return bus.ItemErrors{1: world.ErrOops} },
			bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		publishIDs(w, b, "a", "b", "c")
		w.DeadLetters(tr, 1)
		require.Equal(w, []string{"a b c"}, batches(runs.All()))
	})
}
