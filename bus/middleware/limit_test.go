package middleware_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

// crowd is the end of a chain that takes a second and knows how many it held.
type crowd struct{ now, most, all atomic.Int32 }

func (c *crowd) handle(context.Context, *bus.Message) (any, error) {
	n := c.now.Add(1)
	for {
		most := c.most.Load()
		if n <= most || c.most.CompareAndSwap(most, n) {
			break
		}
	}
	c.all.Add(1)
	time.Sleep(time.Second)
	c.now.Add(-1)
	return nil, nil
}

func TestLimitHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		limit := middleware.Limit(3)
		handlers := []bus.Func{limit(c.handle), limit(c.handle)} // they share it
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				_, err := handlers[i%2](t.Context(), handledEvent())
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, int32(3), c.most.Load())
		require.Equal(t, 4*time.Second, time.Since(began))
	})
}

func TestLimitGivesUpWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		f := middleware.Limit(1)(c.handle)
		go func() { _, _ = f(t.Context(), handledCommand()) }()
		synctest.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		for _, m := range []*bus.Message{sentCommand(), handledCommand()} {
			_, err := f(ctx, m)
			require.Equal(t, bus.CodeBusy, bus.CodeOf(err))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "nothing ran")
		}
		cancelled, stop := context.WithCancelCause(t.Context())
		stop(bus.ErrStopped)
		_, err := f(cancelled, sentCommand())
		require.Equal(t, bus.CodeCancelled, bus.CodeOf(err))
		_, err = f(cancelled, handledEvent())
		require.Equal(t, bus.CodeBusy, bus.CodeOf(err))
		require.ErrorIs(t, err, bus.ErrStopped)
		require.Equal(t, int32(1), c.all.Load(), "nothing ran")

		time.Sleep(2 * time.Second)
		_, err = f(t.Context(), handledCommand())
		require.NoError(t, err, "who gave up holds nothing")
	})
}

func TestLimitRejects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		f := middleware.Limit(2, middleware.Reject())(c.handle)
		for range 2 {
			go func() { _, _ = f(t.Context(), handledCommand()) }()
		}
		synctest.Wait()
		began := time.Now()
		for what, m := range onBothChains() {
			_, err := f(t.Context(), m)
			require.Equal(t, bus.CodeBusy, bus.CodeOf(err), what)
			require.ErrorContains(t, err, "all 2 slots")
			require.Equal(t, m.Attempt > 0, asError(t, err).Op == "", what)
		}
		require.Zero(t, time.Since(began))
		time.Sleep(2 * time.Second)
		_, err := f(t.Context(), handledCommand())
		require.NoError(t, err)
	})
}

// A panic gives the slot back.
func TestLimitAndPanics(t *testing.T) {
	f := middleware.Limit(1, middleware.Reject())(func(context.Context, *bus.Message) (any, error) { panic("bug") })
	for range 3 {
		require.PanicsWithValue(t, "bug", func() { _, _ = f(t.Context(), handledCommand()) })
	}
}
