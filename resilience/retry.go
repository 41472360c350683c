// Package resilience holds the policies by which the bus gets over failures,
// as pure values: they compute, and the bus waits and acts. It imports nothing
// of this project.
package resilience

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
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

// Retry says how often a handler that failed runs again, and how long to wait
// before each time. It is a plain value, safe for concurrent use; the zero
// value has the defaults.
type Retry struct {
	// MaxRetries is how often a handler runs again after its first failure.
	// Default 3; NoRetries means never.
	MaxRetries int
	// Initial is the delay after the first failure, before jitter. Default
	// 100 ms.
	Initial time.Duration
	// Max is the longest delay, jitter included. Default 10 s.
	Max time.Duration
	// Base is what the delay is multiplied with after each further failure: 1
	// or more, fractions allowed. Default 2.
	Base float64
	// Jitter spreads the delays of handlers that failed together. Default
	// FullJitter.
	Jitter Jitter
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
// first is 1: Initial × Base^(attempt-1), then jitter, then at most Max. It
// does not look at MaxRetries. Any attempt is fine: below 1 counts as 1, and
// nothing overflows.
func (r Retry) Delay(attempt int) time.Duration {
	return r.DelayRand(attempt, rand.Float64)
}

// DelayRand is Delay with a source of randomness, which returns numbers in
// [0, 1): the same numbers give the same delays. It is not called with
// NoJitter.
func (r Retry) DelayRand(attempt int, random func() float64) time.Duration {
	r = r.withDefaults()
	d := float64(r.Initial) * math.Pow(r.Base, float64(max(attempt, 1)-1))
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

// Validate returns an error that lists every field that breaks its rule.
func (r Retry) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("retry: "+format, args...)) }
	if r.MaxRetries < NoRetries {
		bad("MaxRetries is %d; use NoRetries (-1) for none", r.MaxRetries)
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
	if d := r.withDefaults(); errs == nil && d.Initial > d.Max {
		bad("Initial is %v, over Max, which is %v; raise Max or lower Initial", d.Initial, d.Max)
	}
	return errors.Join(errs...)
}

// String returns the policy in words, such as "3 retries after 100ms, doubling up
// to 10s, full jitter".
func (r Retry) String() string {
	n := r.Attempts() - 1
	var s string
	switch r = r.withDefaults(); {
	case n == 0:
		return "no retries"
	case n == 1:
		s = "1 retry"
	case r.MaxRetries == math.MaxInt:
		s = "endless retries"
	default:
		s = fmt.Sprintf("%d retries", n)
	}
	s += " after " + short(min(r.Initial, r.Max))
	switch {
	case n == 1:
	case r.Base == 1 || r.Initial >= r.Max:
		s += " each"
	case r.Base == 2:
		s += ", doubling up to " + short(r.Max)
	default:
		s += fmt.Sprintf(", times %g up to %s", r.Base, short(r.Max))
	}
	if r.Jitter == NoJitter {
		return s + ", no jitter"
	}
	return s + ", full jitter"
}

// short is d without units that are zero at its end: 1h instead of 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
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
