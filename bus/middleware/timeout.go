package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// Timeout bounds the rest of the chain to d, which is positive: its context ends
// then, with a cause that names the handler. A handler that ignores its context is
// still waited for, and what it returns counts if it succeeds. An earlier deadline
// of the caller holds.
//
// What fails after d is an error of bus.CodeTimeout that is a
// context.DeadlineExceeded and says which handler it was, around what the chain
// returned; a *bus.Error with a reason of its own, such as bus.CodeInvalid, stays
// as it is. An event is retried as after any failure. The caller of a command sees
// bus.CodeFailed from a handler's Timeout: its own deadline has not passed, and the
// handler has run; the text tells, and errors.Is does not. On the sending side it is the caller who sees bus.CodeTimeout.
func Timeout(d time.Duration) bus.Middleware {
	if d <= 0 {
		return invalid("Timeout", "%v is not positive", d)
	}
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			late := &overrun{m, d}
			bounded, cancel := context.WithTimeoutCause(ctx, d, late)
			defer cancel()
			v, err := next(bounded, m)
			if err == nil || context.Cause(bounded) != error(late) || hasReason(m, err) {
				return v, err
			}
			return v, failure(m, bus.CodeTimeout, errors.Join(context.DeadlineExceeded, err), late.Error()+": "+err.Error())
		}
	}
}

// overrun is the cause of a context that Timeout ended.
type overrun struct {
	m *bus.Message
	d time.Duration
}

func (o *overrun) Error() string { return fmt.Sprintf("%s took longer than %v", subject(o.m), o.d) }
func (o *overrun) Unwrap() error { return context.DeadlineExceeded }

// hasReason reports whether err says more than that the context has ended.
func hasReason(m *bus.Message, err error) bool {
	var e *bus.Error
	if !errors.As(err, &e) {
		return false
	}
	return sending(m) || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}
