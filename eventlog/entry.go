package eventlog

import (
	"errors"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// Entry is one step of one message. Its form as JSON is stable. It never has a body
// or a header. Texts are cut at 256 bytes and Err at 1 KiB.
type Entry struct {
	// Time is when the step was taken, by this process's clock.
	Time time.Time `json:"time"`
	// Stage is what has happened, Outcome how it ended.
	Stage   bus.Stage `json:"stage"`
	Outcome Outcome   `json:"outcome"`
	Kind    bus.Kind  `json:"kind"`
	// Name is the wire name; it is "" for a message that is none, such as nil.
	Name string `json:"name"`
	// ID and the next three are as in bus.Meta.
	ID            string `json:"id,omitempty"`
	Session       string `json:"session,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
	CausationID   string `json:"causation_id,omitempty"`
	// Group, Handler and Attempt are as in bus.Record: empty on the sending side.
	Group   string `json:"group,omitempty"`
	Handler string `json:"handler,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	// Elapsed and Delay are as the stage says. JSON has them in nanoseconds.
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
	Delay   time.Duration `json:"delay_ns,omitempty"`
	// Code and Err are those of a failure.
	Code bus.Code `json:"code,omitempty"`
	Err  string   `json:"err,omitempty"`
}

// Outcome is how a step ended, in a word.
type Outcome string

const (
	// OK: it was sent, or handled without an error.
	OK Outcome = "ok"
	// Failed: it returned an error.
	Failed Outcome = "failed"
	// Retrying, Returned, DeadLettered and Filtered are the stages of these names.
	Retrying     Outcome = "retrying"
	Returned     Outcome = "returned"
	DeadLettered Outcome = "dead-lettered"
	Filtered     Outcome = "filtered"
)

// maxText and maxErr bound the texts of an entry.
const (
	maxText = 256
	maxErr  = 1 << 10
)

// entryOf copies what an entry has of a record, which then keeps no message alive.
func entryOf(r bus.Record, now time.Time) Entry {
	m := r.Meta()
	e := Entry{
		Time: now, Stage: r.Stage, Outcome: outcomeOf(r), Kind: r.Kind, Name: cut(r.Name, maxText), ID: cut(m.ID, maxText),
		Session: cut(m.Session, maxText), CorrelationID: cut(m.CorrelationID, maxText), CausationID: cut(m.CausationID, maxText),
		Group: r.Group, Handler: r.Handler, Attempt: r.Attempt, Elapsed: r.Elapsed, Delay: r.Delay,
	}
	if r.Err != nil {
		e.Code, e.Err = codeOf(r.Err), cut(r.Err.Error(), maxErr)
	}
	return e
}

func outcomeOf(r bus.Record) Outcome {
	switch r.Stage {
	case bus.StageSent, bus.StageHandled:
		if r.Err != nil {
			return Failed
		}
		return OK
	default:
		return Outcome(r.Stage.String())
	}
}

// codeOf is the code of a failure; a handler's panic has one of its own.
func codeOf(err error) bus.Code {
	var e *bus.Error
	if _, _, ok := bus.PanicOf(err); ok && !errors.As(err, &e) {
		return bus.CodePanic
	}
	return bus.CodeOf(err)
}

// cut returns the first n bytes of s, as valid UTF-8 and without the rest of it.
func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(strings.Clone(s[:n]), "")
	}
	return s
}
