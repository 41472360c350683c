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
func listenBatch(w *world, s bus.Scope, fn func(ctx context.Context, events []userCreated) error, opts ...bus.BatchOption) *record[batchRun] {
	w.Helper()
	runs := newRecord[batchRun]()
	_, err := bus.SubscribeBatch(w.Context(), s, func(ctx context.Context, events []userCreated) error {
		runs.add(batchRun{batchIDs(ctx, events), time.Now()})
		if fn == nil {
			return nil
		}
		return fn(ctx, events)
	}, opts...)
	require.NoError(w, err)
	return runs
}

func batchIDs(ctx context.Context, events []userCreated) string {
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

func publishIDs(w *world, s bus.Scope, ids ...string) {
	w.Helper()
	for _, id := range ids {
		require.NoError(w, bus.Publish(w.Context(), s, userCreated{ID: userID(id)}))
	}
}

// eventOf is the event of a dead letter.
func eventOf(w *world, d *transport.DeadLetter) (e userCreated) {
	w.Helper()
	if v, ok := d.Message.Value.(userCreated); ok {
		return v
	}
	require.NoError(w, json.Unmarshal(d.Message.Body, &e))
	return e
}

var thrice = bus.WithRetry(resilience.Retry{MaxRetries: 2, Initial: time.Second, Base: 1, Jitter: resilience.NoJitter})

func TestBatchIsBoundedByItsSize(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		runs := listenBatch(w, b, nil, bus.WithBatchSize(3), bus.WithLinger(time.Minute))
		publishIDs(w, b, "a", "b", "c", "d", "e", "f", "g")
		require.Equal(w, []string{"a b c", "d e f"}, batches(runs.wait(w, 2)))
		settle(50 * time.Second)
		require.Len(w, runs.all(), 2)
		settle(20 * time.Second)
		require.Equal(w, []string{"a b c", "d e f", "g"}, batches(runs.all()))
	})
}

func TestBatchIsBoundedByItsTime(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		runs := listenBatch(w, b, nil)
		for i := range 3 {
			settle(time.Second)
			began := time.Now()
			publishIDs(w, b, "a")
			settle(60 * time.Millisecond)
			publishIDs(w, b, "b")
			settle(39 * time.Millisecond)
			require.Len(w, runs.all(), i)
			settle(2 * time.Millisecond)
			require.Len(w, runs.all(), i+1)
			require.Equal(w, batchRun{"a b", began.Add(100 * time.Millisecond)}, runs.all()[i])
		}
	})
}

func TestBatchIsBoundedByItsBytes(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		runs := listenBatch(w, b, nil, bus.WithBatchBytes(250), bus.WithLinger(time.Minute))
		for i, n := range []int{80, 80, 80, 500, 10} {
			e := userCreated{ID: userID(fmt.Sprint(i)), Note: strings.Repeat("x", n)}
			require.NoError(w, bus.Publish(w.Context(), b, e))
		}
		settle(50 * time.Second)
		if w.inProcess { // nothing is encoded, so nothing is measured
			require.Empty(w, runs.all())
			return
		}
		require.Equal(w, []string{"0 1", "2", "3"}, batches(runs.all()), "none over the limit but one event that is")
		settle(20 * time.Second)
		require.Equal(w, []string{"0 1", "2", "3", "4"}, batches(runs.all()))
		for _, n := range []int{500, 150, 80} { // over it, and exactly full
			e := userCreated{ID: "last", Note: strings.Repeat("x", n)}
			if n == 80 {
				e.Note = strings.Repeat("x", 250-2*len(`{"ID":"last","Note":""}`)-150)
			}
			require.NoError(w, bus.Publish(w.Context(), b, e))
		}
		settle(time.Second)
		require.Equal(w, []string{"last", "last last"}, batches(runs.all()[4:]), "what is full does not wait")
	})
}

// Only what failed comes again, and becomes a dead letter after its own attempts.
func TestItemErrorsFailOnlyTheirEvents(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		runs := listenBatch(w, b, func(_ context.Context, events []userCreated) error {
			failed := bus.ItemErrors{}
			for i, e := range events {
				if strings.HasPrefix(string(e.ID), "bad") {
					failed[i] = fmt.Errorf("%s: %w", e.ID, errOops)
				}
			}
			return failed
		}, thrice)
		publishIDs(w, b, "a", "bad1", "b", "bad2", "c")
		settle(time.Minute)
		all := batches(runs.all())
		require.Equal(w, "a bad1 b bad2 c", all[0])
		again := slices.Sorted(slices.Values(strings.Fields(strings.Join(all[1:], " "))))
		require.Equal(w, []string{"bad1#2", "bad1#3", "bad2#2", "bad2#3"}, again, "nothing else ran again")
		var dead []string
		for _, d := range w.deadLetters(tr, 2) {
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
		"error":           {func() error { return errOops }, "a b c", "", ""},
		"permanent":       {func() error { return bus.Permanent(errOops) }, "", "", "a b c"},
		"after a while":   {func() error { return bus.RetryAfter(20*time.Second, errOops) }, "", "a b c", ""},
		"panic":           {func() error { panic("boom") }, "a b c", "", ""},
		"item":            {func() error { return bus.ItemErrors{1: errOops} }, "b", "", ""},
		"item, wrapped":   {func() error { return fmt.Errorf("import: %w", bus.ItemErrors{1: errOops}) }, "b", "", ""},
		"item, permanent": {func() error { return bus.ItemErrors{0: bus.Permanent(errOops), 2: errOops} }, "c", "", "a"},
		"item, later":     {func() error { return bus.ItemErrors{0: bus.RetryAfter(40*time.Second, errOops), 2: errOops} }, "c", "a", ""},
		"items, permanent": {func() error {
			return bus.Permanent(bus.ItemErrors{0: errOops, 1: bus.RetryAfter(20*time.Second, errOops)})
		}, "", "b", "a"},
		"items, later": {func() error {
			return bus.RetryAfter(20*time.Second, bus.ItemErrors{0: errOops, 1: bus.Permanent(errOops)})
		}, "", "a", "b"},
		"no items":           {func() error { return bus.ItemErrors{} }, "", "", ""},
		"nil items":          {func() error { return bus.ItemErrors(nil) }, "", "", ""},
		"no items, wrapped":  {func() error { return fmt.Errorf("database is away: %w", bus.ItemErrors{}) }, "a b c", "", ""},
		"an item without":    {func() error { return bus.ItemErrors{0: nil, 1: errOops} }, "b", "", ""},
		"index out of range": {func() error { return bus.ItemErrors{1: errOops, 3: bus.Permanent(errOops)} }, "a b c", "", ""},
		"negative index":     {func() error { return bus.ItemErrors{-1: errOops} }, "a b c", "", ""},
		"insane item":        {func() error { return bus.ItemErrors{1: (*trap)(nil)} }, "b", "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(w *world) {
				tr := w.open()
				b := w.busOn(tr, bus.Config{})
				fast := resilience.Retry{MaxRetries: 3, Initial: time.Millisecond, Jitter: resilience.NoJitter}
				runs := listenBatch(w, b, func(ctx context.Context, _ []userCreated) error {
					if m, _ := bus.MetaAt(ctx, 0); m.Attempt > 1 {
						return nil
					}
					return c.first()
				}, bus.WithRetry(fast))
				publishIDs(w, b, "a", "b", "c")
				settle(2 * time.Second)
				ran := func(from int) string {
					ids := strings.Fields(strings.Join(batches(runs.all()[from:]), " "))
					slices.Sort(ids)
					return strings.ReplaceAll(strings.Join(ids, " "), "#2", "")
				}
				require.Equal(w, "a b c", runs.all()[0].ids)
				require.Equal(w, c.again, ran(1))
				n := len(runs.all())
				settle(2 * time.Minute)
				require.Equal(w, c.later, ran(n))
				var dead []string
				for _, d := range w.deadLetters(tr, len(strings.Fields(c.dead))) {
					dead = append(dead, string(eventOf(w, d).ID))
				}
				slices.Sort(dead)
				require.Equal(w, c.dead, strings.Join(dead, " "))
			})
		})
	}
}

func TestItemErrorsText(t *testing.T) {
	require.Equal(t, "1 event of the batch failed", bus.ItemErrors{3: errOops}.Error())
	require.Equal(t, "2 events of the batch failed", bus.ItemErrors{3: errOops, 4: errOops, 5: nil}.Error())
}

// An index that is out of range says which.
func TestItemErrorsOutOfRangeSaysSo(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		listenBatch(w, b, func(context.Context, []userCreated) error { return bus.ItemErrors{7: errOops} },
			bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		publishIDs(w, b, "a", "b")
		for _, d := range w.deadLetters(tr, 2) {
			require.Equal(w, "bus.ItemErrors has an error for index 7 of a batch of 2, so all of them count as failed: oops", d.Error)
		}
	})
}

// A handler that fails whole batches because of one event: the last attempts are
// alone, so no other event pays for it.
func TestLastAttemptOfABatchIsAlone(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		runs := listenBatch(w, b, func(_ context.Context, events []userCreated) error {
			for _, e := range events {
				if e.ID == "bad" {
					return errOops
				}
			}
			return nil
		}, thrice)
		publishIDs(w, b, "a", "b", "bad", "c")
		settle(time.Minute)
		all := batches(runs.all())
		require.Equal(w, "a b bad c", all[0])
		// Their retries come due at the same moment, in any order.
		require.ElementsMatch(w, []string{"a#2", "b#2", "bad#2", "c#2"}, strings.Fields(all[1]))
		require.ElementsMatch(w, []string{"a#3", "b#3", "bad#3", "c#3"}, all[2:])
		require.Equal(w, userID("bad"), eventOf(w, w.deadLetters(tr, 1)[0]).ID)
	})
}

// Without retries every attempt is the last, and batches are batches.
func TestBatchWithoutRetries(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		runs := listenBatch(w, b, func(context.Context, []userCreated) error { return bus.ItemErrors{1: errOops} },
			bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		publishIDs(w, b, "a", "b", "c")
		w.deadLetters(tr, 1)
		require.Equal(w, []string{"a b c"}, batches(runs.all()))
	})
}
