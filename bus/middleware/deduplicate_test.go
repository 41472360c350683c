package middleware_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// event is an event of an id as one handler gets it.
func event(id string) *bus.Message {
	m := handledEvent()
	m.ID = id
	return m
}

func TestDeduplicateRemembersAfterSuccessOnly(t *testing.T) {
	a := &answers{errs: repeat(errOops, 2)}
	f := middleware.Deduplicate(time.Hour)(a.handle)
	for range 2 {
		_, err := f(t.Context(), event("1"))
		require.Equal(t, errOops, err)
	}
	_, err := f(t.Context(), event("1"))
	require.NoError(t, err)
	require.Equal(t, 3, a.runs, "what failed runs again")
	for range 3 {
		v, err := f(t.Context(), event("1"))
		require.NoError(t, err, "acknowledged")
		require.Nil(t, v)
	}
	require.Equal(t, 3, a.runs)
}

// What differs in anything that makes an event or a handler is something else.
func TestDeduplicateTellsEventsApart(t *testing.T) {
	var a answers
	f := middleware.Deduplicate(time.Hour)(a.handle)
	for _, change := range []func(m *bus.Message){
		func(*bus.Message) {},
		func(m *bus.Message) { m.ID = "2" },
		func(m *bus.Message) { m.Name = "user.deleted" },
		func(m *bus.Message) { m.Session = "s" },
		func(m *bus.Message) { m.Group = "audit" },
		func(m *bus.Message) { m.Handler = "second" },
	} {
		a.runs = 0
		for range 2 {
			m := event("1")
			change(m)
			_, err := f(t.Context(), m)
			require.NoError(t, err)
		}
		require.Equal(t, 1, a.runs)
	}
}

func TestDeduplicateIsForEventsThatAreHandled(t *testing.T) {
	for what, m := range onBothChains() {
		var a answers
		f := middleware.Deduplicate(time.Hour)(a.handle)
		for range 3 {
			_, _ = f(t.Context(), m)
		}
		require.Equal(t, map[bool]int{true: 1, false: 3}[what == "handled event"], a.runs, what)
	}
}

func TestDeduplicateForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		f := middleware.Deduplicate(time.Minute, middleware.DedupSize(3))(a.handle)
		runs := func(id string) bool {
			before := a.runs
			_, err := f(t.Context(), event(id))
			require.NoError(t, err)
			return a.runs > before
		}
		require.True(t, runs("1"))
		time.Sleep(time.Minute - time.Nanosecond)
		require.False(t, runs("1"), "to be dropped is not to be handled: the window is of the run")
		time.Sleep(time.Nanosecond)
		require.True(t, runs("1"), "the window has passed")

		for _, id := range []string{"2", "3"} {
			require.True(t, runs(id))
		}
		require.False(t, runs("1"))
		require.True(t, runs("4"), "one too many")
		require.False(t, runs("2"))
		require.False(t, runs("3"))
		require.True(t, runs("1"), "the oldest was forgotten")
	})
}

// Two copies never run at once, and the second is done with only once the first
// has succeeded.
func TestDeduplicateOfCopiesAtOnce(t *testing.T) {
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var running, runs atomic.Int32
			f := middleware.Deduplicate(time.Hour)(func(context.Context, *bus.Message) (any, error) {
				require.Equal(t, int32(1), running.Add(1))
				defer running.Add(-1)
				time.Sleep(time.Second)
				if runs.Add(1) == 1 && fails {
					return nil, errOops
				}
				return nil, nil
			})
			began := time.Now()
			var mu sync.Mutex
			var failed int
			var ends []time.Duration
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					_, err := f(t.Context(), event("1"))
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						failed++
						return
					}
					ends = append(ends, time.Since(began))
				})
			}
			wg.Wait()
			if fails {
				require.Equal(t, 1, failed)
				require.Equal(t, int32(2), runs.Load(), "another copy takes its turn")
				require.Equal(t, []time.Duration{2 * time.Second, 2 * time.Second, 2 * time.Second, 2 * time.Second}, ends)
			} else {
				require.Zero(t, failed)
				require.Equal(t, int32(1), runs.Load())
				require.Equal(t, []time.Duration{time.Second, time.Second, time.Second, time.Second, time.Second}, ends)
			}
		})
	}
}

// Copies of one event do not hold up another.
func TestDeduplicateRunsDifferentEventsSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := middleware.Deduplicate(time.Hour)(ignoring(time.Second, nil))
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() { _, _ = f(t.Context(), event(fmt.Sprint(i))) })
		}
		wg.Wait()
		require.Equal(t, time.Second, time.Since(began))
	})
}

func TestDeduplicateStopsWaitingWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := middleware.Deduplicate(time.Hour)(ignoring(time.Second, nil))
		go func() { _, _ = f(t.Context(), event("1")) }()
		synctest.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(bus.ErrStopped)
		_, err := f(ctx, event("1"))
		require.ErrorIs(t, err, bus.ErrStopped, "never acknowledged")
		time.Sleep(2 * time.Second)
	})
}

// A run that panics has not succeeded, and does not block the next one.
func TestDeduplicateAndPanics(t *testing.T) {
	fail := true
	runs := 0
	f := middleware.Deduplicate(time.Hour)(func(context.Context, *bus.Message) (any, error) {
		runs++
		if fail {
			panic("bug")
		}
		return nil, nil
	})
	require.Panics(t, func() { _, _ = f(t.Context(), event("1")) })
	fail = false
	for range 2 {
		_, err := f(t.Context(), event("1"))
		require.NoError(t, err)
	}
	require.Equal(t, 2, runs)
}

// shaky is a store that can be made to fail.
type shaky struct {
	transport.Store
	get, create error
}

func (s *shaky) Get(ctx context.Context, key string) (transport.Entry, error) {
	if s.get != nil {
		return transport.Entry{}, s.get
	}
	return s.Store.Get(ctx, key)
}

func (s *shaky) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error) {
	if s.create != nil {
		return 0, s.create
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return s.Store.Create(ctx, key, value, ttl)
}

func TestDeduplicateInAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := memory.New(memory.Config{})
		defer tr.Close(t.Context())
		a := &answers{errs: repeat(errOops, 1)}
		processes := make([]bus.Func, 2)
		for i := range processes {
			processes[i] = middleware.Deduplicate(time.Minute, middleware.DedupStore(tr.Store(), nil))(a.handle)
		}
		_, err := processes[0](t.Context(), event("1"))
		require.Equal(t, errOops, err)
		for range 2 {
			for _, f := range processes {
				_, err := f(t.Context(), event("1"))
				require.NoError(t, err)
			}
		}
		require.Equal(t, 2, a.runs, "once it failed, once it was handled")
		time.Sleep(time.Minute + time.Second)
		for _, f := range processes {
			_, err := f(t.Context(), event("1"))
			require.NoError(t, err)
		}
		require.Equal(t, 3, a.runs, "the window has passed for all of them")
	})
}

// What handles an event after its context has ended has handled it all the same.
func TestDeduplicateRemembersALateSuccess(t *testing.T) {
	tr := memory.New(memory.Config{})
	defer tr.Close(t.Context())
	store := &shaky{Store: tr.Store()}
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	process := func() bus.Func {
		return middleware.Deduplicate(time.Minute, middleware.DedupStore(store, nil))(func(context.Context, *bus.Message) (any, error) {
			cancel()
			runs++
			return nil, nil
		})
	}
	_, err := process()(ctx, event("1"))
	require.NoError(t, err)
	_, err = process()(t.Context(), event("1"))
	require.NoError(t, err)
	require.Equal(t, 1, runs)
}

func TestDeduplicateWithAStoreThatFails(t *testing.T) {
	tr := memory.New(memory.Config{})
	defer tr.Close(t.Context())
	store := &shaky{Store: tr.Store(), get: transport.ErrUnavailable}
	var out bytes.Buffer
	var a answers
	f := middleware.Deduplicate(time.Minute, middleware.DedupStore(store, slog.New(slog.NewTextHandler(&out, nil))))(a.handle)

	_, err := f(t.Context(), event("1"))
	require.Equal(t, bus.CodeUnavailable, bus.CodeOf(err))
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.Zero(t, a.runs, "it may have been handled")
	require.Empty(t, out.String())

	store.get, store.create = nil, errors.New("no quorum")
	for range 2 {
		_, err = f(t.Context(), event("1"))
		require.NoError(t, err, "it is handled, whatever the store says")
	}
	require.Equal(t, 1, a.runs, "this process remembers")
	require.Contains(t, out.String(), "no quorum")

	out.Reset()
	store.create = transport.ErrExists
	_, err = f(t.Context(), event("2"))
	require.NoError(t, err)
	require.Empty(t, out.String(), "another process was as fast")
}
