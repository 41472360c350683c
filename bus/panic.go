package bus

import "runtime/debug"

// Recover, deferred by a middleware, turns a panic of the rest of the chain into
// an error with its stack, as the bus itself does outermost and around the
// handler. Its code is CodePanic to the caller, and a dead letter keeps the stack:
//
//	func(ctx context.Context, m *bus.Message) (v any, err error) {
//		defer bus.Recover(&err)
//		return next(ctx, m)
//	}
func Recover(err *error) {
	if r := recover(); r != nil {
		*err = sane(&panicError{value: r, stack: string(debug.Stack())})
	}
}

// PanicOf returns the panic that became err: its value and its stack, the text of
// debug.Stack. It reports false for any other error, also for one of CodePanic
// that crossed the wire, which is only told of.
func PanicOf(err error) (value any, stack string, ok bool) {
	p := panicked(err)
	if p == nil {
		return nil, "", false
	}
	return p.value, p.stack, true
}
