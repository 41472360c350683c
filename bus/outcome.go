package bus

import (
	"context"
	"errors"
	"time"
)

// refusedError is an error of a command's receiving chain that did not call the
// handler.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

func refused(err error) bool {
	var r *refusedError
	return errors.As(err, &r)
}

// outcome is a handler's error as its caller may take it. A code that the
// handler chose travels, and from a middleware that did not call the handler also
// those that say that nothing ran. The code of what the handler asked of the bus
// does not: to its caller the handler has run, and failed. What else the error
// says is kept, and errors.Is works on it as before.
func (k *call) outcome(err error) error {
	var e *Error
	switch {
	case err == nil, panicked(err) != nil:
		return err
	case CodeOf(err) == CodeTimeout && k.expired():
		return err // the caller's deadline, which the handler was bound by
	case errors.As(err, &e):
		if e.Op == "" && (e.Code.handlers() || e.Code.refusals() && refused(err)) {
			return err
		}
	case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled):
		return err // CodeFailed by itself
	}
	failed := &Error{Code: CodeFailed, Message: err.Error(), cause: err}
	if e != nil {
		failed.Wire, failed.Details = e.Wire, e.Details
	}
	return failed
}

// expired reports whether the call's own deadline has passed.
func (k *call) expired() bool {
	d, ok := k.Deadline()
	return ok && !time.Now().Before(d)
}

// handlers reports whether a handler may choose the code. Those that tell
// whether anything ran, or what became of a message, are the bus's to say, of
// what it did itself; and a code is a name.
func (c Code) handlers() bool {
	switch c {
	case CodeNoHandler, CodeBusy, CodeUnavailable, CodeTimeout, CodeCancelled,
		CodeUnknown, CodeBacklog, CodeClosed, CodeOpen:
		return false
	default:
		return checkName(string(c)) == nil
	}
}

// refusals reports whether a middleware may choose the code that does not call
// the handler: the caller then knows that nothing ran.
func (c Code) refusals() bool { return c == CodeBusy || c == CodeUnavailable }
