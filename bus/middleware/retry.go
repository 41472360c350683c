package middleware

import (
	"context"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
)

// RetryOption is an option of Retry.
type RetryOption interface{ retry(*retryOptions) }

type retryOptions struct {
	onlyIf []func(error) bool
	bad    bool
}

type retryOption func(*retryOptions)

func (f retryOption) retry(o *retryOptions) { f(o) }

// OnlyIf retries only errors that transient reports true for, typically with
// errors.Is and errors.As. Given twice, both must. What Retry never retries it is
// not asked about.
func OnlyIf(transient func(err error) bool) RetryOption {
	return retryOption(func(o *retryOptions) {
		o.bad = o.bad || transient == nil
		o.onlyIf = append(o.onlyIf, transient)
	})
}

// Retry runs the rest of the chain again when it fails, as often and after such
// delays as the policy says; the zero policy is 3 retries after 100 ms, doubling,
// with full jitter. bus.RetryAfter overrides a delay. A delay that would reach the
// context's deadline is not begun: the error is returned at once. What is returned
// in the end is the last error as it is.
//
// For a command on the receiving side it runs the handler again, which therefore
// has to be idempotent, within the caller's deadline. Never retried are
// bus.Permanent, bus.CodeInvalid, and whatever happens once the context has ended,
// because its caller has given up or its bus is closing. A panic counts like
// another error. Middleware further in finds the number of the run in
// Message.Attempt; Meta.Attempt stays 1.
//
// An event on the receiving side passes through: the bus itself retries it, without
// holding a worker (Config.Retry, WithRetry).
//
// On the sending side a command is sent again only where it is sure that nothing
// ran: bus.CodeNoHandler, bus.CodeBusy, bus.CodeUnavailable. Execute itself asks
// again in the last two; so it is above all for callers that start before their
// handlers. With an idempotency key (bus.WithIdempotencyKey, bus.WithIdempotency) it
// is sent again also where it is not known whether it ran: bus.CodeTimeout, as of a
// Timeout further in, and bus.CodeUnknown. An event is published again when it is not stored (bus.CodeUnavailable,
// bus.CodeBusy, bus.CodeBacklog), and for two minutes also when that is not known
// (bus.CodeTimeout, bus.CodeCancelled, bus.CodeUnknown): it has the same id, and is
// stored once within the dedup window, which is two minutes by default and should
// not be less.
func Retry(policy resilience.Retry, opts ...RetryOption) bus.Middleware {
	var o retryOptions
	for _, opt := range opts {
		opt.retry(&o)
	}
	if err := policy.Validate(); err != nil {
		return invalid("Retry", "%v", err)
	}
	if o.bad {
		return invalid("Retry", "the function of OnlyIf is nil")
	}
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			if m.Kind == bus.KindEvent && !sending(m) {
				return next(ctx, m)
			}
			return o.run(ctx, m, next, policy)
		}
	}
}

func (o *retryOptions) run(ctx context.Context, m *bus.Message, next bus.Func, policy resilience.Retry) (any, error) {
	began := time.Now()
	for run := 1; ; run++ {
		v, err := next(ctx, numbered(m, run))
		if err == nil || run >= policy.Attempts() || !o.transient(err) {
			return v, err
		}
		delay, ok := bus.RetryDelay(err)
		if !ok {
			delay = policy.Delay(run)
		}
		if !mayRepeat(m, err, time.Since(began)+delay) || !pause(ctx, delay) {
			return v, err
		}
	}
}

// numbered returns m, or a copy for a later run of a handler.
func numbered(m *bus.Message, run int) *bus.Message {
	if run == 1 || sending(m) {
		return m
	}
	c := *m
	c.Attempt += run - 1
	return &c
}

// transient reports whether another run may mend err.
func (o *retryOptions) transient(err error) bool {
	if bus.IsPermanent(err) || bus.CodeOf(err) == bus.CodeInvalid {
		return false
	}
	for _, f := range o.onlyIf {
		if !f(err) {
			return false
		}
	}
	return true
}

// dedupWindow is for how long a driver recognises an event by its id, at least by
// default.
const dedupWindow = 2 * time.Minute

// mayRepeat reports whether m may be sent or run again, so long after the first
// time.
func mayRepeat(m *bus.Message, err error, after time.Duration) bool {
	if !sending(m) {
		return true
	}
	switch bus.CodeOf(err) {
	case bus.CodeBusy, bus.CodeUnavailable:
		return true
	case bus.CodeNoHandler:
		return m.Kind == bus.KindCommand
	case bus.CodeBacklog:
		return m.Kind == bus.KindEvent
	case bus.CodeTimeout, bus.CodeCancelled, bus.CodeUnknown:
		return m.Kind == bus.KindEvent && after < dedupWindow || m.IdempotencyKey != ""
	default:
		return false
	}
}

// pause waits, and reports whether there is time for another run after it. It does
// not begin to wait if there is none.
func pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Add(d).Before(deadline) {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
