package bus

import (
	"errors"
	"maps"
	"strings"

	"github.com/jitney-bus/jitney/resilience"
)

// wireError is the body of an error reply, as JSON.
type wireError struct {
	Code     Code              `json:"code"`
	Message  string            `json:"message,omitempty"`
	Wire     string            `json:"error,omitempty"`
	Details  map[string]string `json:"details,omitempty"`
	Attempts int               `json:"attempts,omitempty"`
	// Permanent: no retry will mend it, and it says nothing of the handler's health.
	Permanent bool `json:"permanent,omitempty"`
	// DeadLetter is the id of the dead letter that the command has become.
	DeadLetter string `json:"dead_letter,omitempty"`
}

// The errors of the bus that errors.Is finds on the caller's side, by the names that
// travel.
const (
	wireIdempotencyConflict = "jitney.idempotency_conflict"
	wireResultNotKept       = "jitney.result_not_kept"
)

func wireSentinel(name string) error {
	switch name {
	case wireIdempotencyConflict:
		return ErrIdempotencyConflict
	case wireResultNotKept:
		return ErrResultNotKept
	}
	return nil
}

// maxWireMessage bounds an error's text, so that an error reply always fits.
const maxWireMessage = 8 << 10

// toWire is what the caller may know of a handler's error.
func (b *Bus) toWire(err error, attempts int) wireError {
	if r, ok := err.(*repeatedError); ok {
		return r.w
	}
	if c, ok := err.(*capturedError); ok {
		w := b.toWire(c.err, attempts)
		w.DeadLetter = c.id
		return w
	}
	w := wireError{Code: CodeOf(err), Message: err.Error(), Attempts: attempts, Permanent: IsPermanent(err) || resilience.Retry{}.IsFinal(err)}
	if refused(err) {
		w.Attempts = 0
	}
	var e *Error
	switch {
	case panicked(err) != nil:
		w.Code = CodePanic
	case errors.As(err, &e):
		w.Wire, w.Details = e.Wire, e.Details
		if error(e) == err {
			w.Message = e.text()
		}
	}
	if name := b.registered(err); name != "" {
		w.Wire = name
	}
	if len(w.Message) > maxWireMessage {
		w.Message = strings.ToValidUTF8(w.Message[:maxWireMessage], "") + "…"
	}
	return w
}

// registered returns the name of err in Config.Errors, or "". What compares the
// two may be code of the user's.
func (b *Bus) registered(err error) string {
	for name, target := range b.cfg.Errors {
		if is(err, target) {
			return name
		}
	}
	return ""
}

// is is errors.Is, and false where that panics.
func is(err, target error) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return errors.Is(err, target)
}

// text is the message without operation and name, which the receiver adds.
func (e *Error) text() string {
	c := *e
	c.Op = ""
	return c.Error()
}

// fromWire makes the caller's error out of an error reply.
func (b *Bus) fromWire(name, id string, w wireError) error {
	e := &Error{
		Code: w.Code, Op: "execute", Name: name, ID: id, Message: w.Message,
		Wire: w.Wire, Details: maps.Clone(w.Details), Attempts: w.Attempts, permanent: w.Permanent,
		DeadLetter: w.DeadLetter,
	}
	if e.Code == "" {
		e.Code = CodeFailed
	}
	if target, ok := b.cfg.Errors[w.Wire]; ok {
		e.cause = target
	} else {
		e.cause = wireSentinel(w.Wire)
	}
	return e
}
