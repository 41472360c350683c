package bus

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Failure is an earlier failure of a message that was redriven since.
type Failure struct {
	Code Code `json:"code,omitempty"`
	// Err is the beginning of the error's text.
	Err      string    `json:"err,omitempty"`
	Attempts int       `json:"attempts"`
	Time     time.Time `json:"time,omitzero"`
	// Service and Host are where it failed.
	Service string `json:"service,omitempty"`
	Host    string `json:"host,omitempty"`
	// Edited: the body was edited before it was sent back.
	Edited bool `json:"edited,omitempty"`
}

const (
	// maxHistory is how many failures a message keeps: the first and the last ones.
	maxHistory = 8
	// maxFailureText is how much of an error's text is kept, in bytes.
	maxFailureText = 256
	// maxHistoryText is more than formatHistory returns. Short text can be a great many
	// failures, and a page has many dead letters.
	maxHistoryText = 4 * maxHeaderValue
)

// redriveHeaders are those of a redriven copy, and of its dead letter if it fails
// again.
var redriveHeaders = []string{headerRedriven, headerGeneration, headerEdited, headerHistory}

// redriveID is the id of a copy, the same whoever makes it.
func redriveID(deadLetter string) string { return digest("redrive", deadLetter) }

// copy is the message that goes back to what failed.
func (r *redriver) copy(d DeadLetter) *transport.Message {
	m := *d.rec.Message
	m.ID = redriveID(d.ID)
	m.To.Group = d.Group
	m.Fresh, m.DeliverAt, m.Malformed = false, time.Time{}, nil
	if m.Header = m.Header.Clone(); m.Header == nil {
		m.Header = Header{}
	}
	m.Header.Set(headerOrigin, d.MessageID)
	m.Header.Set(headerSequence, strconv.FormatUint(d.rec.StreamSequence, 10))
	if d.Handler != "" {
		m.Header.Set(headerHandler, d.Handler)
	}
	m.Header.Set(headerCopy, r.d.b.ids.next())
	return &m
}

// setRedriven writes what a copy says of the dead letter that it was.
func setRedriven(h Header, d DeadLetter, edited bool) {
	h.Set(headerRedriven, d.ID)
	h.Set(headerGeneration, strconv.Itoa(d.Generation+1))
	h.Set(headerHistory, formatHistory(slices.Concat(d.History, []Failure{{
		Code: d.Code, Err: d.Err, Attempts: d.Attempts, Time: d.Last, Service: d.Service, Host: d.Host,
		Edited: edited,
	}})))
	if edited {
		h.Set(headerEdited, "1")
	}
}

// formatHistory returns failures as a header, which has room for a few.
func formatHistory(all []Failure) string {
	keep := slices.Clone(all)
	for i := range keep {
		keep[i].Err = beginning(keep[i].Err)
	}
	for {
		if len(keep) > maxHistory {
			keep = append(keep[:1], keep[len(keep)-maxHistory+1:]...)
		}
		text, err := json.Marshal(keep)
		switch {
		case err != nil: // cannot happen: text, numbers and a time that was read
			return ""
		case len(text) <= maxHeaderValue || len(keep) == 1:
			return string(text)
		}
		keep = append(keep[:1], keep[2:]...)
	}
}

// parseHistory reads what formatHistory wrote; what somebody else wrote is none.
func parseHistory(s string) []Failure {
	var all []Failure
	if s == "" || len(s) > maxHistoryText || json.Unmarshal([]byte(s), &all) != nil || len(all) > maxHistory {
		return nil
	}
	return all
}

// redriven is the dead letter that the event was before, "" if it is no redriven
// copy. On an event for everybody the header is somebody else's.
func (f *flight) redriven() string {
	if f.m.To.Group == "" {
		return ""
	}
	return f.m.Header.Get(headerRedriven)
}

// generation is how often a message was redriven.
func generation(kind Kind, m *transport.Message) int {
	if kind == KindEvent && m.To.Group == "" {
		return 0
	}
	return count(m.Header.Get(headerGeneration))
}
