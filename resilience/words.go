package resilience

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// String returns the policy in words, such as "3 retries after 100ms, doubling up
// to 10s, full jitter", or "5 retries, 2 at once, then after 1s, doubling up to
// 10s, full jitter, within 1m, not of \"EOF\"".
func (r Retry) String() string {
	n := r.Attempts() - 1
	if n == 0 {
		return "no retries"
	}
	s := counted(n)
	switch {
	case r.Immediate >= n:
		s += " at once"
	case r.Immediate > 0:
		s += fmt.Sprintf(", %d at once, then", r.Immediate)
		fallthrough
	default:
		s += r.delays(n - max(r.Immediate, 0))
	}
	if r.Within > 0 {
		s += ", within " + short(r.Within)
	}
	for i, err := range r.Final {
		s += [...]string{", not of ", " or "}[min(i, 1)] + nameOf(err)
	}
	return s
}

// counted is a number of retries in words.
func counted(n int) string {
	switch n {
	case 0:
		return "no retries"
	case 1:
		return "1 retry"
	case math.MaxInt - 1, math.MaxInt:
		return "endless retries"
	default:
		return fmt.Sprintf("%d retries", n)
	}
}

// delays tells when so many retries come, of which none is immediate.
func (r Retry) delays(n int) string {
	r = r.withDefaults()
	s := " after " + short(min(r.Initial, r.Max))
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

// nameOf is an error of Final in words. fmt survives an error whose method panics.
func nameOf(err error) string {
	if t, ok := err.(matcher); ok {
		return t.name()
	}
	return fmt.Sprintf("%q", fmt.Sprint(err))
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
