package middleware

import (
	"context"
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/bus"
)

// fault is an error of a middleware: what it is to the bus, and what it comes
// from.
type fault struct {
	is    *bus.Error
	cause error
}

func (f *fault) Error() string { return f.is.Error() }

// Unwrap lets errors.As find the *bus.Error first: its code is the one that
// counts.
func (f *fault) Unwrap() []error { return []error{f.is, f.cause} }

// failure makes a fault. On the sending side it names what was being done, as the
// errors of the bus do there; on the receiving side the bus adds that for the
// caller, and takes an error that names it for another call's.
func failure(m *bus.Message, code bus.Code, cause error, text string) *fault {
	e := &bus.Error{Code: code, Message: text, ID: m.ID}
	if sending(m) {
		e.Op, e.Name = "execute", m.Name
		if m.Kind == bus.KindEvent {
			e.Op = "publish"
		}
	}
	return &fault{e, cause}
}

// errRefused is the cause of a message that was not let through.
var errRefused = errors.New("refused")

// gaveUp is the error of a message whose context ended while it waited for what
// says. Nothing ran.
func gaveUp(ctx context.Context, m *bus.Message, what string) error {
	code := bus.CodeBusy
	if sending(m) && errors.Is(ctx.Err(), context.Canceled) {
		code = bus.CodeCancelled
	}
	cause := context.Cause(ctx)
	return failure(m, code, cause, fmt.Sprintf("%s waited for %s; nothing ran: %v", subject(m), what, cause))
}

// sending tells the chains apart.
func sending(m *bus.Message) bool { return m.Attempt == 0 }

// subject says what a middleware wraps, for people.
func subject(m *bus.Message) string {
	switch {
	case sending(m):
		return m.Name
	case m.Kind == bus.KindCommand:
		return "the handler of " + m.Name
	case m.Group == "":
		return fmt.Sprintf("the private listener %q of %s", m.Handler, m.Name)
	default:
		return fmt.Sprintf("the listener %q of %s in group %q", m.Handler, m.Name, m.Group)
	}
}

// invalid is a middleware with a setting that breaks its rule. It cannot be built,
// which the bus reports when it is registered.
func invalid(constructor, format string, args ...any) bus.Middleware {
	err := &bus.Error{
		Code:    bus.CodeInvalid,
		Message: "middleware." + constructor + ": " + fmt.Sprintf(format, args...),
	}
	return func(bus.Func) bus.Func { panic(err) }
}
