package bus

import (
	"context"
	"fmt"
	"time"
)

// Kind tells commands from events.
type Kind uint8

const (
	// KindCommand is an intention, with one handler and a result.
	KindCommand Kind = iota + 1
	// KindEvent is a fact, with any number of listeners.
	KindEvent
)

// String returns "command" or "event".
func (k Kind) String() string {
	switch k {
	case KindCommand:
		return "command"
	case KindEvent:
		return "event"
	default:
		return "unknown"
	}
}

// MarshalText returns String, so that a kind is a word in JSON.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *Kind) UnmarshalText(text []byte) error {
	for v := KindCommand; v <= KindEvent; v++ {
		if v.String() == string(text) {
			*k = v
			return nil
		}
	}
	return fmt.Errorf("unknown kind %q", text)
}

// Meta is what is known of the message that a handler handles.
type Meta struct {
	Kind Kind
	// Name is the wire name.
	Name string
	// ID is unique to the message and stays the same through its retries.
	ID string
	// Session is the session it was sent in, "" for none.
	Session string
	// CorrelationID is shared by everything that one first message caused.
	CorrelationID string
	// CausationID is the ID of the message whose handler sent this one, "" for
	// a first message.
	CausationID string
	// Key is the ordering key, "" for none.
	Key string
	// IdempotencyKey is the key of WithIdempotencyKey, "" for none.
	IdempotencyKey string
	// Group and Handler name who handles it: Group is "" for a command and for
	// a private subscription.
	Group, Handler string
	// Attempt is 1 for the first run of this handler for this message. Each failed
	// run counts, and for an event so does a delivery that came to
	// nothing that is known: its process crashed, its lease was lost, or its
	// settlement, retry copy or dead letter could not be stored. So it may be more
	// than the times that the handler ran. What Close hands back does not count.
	Attempt int
	// Generation is how often the message was a dead letter and redriven: 0 for never.
	Generation int
	// Missed is how many events a private or session listener has lost just before
	// this one, because it did not keep up: by WithQueue, or by what a transport in
	// the process holds for one listener (10,000 events). Filters have not seen them.
	Missed int
	// SentAt is when an event was published or a delayed one sent; zero for a
	// command.
	SentAt time.Time

	header Header
}

// Header returns the first value of a header that the sender set, or "". Keys
// are case-sensitive.
func (m Meta) Header(key string) string { return m.header.Get(key) }

// Headers returns a copy of the headers that the sender set.
func (m Meta) Headers() Header { return userHeader(m.header) }

// MetaFrom returns the metadata of the message that is being handled in ctx, and
// false outside a handler and in a batch handler, which has MetaAt.
func MetaFrom(ctx context.Context) (Meta, bool) {
	c := callFrom(ctx)
	if c == nil || c.events > 0 {
		return Meta{}, false
	}
	return c.meta(), true
}
