package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code says what kind of failure an *Error is. Codes travel on the wire, so
// their text never changes.
type Code string

// The codes. "Nothing ran" means that no handler saw the message.
const (
	// CodeInvalid: the message, a name or an option breaks a rule, which the
	// error states. Nothing ran.
	CodeInvalid Code = "invalid"
	// CodeNoHandler: nobody handles the command. Nothing ran.
	CodeNoHandler Code = "no_handler"
	// CodeBusy: every handler was full until the deadline, or a middleware that
	// limits them refused the message. Nothing ran.
	CodeBusy Code = "busy"
	// CodeUnavailable: the broker or the session's owner cannot be reached.
	// Nothing ran, or nothing was stored.
	CodeUnavailable Code = "unavailable"
	// CodeOpen: the command's circuit breaker is open in this process, because its
	// handlers failed too often. Nothing ran; Error.RetryIn tells when it may pass.
	CodeOpen Code = "circuit_open"
	// CodeTimeout: the deadline passed. The outcome is unknown, unless the
	// error says that nothing ran.
	CodeTimeout Code = "timeout"
	// CodeCancelled: the caller's context was cancelled. The outcome is unknown,
	// unless the error says that nothing ran.
	CodeCancelled Code = "cancelled"
	// CodeUnknown: it was sent and no answer came. It may have happened.
	CodeUnknown Code = "unknown"
	// CodeFailed: the handler returned an error, or its result did not reach the
	// caller. From a sending middleware, what it returned of its own.
	CodeFailed Code = "failed"
	// CodePanic: the handler panicked, or a sending middleware. The process lives.
	CodePanic Code = "panic"
	// CodeTooLarge: the message is over the transport's limit, which the error
	// states with the size. Nothing was sent.
	CodeTooLarge Code = "too_large"
	// CodeBacklog: the event log or a queue is full, or events come faster than
	// they are handled (Config.Backpressure). Nothing was stored. From Subscribe: the
	// server has room for no other listener.
	CodeBacklog Code = "backlog"
	// CodeConflict: the registration contradicts one that exists, or the
	// broker's configuration; or a command contradicts an earlier one of its
	// idempotency key. Nothing ran.
	CodeConflict Code = "conflict"
	// CodeNotFound: there is nothing of that id. Nothing was done.
	CodeNotFound Code = "not_found"
	// CodePermission: the broker denies it.
	CodePermission Code = "permission"
	// CodeClosed: the bus, session or subscription is closed.
	CodeClosed Code = "closed"
)

// Conditions of this process, for errors.Is.
var (
	// ErrClosed: the bus or scope is closed.
	ErrClosed = errors.New("bus is closed")
	// ErrSessionClosed: the session is closed here, or is closing.
	ErrSessionClosed = errors.New("session is closed")
	// ErrSessionOpen: the session is open in this process already.
	ErrSessionOpen = errors.New("session is open")
	// ErrSessionExpired: the session has ended because its process had lost its
	// lease. It is the cause of the contexts that this cancels.
	ErrSessionExpired = errors.New("session has expired")
	// ErrHandled: the command has a handler in this scope already.
	ErrHandled = errors.New("command has a handler")
	// ErrOwned: another live service handles the command.
	ErrOwned = errors.New("command is owned by another service")
	// ErrOutOfOrder: an event of PublishAsync was not sent, because an earlier one
	// of its key was not stored.
	ErrOutOfOrder = errors.New("an earlier event of its key was not stored")
	// ErrDropped: an event of PublishAsync was not sent, because newer ones needed
	// its place in the queue (DropOldest).
	ErrDropped = errors.New("dropped for newer events")
	// ErrRejected: an event was not let in, because the queue of PublishAsync is full
	// (RejectNew) or its turn would come too late (AdaptiveRateLimit).
	ErrRejected = errors.New("rejected, because too many events wait")
	// ErrLeaseLost is the cause of a handler's context that was cancelled
	// because its delivery, or the idempotency key of its command, may belong to
	// another process by now.
	ErrLeaseLost = errors.New("lease on the delivery lost")
	// ErrIdempotencyConflict: the idempotency key was used for a command whose
	// encoded form is another. It crosses the wire, with CodeConflict.
	ErrIdempotencyConflict = errors.New("idempotency key was used for another command")
	// ErrResultNotKept: a command of this idempotency key has succeeded, and its
	// result could not be kept. It crosses the wire, with CodeFailed.
	ErrResultNotKept = errors.New("the command has succeeded before, and its result was not kept")
	// ErrMaxRun is the cause of a handler's context that was cancelled because
	// the handler ran for longer than Config.MaxRun.
	ErrMaxRun = errors.New("handler ran for too long")
	// ErrStopped is the cause of a handler's context that was cancelled because
	// its bus stopped waiting for it in Close.
	ErrStopped = errors.New("bus stopped")
)

// Error is what the bus's functions return, and what crosses the wire from a
// command's handler to its caller. Act on CodeOf(err), errors.Is and errors.As,
// never on the text.
type Error struct {
	// Code says what kind of failure it is.
	Code Code
	// Op is what was being done: "execute", "publish", "handle", "subscribe".
	Op string
	// Name is the wire name of the message.
	Name string
	// ID is the id of the command or event, "" if it got none.
	ID string
	// Message says what happened, for people.
	Message string
	// Wire is the name under which Config.Errors registers the handler's error,
	// "" if it is not registered. errors.Is works for it on the caller's side.
	Wire string
	// Details are facts that survive the wire.
	Details map[string]string
	// Attempts is how often a handler ran, 0 if none did.
	Attempts int
	// DeadLetter is the id of the dead letter that a failed command has become, "" if
	// it has become none (see Config.Capture).
	DeadLetter string
	// RetryIn, with CodeOpen, is how long the circuit breaker stays open; 0 if it is
	// half-open, and waits for what another command tells. It does not cross the
	// wire. An event handler that returns the error runs again after that time (see
	// RetryAfter).
	RetryIn time.Duration

	cause error
	// permanent: the command's handler has said that no retry will mend it.
	permanent bool
}

// Error returns operation, name and message.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		if e.Name != "" {
			b.WriteByte(' ')
			b.WriteString(e.Name)
		}
		b.WriteString(": ")
	}
	switch {
	case e.Message != "":
		b.WriteString(e.Message)
	case e.cause != nil:
		b.WriteString(e.cause.Error())
	default:
		b.WriteString(string(e.Code))
	}
	return b.String()
}

// Unwrap returns the cause: the registered error for an error that crossed the
// wire, the driver's or the context's error for a local one.
func (e *Error) Unwrap() error { return e.cause }

// CodeOf returns the code of the first *Error in err's chain, CodeTimeout and
// CodeCancelled for bare context errors, CodeFailed for any other error, and ""
// for nil.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.DeadlineExceeded):
		return CodeTimeout
	case errors.Is(err, context.Canceled):
		return CodeCancelled
	default:
		return CodeFailed
	}
}

func errorf(code Code, op, name, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Op: op, Name: name, Message: err.Error(), cause: errors.Unwrap(err)}
}

// permanentError dead-letters at once.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks a handler's error as one that no retry will mend: an event becomes
// a dead letter at once, and a command's caller has the error at once. For a circuit
// breaker before the command the failure does not count. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// retryAfterError names its own delay.
type retryAfterError struct {
	err   error
	after time.Duration
}

func (e *retryAfterError) Error() string { return e.err.Error() }
func (e *retryAfterError) Unwrap() error { return e.err }

// RetryAfter makes the retry of a handler's error wait for d instead of the policy's
// delay. It still counts as an attempt, and is not made if it would begin after the
// policy's Within, or for a command after its caller's deadline. On a command without
// a policy it changes nothing. RetryAfter(d, nil) is nil; a negative d is no delay.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, max(d, 0)}
}

// panicError is a handler's panic.
type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// Unwrap lets errors.Is see a panic(err).
func (e *panicError) Unwrap() error {
	err, _ := e.value.(error)
	return err
}

// panicked returns the panic that err is, or nil. One that an *Error tells of
// already is not err's own.
func panicked(err error) *panicError {
	var p, told *panicError
	var e *Error
	if !errors.As(err, &p) || errors.As(err, &e) && errors.As(e, &told) {
		return nil
	}
	return p
}
