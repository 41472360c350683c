package middleware_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// batchOf is a batch of events with these ids.
func batchOf(ids ...string) *bus.Message {
	m := handledEvent()
	for _, id := range ids {
		m.Events = append(m.Events, event(id))
	}
	return m
}

// given are the ids of the events that a batch handler is given.
func given(m *bus.Message) string {
	var ids []string
	for _, e := range m.Events {
		if refused, _ := e.Refused(); !refused {
			ids = append(ids, e.ID)
		}
	}
	return strings.Join(ids, " ")
}

// batches is the end of a chain that returns one error after the other, and keeps
// the batches that it was given.
type batches struct {
	errs []error
	got  []string
}

func (b *batches) handle(_ context.Context, m *bus.Message) (any, error) {
	b.got = append(b.got, given(m))
	if n := len(b.got); n <= len(b.errs) {
		return nil, b.errs[n-1]
	}
	return nil, nil
}

func TestDeduplicateOfABatch(t *testing.T) {
	permanent := bus.Permanent(errOops)
	for what, tt := range map[string]struct {
		err   error
		again string // what is handled when a, b, c and d come a second time
	}{
		"success":               {nil, "d"},
		"failure":               {errOops, "a b c d"},
		"failure of one":        {bus.ItemErrors{1: errOops}, "b d"},
		"failure of none":       {bus.ItemErrors{1: nil}, "d"},
		"wrapped":               {fmt.Errorf("x: %w", bus.ItemErrors{0: permanent, 2: errOops}), "a c d"},
		"wrapped, of none":      {fmt.Errorf("x: %w", bus.ItemErrors{}), "a b c d"},
		"an index out of range": {bus.ItemErrors{1: errOops, 3: errOops}, "a b c d"},
		"a negative index":      {bus.ItemErrors{-1: errOops}, "a b c d"},
	} {
		end := &batches{errs: []error{tt.err}}
		f := middleware.Deduplicate(time.Hour)(end.handle)
		_, err := f(t.Context(), batchOf("a", "b", "c"))
		require.Equal(t, tt.err, err, what)
		second := batchOf("a", "b", "c", "d")
		_, err = f(t.Context(), second)
		require.NoError(t, err)
		require.Equal(t, []string{"a b c", tt.again}, end.got, what)
		for _, e := range second.Events {
			refused, err := e.Refused()
			require.NoError(t, err, "what was handled is acknowledged")
			require.Equal(t, !strings.Contains(tt.again, e.ID), refused)
		}
		_, err = f(t.Context(), event("a")) // alone, too
		require.NoError(t, err)
		require.Len(t, end.got, 2, what)
	}
}

// The first of two copies is handled; the second comes again, and is done with then.
func TestDeduplicateOfCopiesInOneBatch(t *testing.T) {
	end := &batches{errs: []error{errOops}}
	f := middleware.Deduplicate(time.Hour)(end.handle)
	for range 2 { // the first time it fails
		m := batchOf("b", "a", "b", "b")
		_, _ = f(t.Context(), m)
		require.Equal(t, "b a", given(m))
		for _, e := range m.Events[2:] {
			_, err := e.Refused()
			require.Error(t, err, "not acknowledged")
			delay, ok := bus.RetryDelay(err)
			require.True(t, ok)
			require.Zero(t, delay)
		}
	}
	m := batchOf("b")
	_, err := f(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, []string{"b a", "b a", ""}, end.got)
}

// What middleware has taken out of the batch was not handled.
func TestDeduplicateAndWhatOthersRefuse(t *testing.T) {
	refuse := middleware.Validate(func(_ context.Context, m *bus.Message) error {
		if m.ID == "bad" {
			return errOops
		}
		return nil
	})
	once := middleware.Deduplicate(time.Hour)
	end := &batches{errs: []error{bus.ItemErrors{1: errOops}}}
	f := once(refuse(end.handle)) // the index is of a and b
	_, _ = f(t.Context(), batchOf("bad", "a", "b"))
	m := batchOf("bad", "a", "b")
	_, _ = f(t.Context(), m)
	require.Equal(t, []string{"a b", "b"}, end.got)
	_, err := m.Events[0].Refused()
	require.ErrorIs(t, err, errOops, "it is refused again, not taken for handled")

	outside := refuse(once((&batches{}).handle))
	_, err = once((&batches{}).handle)(t.Context(), event("bad"))
	require.NoError(t, err)
	m = batchOf("bad", "x")
	_, _ = outside(t.Context(), m)
	_, err = m.Events[0].Refused()
	require.ErrorIs(t, err, errOops, "what is taken out already stays so")
}

// Batches that hold each other's events take turns.
func TestDeduplicateOfBatchesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		handled := map[string]int{}
		f := middleware.Deduplicate(time.Hour)(func(_ context.Context, m *bus.Message) (any, error) {
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			for id := range strings.FieldsSeq(given(m)) {
				handled[id]++
			}
			return nil, nil
		})
		var wg sync.WaitGroup
		for _, ids := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b", "d"}, {"d", "a"}} {
			wg.Go(func() { _, _ = f(t.Context(), batchOf(ids...)) })
			wg.Go(func() { _, _ = f(t.Context(), event(ids[0])) })
		}
		wg.Wait()
		for _, id := range []string{"a", "b", "c", "d"} {
			require.LessOrEqual(t, handled[id], 1, id)
		}
		m := batchOf("a", "b", "c", "d")
		_, _ = f(t.Context(), m)
		require.Empty(t, given(m), "all are handled")
	})
}

func TestDeduplicateOfABatchThatPanics(t *testing.T) {
	panics := true
	f := middleware.Deduplicate(time.Hour)(func(context.Context, *bus.Message) (any, error) {
		if panics {
			panic("bug")
		}
		return nil, nil
	})
	require.Panics(t, func() { _, _ = f(t.Context(), batchOf("a", "b")) })
	panics = false
	m := batchOf("a", "b")
	_, err := f(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, "a b", given(m))
}

func TestDeduplicateOfABatchInAStore(t *testing.T) {
	tr := memory.New(memory.Config{})
	defer tr.Close(t.Context())
	store := &shaky{Store: tr.Store()}
	end := &batches{errs: []error{bus.ItemErrors{0: errOops}}}
	process := func() bus.Func {
		return middleware.Deduplicate(time.Hour, middleware.DedupStore(store, nil))(end.handle)
	}
	_, _ = process()(t.Context(), batchOf("a", "b"))
	_, _ = process()(t.Context(), batchOf("a", "b", "c"))
	require.Equal(t, []string{"a b", "a c"}, end.got)

	store.get = transport.ErrUnavailable
	f, m := process(), batchOf("a", "d")
	_, err := f(t.Context(), m)
	require.NoError(t, err)
	for _, e := range m.Events {
		_, err := e.Refused()
		require.Equal(t, bus.CodeUnavailable, bus.CodeOf(err))
	}
	store.get = nil
	m = batchOf("a", "d")
	_, _ = f(t.Context(), m)
	require.Equal(t, "d", given(m), "what could not be looked up is free again")
}
