// Package resilience holds the policies by which the bus gets over failures,
// as pure values: they compute, and the bus waits and acts. It imports nothing
// of this project.
package resilience

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// The defaults of a Retry.
const (
	DefaultMaxRetries = 3
	DefaultInitial    = 100 * time.Millisecond
	DefaultMax        = 10 * time.Second
	DefaultBase       = 2.0
)

// NoRetries as Retry.MaxRetries means that a failure is final.
const NoRetries = -1

// Retry says how often a handler that failed runs again, how long to wait before
// each time, and which failures are final. It is a plain value, safe for
// concurrent use; the zero value has the defaults.
type Retry struct {
	// MaxRetries is how often a handler runs again after its first failure.
	// Default 3; NoRetries means never.
	MaxRetries int
	// Immediate is how many of these retries come first, without a delay: for
	// what the next try mends, such as a lost race. Default 0, at most MaxRetries.
	Immediate int
	// Initial is the delay after the first failure that is not followed by an
	// immediate retry, before jitter. Default 100 ms.
	Initial time.Duration
	// Max is the longest delay, jitter included. Default 10 s.
	Max time.Duration
	// Base is what the delay is multiplied with after each further failure: 1
	// or more, fractions allowed. Default 2.
	Base float64
	// Jitter spreads the delays of handlers that failed together. Default
	// FullJitter.
	Jitter Jitter
	// Within limits the time for all retries, counted from the first failure: one
	// that would begin later is not made, and the failure is final. Default 0, no
	// limit.
	Within time.Duration
	// Final are the errors that no retry mends, as errors.Is finds them, or those of
	// Type, as errors.As does. An error with a method Unrecoverable() bool that
	// returns true needs no entry. Default none.
	Final []error
}

// Jitter is how a delay is made random.
type Jitter int

const (
	// FullJitter picks a delay evenly between zero and the computed one.
	FullJitter Jitter = iota
	// NoJitter takes the computed delay, so that delays are predictable.
	NoJitter
)

// String returns "full" or "none".
func (j Jitter) String() string {
	switch j {
	case FullJitter:
		return "full"
	case NoJitter:
		return "none"
	default:
		return fmt.Sprintf("Jitter(%d)", int(j))
	}
}

// Attempts returns how often a handler runs at most: once, and MaxRetries times
// again.
func (r Retry) Attempts() int {
	switch {
	case r.MaxRetries < 0:
		return 1
	case r.MaxRetries == 0:
		return 1 + DefaultMaxRetries
	case r.MaxRetries == math.MaxInt:
		return math.MaxInt
	}
	return 1 + r.MaxRetries
}

// Delay returns how long to wait after an attempt that failed, of which the
// first is 1: nothing after the first Immediate ones, then Initial × Base^n, where
// n counts from 0, then jitter, then at most Max. It does not look at MaxRetries
// and Within. Any attempt is fine: below 1 counts as 1, and nothing overflows.
func (r Retry) Delay(attempt int) time.Duration {
	return r.DelayRand(attempt, rand.Float64)
}

// DelayRand is Delay with a source of randomness, which returns numbers in
// [0, 1): the same numbers give the same delays. It is not called with
// NoJitter, and for an immediate retry.
func (r Retry) DelayRand(attempt int, random func() float64) time.Duration {
	r = r.withDefaults()
	attempt = max(attempt, 1)
	if attempt <= r.Immediate {
		return 0
	}
	d := float64(r.Initial) * math.Pow(r.Base, float64(attempt-1-max(r.Immediate, 0)))
	d = min(d, math.MaxInt64) // Pow may be infinite, and infinity times zero is no number
	if r.Jitter != NoJitter {
		d *= random()
	}
	// The bound comes after the jitter, so that no delay is over Max.
	if d >= float64(r.Max) {
		return r.Max
	}
	return max(time.Duration(d), 0)
}

// Allows reports whether a retry may begin after a delay, when so much time has
// passed since the first failure. It may unless Within says otherwise; what is
// negative counts as 0, as where clocks differ.
func (r Retry) Allows(since, delay time.Duration) bool {
	return r.Within <= 0 || max(delay, 0) <= r.Within-max(since, 0)
}

// Validate returns an error that lists every field that breaks its rule.
func (r Retry) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("retry: "+format, args...)) }
	if r.MaxRetries < NoRetries {
		bad("MaxRetries is %d; use NoRetries (-1) for none", r.MaxRetries)
	}
	switch retries := r.Attempts() - 1; {
	case r.Immediate < 0:
		bad("Immediate is %d; use a number of retries, or 0 for none", r.Immediate)
	case r.Immediate > retries:
		bad("Immediate is %d of %s; raise MaxRetries or lower Immediate", r.Immediate, counted(retries))
	}
	if r.Initial < 0 {
		bad("Initial is %v; use a positive delay, or 0 for %v", r.Initial, DefaultInitial)
	}
	if r.Max < 0 {
		bad("Max is %v; use a positive delay, or 0 for %v", r.Max, DefaultMax)
	}
	if r.Base != 0 && !(r.Base >= 1 && r.Base <= math.MaxFloat64) {
		bad("Base is %v; use 1 or more, or 0 for %v", r.Base, DefaultBase)
	}
	if r.Jitter != FullJitter && r.Jitter != NoJitter {
		bad("Jitter is %v; use FullJitter or NoJitter", r.Jitter)
	}
	if r.Within < 0 {
		bad("Within is %v; use a positive duration, or 0 for no limit", r.Within)
	}
	for i, err := range r.Final {
		if err == nil {
			bad("Final[%d] is nil", i)
		}
	}
	if d := r.withDefaults(); errs == nil && d.Initial > d.Max {
		bad("Initial is %v, over Max, which is %v; raise Max or lower Initial", d.Initial, d.Max)
	}
	return errors.Join(errs...)
}

// withDefaults replaces what is zero, or cannot be computed with.
func (r Retry) withDefaults() Retry {
	if r.Initial <= 0 {
		r.Initial = DefaultInitial
	}
	if r.Max <= 0 {
		r.Max = DefaultMax
	}
	if !(r.Base >= 1) {
		r.Base = DefaultBase
	}
	return r
}
