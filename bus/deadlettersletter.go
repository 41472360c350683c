package bus

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// DeadLetter is a message that could not be handled, whole, with what is known of
// why. It is a copy: what is done to the stored one later does not show. Its form as
// JSON is stable, and leaves out the body and the headers.
type DeadLetter struct {
	// ID names it, from when it is stored until it is gone: 1 to 128 of
	// [A-Za-z0-9_-].
	ID string `json:"id"`

	// Kind, Name and what follows up to SentAt are the message's, as in Meta.
	Kind          Kind      `json:"kind"`
	Name          string    `json:"name"`
	MessageID     string    `json:"message_id,omitempty"`
	Session       string    `json:"session,omitempty"`
	CorrelationID string    `json:"correlation_id,omitempty"`
	CausationID   string    `json:"causation_id,omitempty"`
	Key           string    `json:"key,omitempty"`
	SentAt        time.Time `json:"sent_at,omitzero"`
	// ContentType is the body's media type.
	ContentType string `json:"content_type,omitempty"`
	// Malformed says what is wrong with the message itself, "" if nothing is.
	Malformed string `json:"malformed,omitempty"`

	// Group and Handler are what failed. Group is "" for a command and for a private
	// or session listener; Handler is "" for an event that could be given to none,
	// and the service for a command.
	Group   string `json:"group,omitempty"`
	Handler string `json:"handler,omitempty"`
	// Code, Err and Stack are the last failure; Stack is of a panic.
	Code  Code   `json:"code,omitempty"`
	Err   string `json:"err,omitempty"`
	Stack string `json:"stack,omitempty"`
	// Attempts is how often it was tried: 0 if no handler ran.
	Attempts int `json:"attempts"`
	// First is when an event was sent or a message first tried, Last when it failed
	// last, by the clock of that process.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Service and Host are where it failed last.
	Service string `json:"service,omitempty"`
	Host    string `json:"host,omitempty"`

	// Generation is how often the message was redriven before it failed this time, and
	// History what had failed then: the first failure and the last ones, the oldest
	// first. Edited: one of those redrives had edited the body.
	Generation int       `json:"generation,omitempty"`
	Edited     bool      `json:"edited,omitempty"`
	History    []Failure `json:"history,omitempty"`

	b   *Bus
	rec *transport.DeadLetter
}

// deadLetter is a driver's record for the user.
func (b *Bus) deadLetter(r *transport.DeadLetter) DeadLetter {
	m := r.Message
	d := DeadLetter{
		ID: r.ID, Name: m.To.Name, MessageID: m.ID, Session: cmp.Or(m.Session, m.To.Session),
		CorrelationID: m.CorrelationID, CausationID: m.CausationID, Key: m.Key, SentAt: m.SentAt,
		ContentType: cmp.Or(m.ContentType, codec.JSON.ContentType()),
		Group:       r.Group, Handler: r.Handler, Code: Code(r.Code), Err: r.Error, Stack: r.Stack,
		Attempts: r.Attempts, First: r.First, Last: r.Last, Service: r.Service, Host: r.Host,
		b: b, rec: r,
		Generation: count(m.Header.Get(headerGeneration)), Edited: m.Header.Get(headerEdited) != "",
		History: parseHistory(m.Header.Get(headerHistory)),
	}
	_ = d.Kind.UnmarshalText([]byte(r.Kind)) // another program's record may have another; it is of no kind then
	if m.Value != nil {
		d.ContentType = b.cfg.Codec.ContentType()
	}
	if m.Malformed != nil {
		d.Malformed = m.Malformed.Error()
	}
	return d
}

// Header returns a copy of the headers that the message's sender set.
func (d DeadLetter) Header() Header {
	if d.rec == nil {
		return nil
	}
	return userHeader(d.rec.Message.Header)
}

// Body returns the encoded message, in the codec of ContentType: a copy of the
// bytes as they came, or on a transport that keeps values in the process the value
// encoded now, with Config.Codec. Its error is of CodeInvalid: the value cannot be
// encoded, or d is not of DeadLetters.
func (d DeadLetter) Body() ([]byte, error) {
	const op = "encode dead letter"
	switch {
	case d.rec == nil:
		return nil, errorf(CodeInvalid, op, d.Name, "this DeadLetter was not made by DeadLetters and has no message")
	case d.rec.Message.Value == nil:
		return bytes.Clone(d.rec.Message.Body), nil
	}
	body, err := codec.Encode(d.b.cfg.Codec, d.rec.Message.Value)
	if err != nil {
		return nil, errorf(CodeInvalid, op, d.Name, "%w", err)
	}
	return body, nil
}

// DeadLetterValue returns the message as an E, which is a command or event type of
// the dead letter's name, or a pointer to one. It is read-only. The error is of
// CodeInvalid: E has another name, or the body cannot be decoded, which may be why
// it is a dead letter.
func DeadLetterValue[E any](d DeadLetter) (E, error) {
	var zero E
	v, err := d.value(reflect.TypeFor[E]())
	if err != nil {
		return zero, err
	}
	return convert[E](v)
}

// value decodes the message as a t.
func (d DeadLetter) value(t reflect.Type) (any, error) {
	const op = "decode dead letter"
	if d.rec == nil {
		return nil, errorf(CodeInvalid, op, d.Name, "this DeadLetter was not made by DeadLetters and has no message")
	}
	info, err := d.b.types.lookup(t)
	if err != nil {
		return nil, withOp(err, op)
	}
	if info.name != d.Name {
		return nil, errorf(CodeInvalid, op, d.Name, "%v is %q; the dead letter is of another type", t, info.name)
	}
	m := d.rec.Message
	if m.Value != nil {
		return m.Value, nil
	}
	return d.b.decodeNew(info, m.ContentType, m.Body)
}

// String returns the dead letter on one line without control characters, the time in
// UTC: when it failed last, what, where and why.
func (d DeadLetter) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s %s %s", d.Last.UTC().Format("2006-01-02T15:04:05.000Z"), d.ID, d.Kind, printable(d.Name))
	if d.Group != "" || d.Handler != "" {
		s.WriteString(" " + printable(d.Group) + "/" + printable(d.Handler))
	}
	fmt.Fprintf(&s, " attempts=%d", d.Attempts)
	if d.Generation > 0 {
		fmt.Fprintf(&s, " generation=%d", d.Generation)
	}
	for _, f := range []struct{ key, value string }{
		{"id", d.MessageID}, {"session", d.Session}, {"key", d.Key}, {"code", string(d.Code)}, {"err", d.Err},
	} {
		if f.value != "" {
			s.WriteString(" " + f.key + "=" + word(f.value))
		}
	}
	return s.String()
}
