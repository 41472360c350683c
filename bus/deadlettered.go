package bus

import (
	"strings"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// DeadLettered is published when a dead letter has been stored, so that somebody can
// be told. Subscribe to it as to any event: a group gets every one, in whichever
// process the message failed. It is a consequence of that message, as the causation and
// correlation ids say, but in no session.
//
// It is told after the storing and beside it: an event waits for it neither to be
// settled nor to fail. One dead letter has one, whose id is derived from the dead
// letter's; if its process dies in between, or the log of events takes it not, it has
// none, which is logged where that is possible. DeadLetters.Watch and
// DeadLetters.List leave nothing out. Dead letters of DeadLettered itself, and those
// that another program stores, are not told.
type DeadLettered struct {
	// ID is the dead letter's, for DeadLetters.Get.
	ID string `json:"id"`
	// The others are those of DeadLetter. Err is the first 256 bytes of the error.
	Kind       Kind      `json:"kind"`
	Name       string    `json:"name"`
	MessageID  string    `json:"message_id,omitempty"`
	Session    string    `json:"session,omitempty"`
	Group      string    `json:"group,omitempty"`
	Handler    string    `json:"handler,omitempty"`
	Code       Code      `json:"code,omitempty"`
	Err        string    `json:"err,omitempty"`
	Attempts   int       `json:"attempts"`
	Generation int       `json:"generation,omitempty"`
	Service    string    `json:"service,omitempty"`
	Host       string    `json:"host,omitempty"`
	Time       time.Time `json:"time"` // of the last failure
}

const deadLetteredName = "jitney.dead_lettered"

// MessageName implements Named.
func (DeadLettered) MessageName() string { return deadLetteredName }

// deadLetteredID is the id of a dead letter's DeadLettered, whoever publishes it.
func deadLetteredID(deadLetter string) string { return digest("dead-lettered", deadLetter) }

// deadLettered is what is told of a record.
func (b *Bus) deadLettered(r *transport.DeadLetter) DeadLettered {
	d := b.deadLetter(r)
	return DeadLettered{
		ID: d.ID, Kind: d.Kind, Name: d.Name, MessageID: d.MessageID, Session: d.Session,
		Group: d.Group, Handler: d.Handler, Code: d.Code, Err: beginning(d.Err), Attempts: d.Attempts,
		Generation: d.Generation, Service: d.Service, Host: d.Host, Time: d.Last,
	}
}

// beginning is as much of an error's text as is kept where there is little room.
func beginning(text string) string {
	if len(text) > maxFailureText {
		text = strings.ToValidUTF8(text[:maxFailureText], "")
	}
	return text
}
