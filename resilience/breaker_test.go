package resilience_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/resilience"
)

func TestBreakerDefaults(t *testing.T) {
	require.Equal(t, resilience.Breaker{
		FailureThreshold: 5, Window: time.Minute, Recovery: time.Minute, SuccessThreshold: 3, ProbeTimeout: time.Minute,
	}, resilience.Breaker{}.WithDefaults())
	own := resilience.Breaker{FailureThreshold: resilience.NeverOpens, Window: 1, Recovery: 2, SuccessThreshold: 4, ProbeTimeout: 3}
	require.Equal(t, own, own.WithDefaults())
}

func TestBreakerValidate(t *testing.T) {
	for _, b := range []resilience.Breaker{
		{}, {FailureThreshold: resilience.NeverOpens}, {FailureThreshold: resilience.MaxFailureThreshold},
		{FailureThreshold: 1, Window: 1, Recovery: 1, SuccessThreshold: 1, ProbeTimeout: 1},
	} {
		require.NoError(t, b.Validate(), "%+v", b)
	}
	for want, b := range map[string]resilience.Breaker{
		"breaker: FailureThreshold is -2; use 1 to 10000, 0 for 5, or NeverOpens (-1)":    {FailureThreshold: -2},
		"breaker: FailureThreshold is 10001; use 1 to 10000, 0 for 5, or NeverOpens (-1)": {FailureThreshold: 10_001},
		"breaker: SuccessThreshold is -1; use 1 or more, or 0 for 3":                      {SuccessThreshold: -1},
		"breaker: Window is -1s; use a positive time, or 0 for 1m0s":                      {Window: -time.Second},
		"breaker: Recovery is -1s; use a positive time, or 0 for 1m0s":                    {Recovery: -time.Second},
		"breaker: ProbeTimeout is -1s; use a positive time, or 0 for 1m0s":                {ProbeTimeout: -time.Second},
	} {
		require.EqualError(t, b.Validate(), want)
	}
	err := resilience.Breaker{Window: -1, Recovery: -1}.Validate()
	require.ErrorContains(t, err, "Window")
	require.ErrorContains(t, err, "Recovery")
}

func TestBreakerInWords(t *testing.T) {
	for want, b := range map[string]resilience.Breaker{
		"opens at 5 failures in 1m for 1m, closes after 3 successes":   {},
		"opens at 1 failure in 1m for 1h30m, closes after 1 success":   {FailureThreshold: 1, Recovery: 90 * time.Minute, SuccessThreshold: 1},
		"opens at 20 failures in 10s for 5s, closes after 3 successes": {FailureThreshold: 20, Window: 10 * time.Second, Recovery: 5 * time.Second},
		"never opens": {FailureThreshold: resilience.NeverOpens},
	} {
		require.Equal(t, want, b.String())
	}
}

// The numbers are those of the metric, whatever the constants are.
func TestBreakerState(t *testing.T) {
	for s, want := range map[resilience.BreakerState]struct {
		gauge float64
		text  string
	}{
		resilience.BreakerClosed:   {0, "closed"},
		resilience.BreakerOpen:     {1, "open"},
		resilience.BreakerHalfOpen: {2, "half-open"},
	} {
		require.Equal(t, want.gauge, s.Gauge())
		require.Equal(t, want.text, s.String())
		text, err := json.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%q", want.text), string(text))
		back := resilience.BreakerState(9)
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, s, back)
	}
	require.Equal(t, "BreakerState(9)", resilience.BreakerState(9).String())
	var s resilience.BreakerState
	require.Error(t, s.UnmarshalText([]byte("ajar")))
}

func ExampleBreaker() {
	fmt.Println(resilience.Breaker{})
	fmt.Println(resilience.Breaker{FailureThreshold: 100, Window: 10 * time.Second, Recovery: 30 * time.Second, SuccessThreshold: 5})
	fmt.Println(resilience.Breaker{FailureThreshold: resilience.NeverOpens})
	// Output:
	// opens at 5 failures in 1m for 1m, closes after 3 successes
	// opens at 100 failures in 10s for 30s, closes after 5 successes
	// never opens
}
