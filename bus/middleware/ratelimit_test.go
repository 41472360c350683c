package middleware_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

// of is a command of a name and a session.
func of(name, session string) *bus.Message {
	m := handledCommand()
	m.Name, m.Session = name, session
	return m
}

func TestRateLimitLetsBurstsInAndThenWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := middleware.RateLimit(rate.Every(time.Second), 3)
		handlers := []bus.Func{limit((&answers{}).handle), limit((&answers{}).handle)} // they share it
		began := time.Now()
		var times []time.Duration
		for i := range 6 {
			_, err := handlers[i%2](t.Context(), of(fmt.Sprint(i), fmt.Sprint(i)))
			require.NoError(t, err)
			times = append(times, time.Since(began).Round(time.Millisecond))
		}
		require.Equal(t, []time.Duration{0, 0, 0, time.Second, 2 * time.Second, 3 * time.Second}, times)
		time.Sleep(time.Hour)
		began = time.Now()
		for range 3 {
			_, _ = handlers[0](t.Context(), handledEvent())
		}
		require.Zero(t, time.Since(began), "no more than a burst is saved up")
		_, _ = handlers[0](t.Context(), handledEvent())
		require.NotZero(t, time.Since(began))
	})
}

func TestRateLimitOfInfinity(t *testing.T) {
	f := middleware.RateLimit(rate.Limit(math.Inf(1)), 1)((&answers{}).handle)
	for range 100 {
		_, err := f(t.Context(), handledEvent())
		require.NoError(t, err)
	}
}

func TestRateLimitPerNameAndSession(t *testing.T) {
	messages := []*bus.Message{of("a", ""), of("a", "1"), of("a", "2"), of("b", ""), of("b", "1"), of("b1", "")}
	for what, tt := range map[string]struct {
		opts []middleware.RateOption
		want []bool // let in, after those before it
	}{
		"all":         {nil, []bool{true, false, false, false, false, false}},
		"per name":    {[]middleware.RateOption{middleware.PerName()}, []bool{true, false, false, true, false, true}},
		"per session": {[]middleware.RateOption{middleware.PerSession()}, []bool{true, true, true, false, false, false}},
		"both":        {[]middleware.RateOption{middleware.PerName(), middleware.PerSession()}, []bool{true, true, true, true, true, true}},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := middleware.RateLimit(1, 1, append(tt.opts, middleware.Reject())...)((&answers{}).handle)
			for i, want := range tt.want {
				_, err := f(t.Context(), messages[i])
				require.Equal(t, want, err == nil, "%s: message %d", what, i)
			}
			for i := range messages[:1] {
				_, err := f(t.Context(), messages[i])
				require.Error(t, err, what)
			}
		})
	}
}

func TestRateLimitRejects(t *testing.T) {
	for what, m := range onBothChains() {
		synctest.Test(t, func(t *testing.T) {
			var end answers
			f := middleware.RateLimit(rate.Every(time.Minute), 1, middleware.Reject())(end.handle)
			_, err := f(t.Context(), m)
			require.NoError(t, err)
			time.Sleep(20 * time.Second)
			for range 3 { // what is refused takes no token
				_, err = f(t.Context(), m)
				require.Equal(t, bus.CodeBusy, bus.CodeOf(err), what)
				delay, ok := bus.RetryDelay(err)
				require.True(t, ok)
				require.Equal(t, 40*time.Second, delay.Round(time.Millisecond))
				require.Equal(t, delay.String(), asError(t, err).Details["retry_after"])
			}
			require.Equal(t, 1, end.runs)
			time.Sleep(40 * time.Second)
			_, err = f(t.Context(), m)
			require.NoError(t, err)
		})
	}
}

func TestRateLimitGivesUpWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var end answers
		f := middleware.RateLimit(rate.Every(time.Minute), 1)(end.handle)
		_, err := f(t.Context(), handledCommand())
		require.NoError(t, err)
		began := time.Now()

		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err = f(ctx, handledCommand())
		require.Equal(t, bus.CodeBusy, bus.CodeOf(err))
		require.ErrorContains(t, err, "after the deadline; nothing ran")
		require.Zero(t, time.Since(began), "it does not begin to wait in vain")

		cancelled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, cancel)
		_, err = f(cancelled, sentCommand())
		require.Equal(t, bus.CodeCancelled, bus.CodeOf(err))
		require.Equal(t, 10*time.Second, time.Since(began))
		stopped, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(10*time.Second, func() { stop(bus.ErrStopped) })
		_, err = f(stopped, handledEvent())
		require.Equal(t, bus.CodeBusy, bus.CodeOf(err))
		require.ErrorIs(t, err, bus.ErrStopped)

		_, err = f(t.Context(), handledCommand())
		require.NoError(t, err)
		require.Equal(t, time.Minute, time.Since(began).Round(time.Millisecond), "who gave up has given its turn back")
		require.Equal(t, 2, end.runs)
	})
}

// The limits of many sessions take the memory of a few: one that is whole again is
// as good as a new one, and of too many the one longest unused goes.
func TestRateLimitForgetsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := middleware.RateLimit(rate.Every(time.Second), 2, middleware.PerSession(), middleware.Reject(), middleware.MaxLimits(3))((&answers{}).handle)
		in := func(session string) bool {
			_, err := f(t.Context(), of("a", session))
			return err == nil
		}
		spent := func(session string) {
			t.Helper()
			require.True(t, in(session))
			require.True(t, in(session))
			require.False(t, in(session))
		}
		for _, s := range []string{"1", "2", "3"} {
			spent(s)
		}
		require.False(t, in("1"), "used again: 2 is the longest unused")
		spent("4")
		require.False(t, in("3"))
		require.False(t, in("1"))
		require.False(t, in("4"))
		spent("2") // forgotten, and begins anew

		time.Sleep(time.Minute)
		spent("5")
		spent("6")
		spent("7")
		require.False(t, in("5"), "what is spent is not forgotten while others are whole")
	})
}

func TestRateLimitIsSafeForConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := func(context.Context, *bus.Message) (any, error) { return nil, nil }
		f := middleware.RateLimit(10, 5, middleware.PerSession())(end)
		crowded := middleware.RateLimit(10, 5, middleware.PerSession(), middleware.MaxLimits(1))(end)
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				for range 20 {
					_, err := f(t.Context(), of("a", fmt.Sprint(i%2)))
					require.NoError(t, err)
					_, err = crowded(t.Context(), of("a", fmt.Sprint(i)))
					require.NoError(t, err)
				}
			})
		}
		wg.Wait()
		require.InDelta(t, 9500*time.Millisecond, time.Since(began), float64(time.Millisecond), "100 in each session, of which 5 at once")
	})
}
