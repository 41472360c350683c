package middleware_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

// taking is the end of a chain that takes so long for one message after the other.
func taking(ds ...time.Duration) bus.Func {
	i := 0
	return func(context.Context, *bus.Message) (any, error) {
		time.Sleep(ds[i])
		i++
		return nil, nil
	}
}

func TestTimingsAreExactWhereTheySaySo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times middleware.Timings
		require.Empty(t, times.Snapshot())
		a := &answers{errs: []error{nil, errOops}}
		command := times.Middleware(func(ctx context.Context, m *bus.Message) (any, error) {
			time.Sleep(time.Duration(a.runs+1) * time.Second)
			return a.handle(ctx, m)
		})
		for range 4 { // 1, 2, 3 and 4 s
			_, _ = command(t.Context(), handledCommand())
		}
		_, _ = times.Middleware(taking(0))(t.Context(), handledEvent())
		all := times.Snapshot()
		require.Len(t, all, 2)
		c, e := all[0], all[1]
		require.Equal(t, "user.create", c.Name)
		require.Equal(t, bus.KindCommand, c.Kind)
		require.Equal(t, uint64(4), c.Count)
		require.Equal(t, uint64(1), c.Failures)
		require.Equal(t, time.Second, c.Min)
		require.Equal(t, 2500*time.Millisecond, c.Mean)
		require.Equal(t, 4*time.Second, c.Max)
		require.InEpsilon(t, 2*time.Second, c.P50, 0.04)
		require.InEpsilon(t, 4*time.Second, c.P99, 0.04)
		require.Equal(t, middleware.Timing{Name: "user.created", Kind: bus.KindEvent, Count: 1}, e)
	})
}

// Whatever the durations, percentiles are within 4% of those of a sorted list.
func TestTimingPercentiles(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := map[string]func() time.Duration{
		"uniform":   func() time.Duration { return time.Duration(random.Int64N(int64(time.Minute))) },
		"all sizes": func() time.Duration { return time.Duration(math.Exp(random.Float64() * 38)) },
		"equal":     func() time.Duration { return 123456789 },
		"tiny":      func() time.Duration { return time.Duration(random.IntN(40)) },
		"widest": func() time.Duration {
			return []time.Duration{1, 17<<20 - 1, 17<<20 - 1, 17<<20 - 1, time.Hour}[random.IntN(5)]
		},
		"two peaks": func() time.Duration { return []time.Duration{time.Millisecond, time.Hour}[random.IntN(2)] },
	}
	for what, next := range draw {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ds := make([]time.Duration, 1000)
				for i := range ds {
					ds[i] = next()
				}
				var times middleware.Timings
				f := times.Middleware(taking(ds...))
				for range ds {
					_, _ = f(t.Context(), handledEvent())
				}
				slices.Sort(ds)
				got := times.Snapshot()[0]
				require.Equal(t, ds[0], got.Min)
				require.Equal(t, ds[999], got.Max)
				for p, d := range map[int]time.Duration{50: got.P50, 90: got.P90, 95: got.P95, 99: got.P99} {
					require.InDelta(t, ds[10*p-1], d, 0.04*float64(ds[10*p-1]), "p%d", p)
					require.GreaterOrEqual(t, d, got.Min)
					require.LessOrEqual(t, d, got.Max)
				}
			})
		})
	}
}

func TestTimingsOfAChainThatPanics(t *testing.T) {
	var times middleware.Timings
	f := times.Middleware(func(context.Context, *bus.Message) (any, error) { panic("bug") })
	require.Panics(t, func() { _, _ = f(t.Context(), handledCommand()) })
	require.Equal(t, uint64(1), times.Snapshot()[0].Failures)
}

func TestTimingsAreSafeForConcurrentUse(t *testing.T) {
	var times middleware.Timings
	f := times.Middleware(func(context.Context, *bus.Message) (any, error) { return nil, nil })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				m := handledEvent()
				m.Name = []string{"a", "b"}[i%2]
				_, _ = f(t.Context(), m)
				_ = times.Snapshot()
			}
		})
	}
	wg.Wait()
	for _, n := range times.Snapshot() {
		require.Equal(t, uint64(800), n.Count)
	}
}
