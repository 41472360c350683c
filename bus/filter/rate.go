package filter

import (
	"fmt"

	"golang.org/x/time/rate"

	"github.com/jitney-bus/jitney/bus"
)

// RateLimit passes at most limit events a second on average and burst at once;
// rate.Every turns an interval into a limit. What is over the limit is stopped for
// good: use it where a part of the events is enough, such as for a display, and
// middleware.RateLimit where every event counts.
//
// It is one limit for everything that this one filter is given to, in this process.
// An event that is delivered again (Attempt above 1) passes and uses nothing up: it
// was let through before.
func RateLimit(limit rate.Limit, burst int) bus.Filter {
	label := fmt.Sprintf("rate limit(%v/s, burst %d)", float64(limit), burst)
	switch {
	case !(limit > 0):
		return invalid(label, "the limit of %v a second is not positive", float64(limit))
	case burst < 1:
		return invalid(label, "the burst of %d is not positive", burst)
	}
	l := rate.NewLimiter(limit, burst)
	return bus.Filter{Name: label, Pass: func(m *bus.Message) bool { return m.Attempt > 1 || l.Allow() }}
}
