package bus

import "time"

// SessionStarted is published in a session when a process opens it, once for each
// opening. Subscribe to it as to any event.
type SessionStarted struct {
	// ID is the session's id, Opening tells one opening of it from another.
	ID      string `json:"id"`
	Opening string `json:"opening"`
	// Service and Host are of the process that opened it.
	Service string    `json:"service,omitempty"`
	Host    string    `json:"host,omitempty"`
	Time    time.Time `json:"time"`
}

// MessageName implements Named.
func (SessionStarted) MessageName() string { return "jitney.session_started" }

// SessionEnded is published in a session when an opening of it has ended, once for
// each opening. For a process that died another one publishes it, within two
// leases (20 s); if none is left, the next one that starts.
type SessionEnded struct {
	// ID, Opening, Service and Host are as in SessionStarted.
	ID      string `json:"id"`
	Opening string `json:"opening"`
	Service string `json:"service,omitempty"`
	Host    string `json:"host,omitempty"`
	// Reason says why, Err what had gone wrong, "" if nothing had.
	Reason EndReason `json:"reason"`
	Err    string    `json:"err,omitempty"`
	// Started and Time are when it began and ended.
	Started time.Time `json:"started"`
	Time    time.Time `json:"time"`
}

// MessageName implements Named.
func (SessionEnded) MessageName() string { return "jitney.session_ended" }

// EndReason says why a session has ended. Reasons travel, so their text never
// changes.
type EndReason string

const (
	// EndClosed: Close was called, or InSession's function returned nil.
	EndClosed EndReason = "closed"
	// EndFailed: InSession's function returned an error.
	EndFailed EndReason = "failed"
	// EndPanicked: InSession's function panicked or ended its goroutine.
	EndPanicked EndReason = "panicked"
	// EndStopped: its bus was closed.
	EndStopped EndReason = "stopped"
	// EndExpired: its process died, or stood still for longer than its lease.
	EndExpired EndReason = "expired"
)

// endedID is the id of an opening's SessionEnded, whoever publishes it.
func endedID(opening string) string { return digest("session ended", opening) }
