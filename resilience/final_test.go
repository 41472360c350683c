package resilience_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/resilience"
)

// verdict is an error that says itself whether it can be recovered from.
type verdict struct {
	unrecoverable bool
	err           error
}

func (v verdict) Error() string       { return "verdict" }
func (v verdict) Unwrap() error       { return v.err }
func (v verdict) Unrecoverable() bool { return v.unrecoverable }

// hostile is an error whose methods panic.
type hostile struct{}

func (*hostile) Error() string       { panic("Error") }
func (*hostile) Is(error) bool       { panic("Is") }
func (*hostile) As(any) bool         { panic("As") }
func (*hostile) Unrecoverable() bool { panic("Unrecoverable") }

// liar says that it is whatever it is asked for.
type liar struct{}

func (liar) Error() string { return "liar" }
func (liar) As(any) bool   { return true }

// slice cannot be compared.
type slice []int

func (slice) Error() string { return "slice" }

func TestIsFinal(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}
	listed := resilience.Retry{Final: []error{io.EOF, fs.ErrNotExist, resilience.Type[*json.SyntaxError](), resilience.Type[net.Error]()}}
	for _, c := range []struct {
		name  string
		retry resilience.Retry
		err   error
		want  bool
	}{
		{"nil", listed, nil, false},
		{"any error", resilience.Retry{}, io.EOF, false},
		{"not listed", listed, io.ErrUnexpectedEOF, false},
		{"listed", listed, io.EOF, true},
		{"wrapped", listed, fmt.Errorf("read: %w", io.EOF), true},
		{"joined", listed, errors.Join(io.ErrClosedPipe, io.EOF), true},
		{"by its method Is", listed, missing, true},
		{"type", listed, fmt.Errorf("parse: %w", &json.SyntaxError{}), true},
		{"interface", listed, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, true},
		{"other type", listed, &json.UnsupportedValueError{}, false},
		{"a deadline is not final by itself", resilience.Retry{}, context.DeadlineExceeded, false},
		{"unrecoverable", resilience.Retry{}, fmt.Errorf("a: %w", verdict{true, nil}), true},
		{"recoverable", resilience.Retry{}, verdict{false, nil}, false},
		{"the outermost decides", resilience.Retry{}, verdict{false, verdict{true, nil}}, false},
		{"recoverable, but listed", listed, verdict{false, io.EOF}, true},
		{"it panics", listed, &hostile{}, false},
		{"it lies", resilience.Retry{}, liar{}, false},
		{"it cannot be compared", resilience.Retry{Final: []error{slice{1}}}, slice{1}, false},
		{"the listed one panics", resilience.Retry{Final: []error{&hostile{}}}, io.EOF, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, c.retry.IsFinal(c.err))
		})
	}
	require.Contains(t, resilience.Retry{Final: []error{&hostile{}}}.String(), "PANIC")
	require.EqualError(t, resilience.Type[net.Error](), "any net.Error")
}

func TestAllows(t *testing.T) {
	for _, c := range []struct {
		within, since, delay time.Duration
		want                 bool
	}{
		{0, math.MaxInt64, math.MaxInt64, true},
		{time.Second, 0, 0, true},
		{time.Second, 0, time.Second, true},
		{time.Second, 0, time.Second + 1, false},
		{time.Second, 400 * ms, 600 * ms, true},
		{time.Second, 400*ms + 1, 600 * ms, false},
		{time.Second, time.Second, 0, true},
		{time.Second, time.Second + 1, 0, false},
		{time.Second, math.MaxInt64, math.MaxInt64, false},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, false},
		{time.Second, -time.Hour, time.Second, true},
		{time.Second, -time.Hour, time.Second + 1, false},
		{time.Second, math.MinInt64, math.MinInt64, true},
	} {
		r := resilience.Retry{Within: c.within}
		require.Equal(t, c.want, r.Allows(c.since, c.delay), "%+v", c)
	}
}

// run is what a caller that follows the policy does: every retry, and when.
func run(r resilience.Retry, random func() float64, took time.Duration) (attempts int, at []time.Duration) {
	var now, first time.Duration
	for attempt := 1; ; attempt++ {
		at = append(at, now)
		now += took
		if attempt == 1 {
			first = now
		}
		delay := r.DelayRand(attempt, random)
		if attempt >= r.Attempts() || !r.Allows(now-first, delay) {
			return attempt, at
		}
		now += delay
	}
}

// Whatever the policy: there are never more runs than it says, immediate ones come
// first and without a delay, no delay is over its bound, and no run begins past the
// limit.
func TestRunProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := resilience.Retry{
			MaxRetries: rapid.IntRange(-1, 40).Draw(t, "retries"),
			Initial:    time.Duration(rapid.Int64Range(1, int64(time.Second)).Draw(t, "initial")),
			Base:       rapid.Float64Range(1, 5).Draw(t, "base"),
			Within:     time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "within")),
			Jitter:     resilience.Jitter(rapid.IntRange(0, 1).Draw(t, "jitter")),
		}
		r.Max = r.Initial + time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "max"))
		r.Immediate = rapid.IntRange(0, r.Attempts()-1).Draw(t, "immediate")
		require.NoError(t, r.Validate())
		numbers := rapid.SliceOfN(rapid.Float64Range(0, math.Nextafter(1, 0)), 1, 5).Draw(t, "random")
		i := 0
		random := func() float64 { i++; return numbers[i%len(numbers)] }
		took := time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "took"))

		attempts, at := run(r, random, took)
		require.LessOrEqual(t, attempts, r.Attempts())
		if r.Within == 0 {
			require.Equal(t, r.Attempts(), attempts)
		}
		for n := 1; n < len(at); n++ {
			delay := at[n] - at[n-1] - took
			require.LessOrEqual(t, delay, r.Max)
			if n <= r.Immediate {
				require.Zero(t, delay, "retry %d", n)
			}
			if r.Within > 0 {
				require.LessOrEqual(t, at[n]-(at[0]+took), r.Within, "retry %d", n)
			}
		}
	})
}

func ExampleRetry_immediate() {
	r := resilience.Retry{MaxRetries: 4, Immediate: 2, Initial: time.Second, Jitter: resilience.NoJitter}
	for attempt := 1; attempt < r.Attempts(); attempt++ {
		fmt.Println("attempt", attempt, "failed, wait", r.Delay(attempt))
	}
	// Output:
	// attempt 1 failed, wait 0s
	// attempt 2 failed, wait 0s
	// attempt 3 failed, wait 1s
	// attempt 4 failed, wait 2s
}

func ExampleRetry_Allows() {
	r := resilience.Retry{Within: time.Minute}
	fmt.Println(r.Allows(50*time.Second, 10*time.Second))
	fmt.Println(r.Allows(55*time.Second, 10*time.Second))
	// Output:
	// true
	// false
}

func ExampleRetry_IsFinal() {
	r := resilience.Retry{Final: []error{fs.ErrNotExist, resilience.Type[*json.SyntaxError]()}}
	_, missing := os.Open("no such file")
	fmt.Println(r.IsFinal(missing))
	fmt.Println(r.IsFinal(json.Unmarshal([]byte("{"), new(any))))
	fmt.Println(r.IsFinal(io.ErrUnexpectedEOF))
	// Output:
	// true
	// true
	// false
}

func ExampleType() {
	fmt.Println(resilience.Retry{MaxRetries: 1, Final: []error{resilience.Type[*json.SyntaxError]()}})
	// Output: 1 retry after 100ms, full jitter, not of *json.SyntaxError
}
