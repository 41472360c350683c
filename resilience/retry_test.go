package resilience_test

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/resilience"
)

const ms = time.Millisecond

func TestDelayWithoutJitter(t *testing.T) {
	tests := []struct {
		name  string
		retry resilience.Retry
		want  map[int]time.Duration
	}{
		{"defaults", resilience.Retry{}, map[int]time.Duration{
			1: 100 * ms, 2: 200 * ms, 3: 400 * ms, 7: 6400 * ms, 8: 10 * time.Second, 9: 10 * time.Second,
		}},
		{"below one counts as one", resilience.Retry{}, map[int]time.Duration{
			0: 100 * ms, -1: 100 * ms, math.MinInt: 100 * ms,
		}},
		{"huge attempts", resilience.Retry{}, map[int]time.Duration{
			63: 10 * time.Second, 64: 10 * time.Second, 65: 10 * time.Second, 1100: 10 * time.Second, math.MaxInt: 10 * time.Second,
		}},
		{"fraction", resilience.Retry{Base: 1.5}, map[int]time.Duration{
			1: 100 * ms, 2: 150 * ms, 3: 225 * ms, 4: 337500 * time.Microsecond,
		}},
		{"constant", resilience.Retry{Base: 1, Initial: time.Second}, map[int]time.Duration{
			1: time.Second, 2: time.Second, math.MaxInt: time.Second,
		}},
		{"longest", resilience.Retry{Initial: time.Nanosecond, Max: math.MaxInt64}, map[int]time.Duration{
			1: 1, 63: 1 << 62, 64: math.MaxInt64, math.MaxInt: math.MaxInt64,
		}},
		{"large base", resilience.Retry{Base: math.MaxFloat64}, map[int]time.Duration{
			1: 100 * ms, 2: 10 * time.Second, math.MaxInt: 10 * time.Second,
		}},
		{"immediate", resilience.Retry{Immediate: 2, Base: 1.5}, map[int]time.Duration{
			math.MinInt: 0, 0: 0, 1: 0, 2: 0, 3: 100 * ms, 4: 150 * ms, 5: 225 * ms, math.MaxInt: 10 * time.Second,
		}},
		{"all immediate", resilience.Retry{MaxRetries: math.MaxInt, Immediate: math.MaxInt - 1}, map[int]time.Duration{
			1: 0, math.MaxInt - 1: 0, math.MaxInt: 100 * ms,
		}},
		{"initial is the bound", resilience.Retry{Initial: time.Hour, Max: time.Hour}, map[int]time.Duration{
			1: time.Hour, 2: time.Hour,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.retry.Jitter = resilience.NoJitter
			require.NoError(t, tt.retry.Validate())
			for attempt, want := range tt.want {
				require.Equal(t, want, tt.retry.Delay(attempt), "attempt %d", attempt)
			}
		})
	}
}

func TestDelayWithFullJitter(t *testing.T) {
	half := func() float64 { return 0.5 }
	var r resilience.Retry
	require.Equal(t, 50*ms, r.DelayRand(1, half))
	require.Equal(t, 200*ms, r.DelayRand(3, half))
	// The bound comes after the jitter: half of 12.8 s is under it, half of
	// 25.6 s is over it.
	require.Equal(t, 6400*ms, r.DelayRand(8, half))
	require.Equal(t, 10*time.Second, r.DelayRand(9, half))
	require.Equal(t, time.Duration(0), r.DelayRand(math.MaxInt, func() float64 { return 0 }))
}

func TestFullJitterIsTheDefaultAndSpreads(t *testing.T) {
	var r resilience.Retry
	var sum time.Duration
	seen := map[time.Duration]bool{}
	const n = 1000
	for range n {
		d := r.Delay(3)
		require.Less(t, d, 400*ms)
		seen[d] = true
		sum += d
	}
	require.Greater(t, len(seen), n/2)
	require.InDelta(t, float64(200*ms), float64(sum/n), float64(40*ms), "far from even")
}

func TestAttempts(t *testing.T) {
	for retries, want := range map[int]int{0: 4, 1: 2, 10: 11, resilience.NoRetries: 1, -7: 1, math.MaxInt: math.MaxInt} {
		require.Equal(t, want, resilience.Retry{MaxRetries: retries}.Attempts(), "MaxRetries %d", retries)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name  string
		retry resilience.Retry
		err   string // "" is valid
	}{
		{"zero", resilience.Retry{}, ""},
		{"none", resilience.Retry{MaxRetries: resilience.NoRetries}, ""},
		{"retries below none", resilience.Retry{MaxRetries: -2}, "retry: MaxRetries is -2; use NoRetries (-1) for none"},
		{"negative immediate", resilience.Retry{Immediate: -1}, "retry: Immediate is -1; use a number of retries, or 0 for none"},
		{"all immediate", resilience.Retry{Immediate: 3}, ""},
		{"more immediate than any", resilience.Retry{Immediate: 4}, "retry: Immediate is 4 of 3 retries; raise MaxRetries or lower Immediate"},
		{"immediate of one", resilience.Retry{MaxRetries: 1, Immediate: 2}, "retry: Immediate is 2 of 1 retry; raise MaxRetries or lower Immediate"},
		{"immediate of none", resilience.Retry{MaxRetries: resilience.NoRetries, Immediate: 1}, "retry: Immediate is 1 of no retries; raise MaxRetries or lower Immediate"},
		{"negative within", resilience.Retry{Within: -1}, "retry: Within is -1ns; use a positive duration, or 0 for no limit"},
		{"final is nil", resilience.Retry{Final: []error{io.EOF, nil}}, "retry: Final[1] is nil"},
		{"negative initial", resilience.Retry{Initial: -1}, "retry: Initial is -1ns; use a positive delay, or 0 for 100ms"},
		{"negative max", resilience.Retry{Max: -1}, "retry: Max is -1ns; use a positive delay, or 0 for 10s"},
		{"base below one", resilience.Retry{Base: 0.5}, "retry: Base is 0.5; use 1 or more, or 0 for 2"},
		{"base is no number", resilience.Retry{Base: math.NaN()}, "retry: Base is NaN; use 1 or more, or 0 for 2"},
		{"base is infinite", resilience.Retry{Base: math.Inf(1)}, "retry: Base is +Inf; use 1 or more, or 0 for 2"},
		{"jitter", resilience.Retry{Jitter: 7}, "retry: Jitter is Jitter(7); use FullJitter or NoJitter"},
		{"initial over the default max", resilience.Retry{Initial: time.Minute}, "retry: Initial is 1m0s, over Max, which is 10s; raise Max or lower Initial"},
		{"max under the default initial", resilience.Retry{Max: ms}, "retry: Initial is 100ms, over Max, which is 1ms; raise Max or lower Initial"},
		{"all of them", resilience.Retry{MaxRetries: -2, Base: -1}, "retry: MaxRetries is -2; use NoRetries (-1) for none\nretry: Base is -1; use 1 or more, or 0 for 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.err == "" {
				require.NoError(t, tt.retry.Validate())
				return
			}
			require.EqualError(t, tt.retry.Validate(), tt.err)
		})
	}
}

func TestRetryString(t *testing.T) {
	for want, r := range map[string]resilience.Retry{
		"3 retries after 100ms, doubling up to 10s, full jitter":      {},
		"1 retry after 2s, no jitter":                                 {MaxRetries: 1, Initial: 2 * time.Second, Jitter: resilience.NoJitter},
		"no retries":                                                  {MaxRetries: resilience.NoRetries, Initial: time.Second},
		"5 retries after 1m, doubling up to 1h, full jitter":          {MaxRetries: 5, Initial: time.Minute, Max: time.Hour},
		"5 retries after 1m10s, times 1.5 up to 2h10m, full jitter":   {MaxRetries: 5, Initial: 70 * time.Second, Max: 130 * time.Minute, Base: 1.5},
		"2 retries after 1s each, no jitter":                          {MaxRetries: 2, Initial: time.Second, Base: 1, Jitter: resilience.NoJitter},
		"3 retries after 1h0m10s each, full jitter":                   {Initial: time.Hour + 10*time.Second, Max: time.Hour + 10*time.Second},
		"endless retries after 100ms, doubling up to 2h, full jitter": {MaxRetries: math.MaxInt, Max: 2 * time.Hour},
		"3 retries at once":                                           {Immediate: 3},
		"1 retry at once, within 10s":                                 {MaxRetries: 1, Immediate: 1, Within: 10 * time.Second},
		"5 retries, 2 at once, then after 100ms, doubling up to 10s, full jitter, within 1m": {
			MaxRetries: 5, Immediate: 2, Within: time.Minute,
		},
		"2 retries, 1 at once, then after 1s, no jitter": {MaxRetries: 2, Immediate: 1, Initial: time.Second, Jitter: resilience.NoJitter},
		`1 retry after 100ms, full jitter, within 1h, not of "EOF" or *fs.PathError or net.Error`: {
			MaxRetries: 1, Within: time.Hour, Final: []error{io.EOF, resilience.Type[*fs.PathError](), resilience.Type[net.Error]()},
		},
	} {
		require.NoError(t, r.Validate())
		require.Equal(t, want, r.String())
		require.Equal(t, want, fmt.Sprint(r))
	}
}

func TestJitterString(t *testing.T) {
	require.Equal(t, "full none Jitter(-1)", fmt.Sprint(resilience.FullJitter, resilience.NoJitter, resilience.Jitter(-1)))
}

// Whatever the policy, valid or not, and the attempt: a delay is within its
// bounds, a number gives one delay, and without jitter delays do not shrink.
func TestDelayProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := resilience.Retry{
			Immediate: rapid.Int().Draw(t, "immediate"),
			Initial:   time.Duration(rapid.Int64().Draw(t, "initial")),
			Max:       time.Duration(rapid.Int64().Draw(t, "max")),
			Base:      rapid.Float64().Draw(t, "base"),
			Jitter:    resilience.Jitter(rapid.IntRange(-1, 2).Draw(t, "jitter")),
		}
		attempt := rapid.Int().Draw(t, "attempt")
		x := rapid.Float64Range(0, math.Nextafter(1, 0)).Draw(t, "random")
		random := func() float64 { return x }
		bound := r.Max
		if bound <= 0 {
			bound = resilience.DefaultMax
		}

		d := r.DelayRand(attempt, random)
		require.GreaterOrEqual(t, d, time.Duration(0))
		require.LessOrEqual(t, d, bound)
		require.Equal(t, d, r.DelayRand(attempt, random))

		plain := r
		plain.Jitter = resilience.NoJitter
		require.GreaterOrEqual(t, plain.Delay(attempt), d, "jitter lengthens nothing")
		if attempt < math.MaxInt {
			require.LessOrEqual(t, plain.Delay(attempt), plain.Delay(attempt+1))
		}
	})
}

func ExampleRetry() {
	r := resilience.Retry{MaxRetries: 5, Initial: time.Second, Max: 10 * time.Second, Jitter: resilience.NoJitter}
	for attempt := 1; attempt < r.Attempts(); attempt++ {
		fmt.Println("attempt", attempt, "failed, wait", r.Delay(attempt))
	}
	// Output:
	// attempt 1 failed, wait 1s
	// attempt 2 failed, wait 2s
	// attempt 3 failed, wait 4s
	// attempt 4 failed, wait 8s
	// attempt 5 failed, wait 10s
}

func ExampleRetry_String() {
	fmt.Println(resilience.Retry{MaxRetries: 5, Initial: time.Second, Max: time.Minute})
	fmt.Println(resilience.Retry{MaxRetries: resilience.NoRetries})
	// Output:
	// 5 retries after 1s, doubling up to 1m, full jitter
	// no retries
}

func ExampleRetry_Validate() {
	fmt.Println(resilience.Retry{Base: 0.5}.Validate())
	// Output: retry: Base is 0.5; use 1 or more, or 0 for 2
}

func BenchmarkDelay(b *testing.B) {
	for _, j := range []resilience.Jitter{resilience.FullJitter, resilience.NoJitter} {
		b.Run(j.String(), func(b *testing.B) {
			r := resilience.Retry{Jitter: j}
			b.ReportAllocs()
			for b.Loop() {
				r.Delay(3)
			}
		})
	}
}
