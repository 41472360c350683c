package middleware

import (
	"context"

	"github.com/jitney-bus/jitney/bus"
)

// RecoverOption is an option of Recover.
type RecoverOption interface{ recover(*recoverOptions) }

type recoverOptions struct {
	told []func(context.Context, *bus.Message, any, string)
	bad  bool
}

type recoverOption func(*recoverOptions)

func (f recoverOption) recover(o *recoverOptions) { f(o) }

// OnPanic calls fn for each panic, with its value and stack, before the error goes
// on: for an alert, or a service that collects panics. It runs on the goroutine of
// the message.
func OnPanic(fn func(ctx context.Context, m *bus.Message, value any, stack string)) RecoverOption {
	return recoverOption(func(o *recoverOptions) {
		o.bad = o.bad || fn == nil
		o.told = append(o.told, fn)
	})
}

// Recover turns a panic of the middleware further in into an error with its stack,
// of bus.CodePanic to the caller, and tells OnPanic of it and of every panic of the
// handler.
//
// The bus recovers by itself, around the handler and outermost, so the process
// lives without it, and every middleware sees a handler's panic as an error. Use it
// for OnPanic, or to let the middleware outside it clean up after a panic of those
// inside it.
func Recover(opts ...RecoverOption) bus.Middleware {
	var o recoverOptions
	for _, opt := range opts {
		opt.recover(&o)
	}
	if o.bad {
		return invalid("Recover", "the function of OnPanic is nil")
	}
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			v, err := recovering(ctx, m, next)
			if value, stack, ok := bus.PanicOf(err); ok {
				for _, tell := range o.told {
					tell(ctx, m, value, stack)
				}
			}
			return v, err
		}
	}
}

func recovering(ctx context.Context, m *bus.Message, next bus.Func) (v any, err error) {
	defer bus.Recover(&err)
	return next(ctx, m)
}
