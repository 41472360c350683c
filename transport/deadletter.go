package transport

import (
	"context"
	"time"
)

// DeadLetters keeps messages that could not be handled, bounded by the driver's
// configuration.
type DeadLetters interface {
	// Add stores d and returns once it is stored. A record with d.ID that is
	// there already stays as it is, and Add returns nil: adding twice is safe.
	// ErrBacklog: full, and the policy is to refuse.
	Add(ctx context.Context, d *DeadLetter) error
	// List returns up to q.Limit records in order of their Sequence.
	List(ctx context.Context, q DeadLetterQuery) ([]*DeadLetter, error)
	// Get returns one record. ErrNotFound: there is none.
	Get(ctx context.Context, id string) (*DeadLetter, error)
	// Remove deletes one record. Removing one that is not there returns nil.
	Remove(ctx context.Context, id string) error
	// Count returns how many there are.
	Count(ctx context.Context) (int, error)
}

// DeadLetterQuery selects records of a List.
type DeadLetterQuery struct {
	// After is the Sequence of the last record of the page before; 0 starts at
	// the end that Newest chooses.
	After uint64
	// Newest lists from the newest to the oldest.
	Newest bool
	// Limit is the page's size. Default 100.
	Limit int
}

// DeadLetter is a message that could not be handled, whole, with what is known
// of why.
type DeadLetter struct {
	// ID is made by the bus from what failed, so that one failure is stored
	// once: [A-Za-z0-9_-].
	ID string
	// Sequence is the driver's, and grows with each record.
	Sequence uint64

	// Message is the original, with its body (or value) and headers untouched.
	Message *Message
	// Kind is "command" or "event".
	Kind string
	// Group and Handler name what failed; Group is "" for a command.
	Group, Handler string
	// Code and Error are the last failure; Stack is set for a panic.
	Code, Error, Stack string
	// Attempts is how often it was tried, between First and Last.
	Attempts    int
	First, Last time.Time
	// Service and Host are where it failed last.
	Service, Host string
	// StreamSequence is the event's place in the driver's log, if it has one.
	StreamSequence uint64
}
