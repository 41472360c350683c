package bus

import (
	"fmt"
	"time"
)

// JournalConfig sets up the journal of a bus: its last steps, kept in memory for
// debugging (see Bus.Journal). The zero value is no journal, which costs nothing;
// any other one is a journal.
//
// It is not a log: nothing is stored, and the oldest record gives way to the
// newest. It keeps copies of what is in JournalEntry, never a message: no headers,
// and no bodies unless Bodies says so. The text of errors it keeps.
type JournalConfig struct {
	// Size is how many records are kept. A message makes two or more: sent,
	// handled by each listener, retried. Default 1,000, at most 1,000,000. A record
	// takes about 200 bytes and its text, which is up to 3 KiB and mostly about 100
	// bytes; with Bodies up to MaxBody more.
	Size int
	// MaxAge is the age at which a record is no longer answered. The memory of an
	// old one is used again when its turn comes. Default: there is none.
	MaxAge time.Duration
	// Bodies keeps the body of each message too, as JSON. It may be a secret or
	// personal data: everybody who can call Bus.Journal sees it. A message that
	// travels encoded as JSON is copied; any other is decoded, if it travels encoded,
	// and made JSON for each of its records, which calls its MarshalJSON. Default: no.
	Bodies bool
	// MaxBody is how many bytes of a body are kept. Default 4 KiB, at most 1 MiB.
	// It is for Bodies.
	MaxBody int
}

const (
	defaultJournalSize = 1000
	maxJournalSize     = 1_000_000
	defaultJournalBody = 4 << 10
	maxJournalBody     = 1 << 20
)

func (c JournalConfig) enabled() bool { return c != JournalConfig{} }

// check calls bad for each setting that breaks its rule.
func (c JournalConfig) check(bad func(format string, args ...any)) {
	switch {
	case c.Size < 0:
		bad("Config.Journal: Size %d is negative; 0 is the default", c.Size)
	case c.Size > maxJournalSize:
		bad("Config.Journal: Size %d is over %d; observe the bus and store its records elsewhere", c.Size, maxJournalSize)
	}
	if c.MaxAge < 0 {
		bad("Config.Journal: MaxAge %v is negative; 0 is no limit", c.MaxAge)
	}
	switch {
	case c.MaxBody < 0:
		bad("Config.Journal: MaxBody %d is negative; 0 is the default", c.MaxBody)
	case c.MaxBody > maxJournalBody:
		bad("Config.Journal: MaxBody %d is over %d", c.MaxBody, maxJournalBody)
	case c.MaxBody > 0 && !c.Bodies:
		bad("Config.Journal: MaxBody is set and Bodies is not")
	}
}

// JournalQuery selects entries of the journal. Fields that are set must all match;
// the zero value selects everything, the oldest first.
type JournalQuery struct {
	// Name is a wire name.
	Name  string
	Kind  Kind
	Stage Stage
	// Session, ID and CorrelationID are as in Meta. A CorrelationID follows all that
	// one first message caused.
	Session, ID, CorrelationID string
	// Since leaves out what happened before.
	Since time.Time
	// Newest lists from the newest to the oldest.
	Newest bool
	// Limit is how many entries are returned, from the end that Newest chooses.
	// Default: all that match.
	Limit int
}

// Journal returns copies of the journal's entries, in the order in which they were
// made. What has happened before the call is in it, unless newer records have
// taken its place; of what happens meanwhile some may be. It works after Close.
// It waits for no handler and keeps none waiting.
//
// The error is of CodeInvalid: the bus has no journal (Config.Journal), or the
// query has a negative Limit.
func (b *Bus) Journal(q JournalQuery) ([]JournalEntry, error) {
	const op = "journal"
	if b.journal == nil {
		return nil, errorf(CodeInvalid, op, "", "this bus keeps no journal: set Config.Journal, such as its Size")
	}
	if q.Limit < 0 {
		return nil, errorf(CodeInvalid, op, "", "%w", fmt.Errorf("limit %d is negative; 0 is no limit", q.Limit))
	}
	return b.journal.find(q), nil
}
