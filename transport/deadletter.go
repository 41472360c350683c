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
	// List returns up to q.Limit records in order of their Sequence; fewer are the
	// last ones. A record that was removed a moment ago may still be among them.
	List(ctx context.Context, q DeadLetterQuery) ([]*DeadLetter, error)
	// Get returns one record. ErrNotFound: there is none.
	Get(ctx context.Context, id string) (*DeadLetter, error)
	// Remove deletes one record. Removing one that is not there returns nil.
	Remove(ctx context.Context, id string) error
	// Stats returns how many there are, and what bounds them.
	Stats(ctx context.Context) (DeadLetterStats, error)
}

// DeadLetterStats says how full the dead letters are.
type DeadLetterStats struct {
	// Count is how many there are.
	Count int
	// Last is the Sequence of the last one that was added, be it gone or not; 0 if
	// there never was one.
	Last uint64
	// Oldest is when the oldest one was stored; zero if there is none.
	Oldest time.Time
	// Max is how many there may be and MaxAge how old they become; 0 is no limit.
	// A driver may have other limits besides, such as bytes.
	Max    int
	MaxAge time.Duration
	// Bytes is how much room they take and MaxBytes how much they may, for a driver
	// with such a limit; 0 is no limit.
	Bytes, MaxBytes uint64
	// DropOldest: when they are full, Add drops the oldest one for the new one.
	// Otherwise it returns ErrBacklog.
	DropOldest bool
	// Dropped and Expired count those that made room for newer ones and those that
	// became too old, as far as this transport has noticed since it was opened.
	Dropped, Expired uint64
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
	// Sequence is the driver's, and grows by one with each record that is added: a
	// gap between two is of records that are gone.
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
