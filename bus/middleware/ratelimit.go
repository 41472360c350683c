package middleware

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/jitney-bus/jitney/bus"
)

// RateOption is an option of RateLimit.
type RateOption interface{ rate(*rateOptions) }

type rateOptions struct {
	reject, perName, perSession bool
	max                         int
}

type rateOption func(*rateOptions)

func (f rateOption) rate(o *rateOptions) { f(o) }

// PerName gives each message name a limit of its own.
func PerName() RateOption { return rateOption(func(o *rateOptions) { o.perName = true }) }

// PerSession gives each session a limit of its own; messages without a session
// share one. With PerName each name has one in each session.
func PerSession() RateOption { return rateOption(func(o *rateOptions) { o.perSession = true }) }

// MaxLimits bounds how many limits PerName and PerSession keep. Default 10,000. One
// that has recovered whole is forgotten first, which changes nothing. Beyond that
// the one longest unused is, and begins anew if it is needed again.
func MaxLimits(n int) RateOption { return rateOption(func(o *rateOptions) { o.max = n }) }

// RateLimit lets messages into the rest of the chain at most limit times a second
// on average, and burst at once; rate.Every turns an interval into a limit. It is
// one limit for everything that this one middleware wraps, in this process:
// registered for two handlers, the two share it. PerName and PerSession make more.
//
// What is over the limit waits for its turn until its context ends. If its turn
// would come after its deadline it does not wait: the error is of bus.CodeBusy, or
// bus.CodeCancelled if a sender gave up. With Reject nothing waits, and the error
// says with bus.RetryAfter when there is room again, which Retry honours and so
// does the bus with an event.
//
// A message that waits on the receiving side holds one of its handler's slots
// (bus.WithConcurrency), and its event is kept alive up to Config.MaxRun.
func RateLimit(limit rate.Limit, burst int, opts ...RateOption) bus.Middleware {
	o := rateOptions{max: 10_000}
	for _, opt := range opts {
		opt.rate(&o)
	}
	switch {
	case !(limit > 0):
		return invalid("RateLimit", "the limit of %v a second is not positive", float64(limit))
	case burst < 1:
		return invalid("RateLimit", "the burst of %d is not positive", burst)
	case o.max < 1:
		return invalid("RateLimit", "MaxLimits(%d) is not positive", o.max)
	}
	l := &limits{options: o, limit: limit, burst: burst, byKey: newOrdered[*rate.Limiter]()}
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			if err := l.enter(ctx, m); err != nil {
				return nil, err
			}
			return next(ctx, m)
		}
	}
}

// limits are the limiters of one RateLimit.
type limits struct {
	options rateOptions
	limit   rate.Limit
	burst   int

	mu    sync.Mutex
	byKey *ordered[*rate.Limiter] // the longest unused is the oldest
}

func (l *limits) enter(ctx context.Context, m *bus.Message) error {
	now := time.Now()
	turn := l.reserve(m, now)
	delay := turn.DelayFrom(now)
	if delay == 0 {
		return nil
	}
	if l.options.reject {
		turn.CancelAt(now)
		f := failure(m, bus.CodeBusy, errRefused, fmt.Sprintf("the rate limit of %s is reached; nothing ran; try again in %v", subject(m), delay))
		f.is.Details = map[string]string{"retry_after": delay.String()}
		return bus.RetryAfter(delay, f)
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(now) < delay {
		turn.CancelAt(now)
		return failure(m, bus.CodeBusy, context.DeadlineExceeded, fmt.Sprintf(
			"the rate limit of %s has room in %v, after the deadline; nothing ran", subject(m), delay))
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		turn.Cancel()
		return gaveUp(ctx, m, "the rate limit")
	}
}

// reserve takes m's turn. It does so under the lock, so that no limiter is
// forgotten between being found and being used.
func (l *limits) reserve(m *bus.Message, now time.Time) *rate.Reservation {
	key := ""
	if l.options.perName {
		key = m.Name
	}
	if l.options.perSession {
		key += " " + m.Session // a name has no space
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter, ok := l.byKey.get(key)
	if !ok {
		l.makeRoom(now)
		limiter = rate.NewLimiter(l.limit, l.burst)
	}
	l.byKey.put(key, limiter)
	return limiter.ReserveN(now, 1)
}

// makeRoom forgets limiters that are as good as new ones, and at least one if
// there are too many. l.mu is held.
func (l *limits) makeRoom(now time.Time) {
	for {
		oldest, ok := l.byKey.oldest()
		if !ok || oldest.TokensAt(now) < float64(l.burst) && l.byKey.len() < l.options.max {
			return
		}
		l.byKey.dropOldest()
	}
}
