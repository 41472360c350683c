package bus

import (
	"fmt"
	"time"
)

// Stage is what has happened to a message.
type Stage uint8

const (
	// StageSent: a call of Publish or Execute has returned (for PublishAll and
	// PublishAsync: for one event). Err is what it returned, Elapsed how long it
	// took.
	StageSent Stage = iota + 1
	// StageHandled: a handler has run. Err is what it returned, Elapsed how long
	// it took.
	StageHandled
	// StageRetrying: after a failed run the event waits for its next one, for
	// Delay. It follows StageHandled.
	StageRetrying
	// StageReturned: a listener did not run, or was cut short by Close, and the
	// event goes back to the group.
	StageReturned
	// StageDeadLettered: the dead letter is stored. Handler is "" for an event
	// that no listener could be given.
	StageDeadLettered
	// StageFiltered: a filter stopped it; Handler is "" on the sending side.
	StageFiltered
)

// String returns the stage in lower case, such as "sent" or "dead-lettered".
func (s Stage) String() string {
	switch s {
	case StageSent:
		return "sent"
	case StageHandled:
		return "handled"
	case StageRetrying:
		return "retrying"
	case StageReturned:
		return "returned"
	case StageDeadLettered:
		return "dead-lettered"
	case StageFiltered:
		return "filtered"
	default:
		return "unknown"
	}
}

// Record is one step of one message, as an Observer is told of it.
type Record struct {
	Stage Stage
	Kind  Kind
	// Name is the wire name, Group and Handler who handles it; both are empty on
	// the sending side, Group also for commands and for private listeners.
	Name, Group, Handler string
	// Attempt is as in Meta; 0 on the sending side.
	Attempt int
	// Elapsed and Delay are as the stage says.
	Elapsed, Delay time.Duration
	// Err is as the stage says.
	Err error

	of subject
}

// subject is the message behind a record. What most observers do not need is
// made when they ask.
type subject interface {
	meta() Meta
	body() any
}

// Meta returns the message's metadata. Its ID is "" for a message that was
// refused before it got one.
func (r Record) Meta() Meta {
	if r.of == nil {
		return Meta{Kind: r.Kind, Name: r.Name, Group: r.Group, Handler: r.Handler, Attempt: r.Attempt}
	}
	return r.of.meta()
}

// Value returns the command or event, and nil if it was never decoded. It is
// read-only.
func (r Record) Value() any {
	if r.of == nil {
		return nil
	}
	return r.of.body()
}

// Observer is told of each step of each message on this bus, on the goroutine
// that takes the step: it must be fast, must not block or call the bus, and is
// called concurrently. One that panics is logged and goes on being called.
type Observer func(Record)

// observe tells the observers. Callers ask observed first, so that a bus without
// any pays nothing for making the record.
func (b *Bus) observe(r Record) {
	for _, o := range b.cfg.Observers {
		b.tell(o, r)
	}
}

func (b *Bus) tell(o Observer, r Record) {
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("observer panicked", "stage", r.Stage, "name", r.Name, "err", fmt.Sprint(p))
		}
	}()
	o(r)
}

func (b *Bus) observed() bool { return len(b.cfg.Observers) > 0 }
