package bus

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// JournalEntry is one step of one message, copied. Its form as JSON is stable.
// Texts are cut at 256 bytes and Err at 1 KiB; Body as JournalConfig says.
type JournalEntry struct {
	// Number counts the bus's records from 1.
	Number uint64 `json:"number"`
	// Time is when the step was taken, by this process's clock.
	Time  time.Time `json:"time"`
	Stage Stage     `json:"stage"`
	Kind  Kind      `json:"kind"`
	// Name is the wire name; it is "" for a message that is none, such as nil.
	Name string `json:"name"`
	// Group, Handler and Attempt are as in Record: empty on the sending side.
	Group   string `json:"group,omitempty"`
	Handler string `json:"handler,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	// ID and what follows are as in Meta.
	ID            string    `json:"id,omitempty"`
	Session       string    `json:"session,omitempty"`
	CorrelationID string    `json:"correlation_id,omitempty"`
	CausationID   string    `json:"causation_id,omitempty"`
	Key           string    `json:"key,omitempty"`
	SentAt        time.Time `json:"sent_at,omitzero"`
	// Elapsed and Delay are as the stage says. JSON has them in nanoseconds.
	Elapsed time.Duration `json:"elapsed_ns,omitempty"`
	Delay   time.Duration `json:"delay_ns,omitempty"`
	// Code and Err are those of the record's error.
	Code Code   `json:"code,omitempty"`
	Err  string `json:"err,omitempty"`
	// Body is the message as JSON, the first part of it if BodySize, in bytes, is
	// larger. Both are empty unless JournalConfig.Bodies is set.
	Body     string `json:"body,omitempty"`
	BodySize int    `json:"body_size,omitempty"`
}

// String returns the entry on one line without control characters, the time in
// UTC.
func (e JournalEntry) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s %s", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), e.Stage, e.Kind)
	if e.Name != "" {
		s.WriteString(" " + printable(e.Name))
	}
	if e.Group != "" || e.Handler != "" {
		s.WriteString(" " + printable(e.Group) + "/" + printable(e.Handler))
	}
	if e.Attempt > 1 {
		fmt.Fprintf(&s, " attempt %d", e.Attempt)
	}
	if e.Elapsed > 0 {
		fmt.Fprintf(&s, " took %v", e.Elapsed)
	}
	if e.Delay > 0 {
		fmt.Fprintf(&s, " in %v", e.Delay)
	}
	correlation := e.CorrelationID
	if correlation == e.ID { // a first message
		correlation = ""
	}
	for _, f := range []struct{ key, value string }{
		{"id", e.ID}, {"session", e.Session}, {"correlation", correlation}, {"cause", e.CausationID}, {"key", e.Key},
		{"code", string(e.Code)}, {"err", e.Err},
	} {
		if f.value != "" {
			s.WriteString(" " + f.key + "=" + word(f.value))
		}
	}
	if e.BodySize > 0 {
		s.WriteString(" body=" + printable(e.Body))
		if more := e.BodySize - len(e.Body); more > 0 {
			fmt.Fprintf(&s, "… and %d bytes", more)
		}
	}
	return s.String()
}

// word returns s quoted if it would not read as one word.
func word(s string) string {
	if strings.ContainsAny(s, " \"=\\") || printable(s) != s {
		return strconv.Quote(s)
	}
	return s
}
