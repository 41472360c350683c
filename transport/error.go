package transport

import (
	"errors"
	"fmt"
	"strings"
)

// What a driver reports. A driver maps its client's errors to these in one
// function and keeps the cause with %w; the bus acts on them with errors.Is and
// errors.As, never on text.
var (
	// ErrNoHandler: nobody serves the address. Nothing ran.
	ErrNoHandler = errors.New("no handler")
	// ErrBusy: a server's backlog is full. Nothing ran.
	ErrBusy = errors.New("handler busy")
	// ErrStopping: the server is closing. Nothing ran.
	ErrStopping = errors.New("handler stopping")
	// ErrClosed: the transport or the source is closed.
	ErrClosed = errors.New("closed")
	// ErrUnavailable: the broker cannot be reached or has no quorum. The message
	// was not sent or not accepted.
	ErrUnavailable = errors.New("broker unavailable")
	// ErrUnknown: it was sent and no answer came; it may be stored.
	ErrUnknown = errors.New("outcome unknown")
	// ErrBacklog: what stores the messages is full, or has room for no other reader.
	ErrBacklog = errors.New("backlog full")
	// ErrPermission: the broker denies it. The message says what.
	ErrPermission = errors.New("permission denied")
	// ErrInvalid: the argument breaks a rule, which the message states.
	ErrInvalid = errors.New("invalid")
	// ErrConfig: what the broker has conflicts with what is wanted, or the
	// broker lacks a capability; the message has the difference.
	ErrConfig = errors.New("configuration conflict")
	// ErrSettled: the delivery or request was settled before.
	ErrSettled = errors.New("already settled")
	// ErrLeaseLost: the delivery may belong to another reader by now.
	ErrLeaseLost = errors.New("lease lost")
	// ErrExists: the key is there.
	ErrExists = errors.New("exists")
	// ErrNotFound: the key or record is not there.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the key has another revision.
	ErrConflict = errors.New("revision conflict")
)

// SizeError is a message that is larger than the driver carries. It was not
// sent.
type SizeError struct {
	Size, Limit int
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("message of %d bytes is over the limit of %d", e.Size, e.Limit)
}

// BacklogError is a full log, with the group that keeps it full. It is an
// ErrBacklog.
type BacklogError struct {
	Group string
	Limit int
}

func (e *BacklogError) Error() string {
	if e.Group == "" {
		return fmt.Sprintf("backlog full: limit %d", e.Limit)
	}
	return fmt.Sprintf("backlog full: group %q is %d events behind", e.Group, e.Limit)
}

// Is makes a *BacklogError an ErrBacklog.
func (e *BacklogError) Is(target error) bool { return target == ErrBacklog }

// Status is what became of one message of a Publish.
type Status int

const (
	// Stored: it is in the log.
	Stored Status = iota
	// Duplicate: one with its id was in the log already. It counts as stored.
	Duplicate
	// Refused: it is not in the log; Err says why.
	Refused
	// Unknown: it may be in the log. Publishing again with the same ID is safe.
	Unknown
)

// String returns the status in lower case.
func (s Status) String() string {
	switch s {
	case Stored:
		return "stored"
	case Duplicate:
		return "duplicate"
	case Refused:
		return "refused"
	default:
		return "unknown"
	}
}

// Outcome is what became of one message of a Publish.
type Outcome struct {
	Status Status
	Err    error // nil if stored or duplicate
}

// PublishError says that not every message of a Publish was stored. Outcomes
// has one entry per message, in the order given. It unwraps to the errors of
// the outcomes.
type PublishError struct {
	Outcomes []Outcome
}

func (e *PublishError) Error() string {
	if len(e.Outcomes) == 1 && e.Outcomes[0].Err != nil {
		return e.Outcomes[0].Err.Error()
	}
	var n [Unknown + 1]int
	var first error
	for _, o := range e.Outcomes {
		n[o.Status]++
		if first == nil {
			first = o.Err
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "of %d messages %d stored, %d duplicate, %d refused, %d unknown",
		len(e.Outcomes), n[Stored], n[Duplicate], n[Refused], n[Unknown])
	if first != nil {
		fmt.Fprintf(&b, "; first: %v", first)
	}
	return b.String()
}

// Unwrap returns the errors of the messages that were not stored.
func (e *PublishError) Unwrap() []error {
	var errs []error
	for _, o := range e.Outcomes {
		if o.Err != nil {
			errs = append(errs, o.Err)
		}
	}
	return errs
}
