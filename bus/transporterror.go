package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/transport"
)

// fromTransport turns a driver's error into ours. Here alone the bus reads them.
// What is an *Error already stays as it is.
func fromTransport(op, name, id string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	e = &Error{Op: op, Name: name, ID: id, Code: transportCode(err), Message: err.Error(), cause: err}
	switch e.Code {
	case CodeNoHandler:
		e.Message = fmt.Sprintf("nobody handles %q; is the service that does running?", name)
	case CodeClosed:
		e.cause = errors.Join(ErrClosed, err)
		if op == "execute" { // it may have been sent before
			e.Code, e.Message = CodeUnknown, "the bus was closed before an answer came; the command may have run"
		}
	case CodeUnknown:
		if errors.Is(err, transport.ErrClosed) {
			e.cause = errors.Join(ErrClosed, err)
		}
	case "": // what the driver left unmapped
		e.Code = CodeUnknown
		if op != "execute" && op != "publish" { // then it was not done
			e.Code = CodeUnavailable
		}
	}
	return e
}

// transportCode is the code of a driver's error, "" for one that is none of the
// transport's. Of several it takes the one that promises least.
func transportCode(err error) Code {
	var size *transport.SizeError
	switch {
	case errors.Is(err, transport.ErrUnknown):
		return CodeUnknown
	case errors.Is(err, transport.ErrNoHandler):
		return CodeNoHandler
	case errors.Is(err, transport.ErrBusy):
		return CodeBusy
	case errors.As(err, &size):
		return CodeTooLarge
	case errors.Is(err, transport.ErrClosed):
		return CodeClosed
	case errors.Is(err, transport.ErrPermission):
		return CodePermission
	case errors.Is(err, transport.ErrBacklog):
		return CodeBacklog
	case errors.Is(err, transport.ErrInvalid):
		return CodeInvalid
	case errors.Is(err, transport.ErrConfig), errors.Is(err, transport.ErrExists), errors.Is(err, transport.ErrConflict):
		return CodeConflict
	case errors.Is(err, transport.ErrUnavailable), errors.Is(err, transport.ErrStopping):
		return CodeUnavailable // not sent, even if the deadline passed meanwhile
	case errors.Is(err, context.DeadlineExceeded):
		return CodeTimeout
	case errors.Is(err, context.Canceled):
		return CodeCancelled
	}
	return ""
}

// fromOutcome turns what became of a published message into ours. The status
// counts: the error may be of a kind that says more than the driver knows.
func fromOutcome(m *transport.Message, out transport.Outcome) error {
	err := fromTransport("publish", m.To.Name, m.ID, out.Err)
	e, ok := err.(*Error)
	if !ok {
		return err
	}
	switch {
	case out.Status == transport.Unknown && e.Code != CodeTimeout && e.Code != CodeCancelled:
		e.Code = CodeUnknown
	case out.Status == transport.Refused && e.Code == CodeUnknown:
		e.Code = CodeUnavailable
	}
	return e
}

// fromChain turns what the sending chain returned into ours. What the bus itself
// did is an *Error by then; the rest is a middleware's own and tells nothing of
// the message.
func fromChain(op, name, id string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Name: name, ID: id, Code: CodePanic, Message: err.Error(), cause: err}
	if _, ok := err.(*panicError); ok {
		return e
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	e.Code = CodeOf(err)
	return e
}
