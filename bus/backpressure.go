package bus

import (
	"fmt"
	"math"
	"time"
)

// Strategy says what a bounded queue does when more comes than it has room for.
type Strategy uint8

const (
	// Block makes who adds wait for room until its context ends. It is the default.
	Block Strategy = iota
	// DropOldest makes room: the event that has waited longest is not handled, and
	// whoever waits for it is told (ErrDropped).
	DropOldest
	// RejectNew refuses the new event at once (ErrRejected).
	RejectNew
	// AdaptiveRateLimit lets events in at the rate at which they are handled, which
	// it finds out. Who publishes faster waits for its turn.
	AdaptiveRateLimit
)

// String returns the name in lower case, such as "drop oldest".
func (s Strategy) String() string {
	switch s {
	case Block:
		return "block"
	case DropOldest:
		return "drop oldest"
	case RejectNew:
		return "reject new"
	case AdaptiveRateLimit:
		return "adaptive rate limit"
	default:
		return fmt.Sprintf("strategy %d", uint8(s))
	}
}

// MarshalText returns String, so that a strategy is a word in JSON.
func (s Strategy) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Strategy) UnmarshalText(text []byte) error {
	for v := Block; v <= AdaptiveRateLimit; v++ {
		if v.String() == string(text) {
			*s = v
			return nil
		}
	}
	return fmt.Errorf("unknown strategy %q", text)
}

// Backpressure says what a bus does when more events are published than can be
// taken on, and who hears of it. The zero value blocks.
type Backpressure struct {
	// Strategy is what PublishAsync does when its queue (Config.QueueSize) is full.
	// With DropOldest the Pending of the dropped event has ErrDropped. With
	// AdaptiveRateLimit, Publish and PublishAll are limited as well, except inside
	// handlers, which would fall behind further. Default Block.
	Strategy Strategy
	// High and Low are shares of a queue's capacity. When it is filled to High,
	// backpressure is raised for it, and cleared when it is down to Low again.
	// They hold for every queue of the bus. Defaults 0.8 and 0.5.
	High, Low float64
	// TargetLag is for AdaptiveRateLimit: how long an event of this bus may take
	// until one of its durable groups in this process begins to handle it, and
	// until the transport has stored it. Above it the rate falls. It should be
	// several times what is usual. Default 250 ms.
	TargetLag time.Duration
	// OnChange is told when backpressure is raised or cleared for a queue, which
	// its Active says. It is called on a goroutine of its own, one call at a time,
	// in order; while it is slow several changes of a queue become one. It may call
	// the bus. A panic is logged. Close waits for it, a second at most.
	OnChange func(QueueStats)
}

// QueueStats is what a bounded queue has done.
type QueueStats struct {
	// Queue names it: "publish" is that of PublishAsync, "rate" are the publishers
	// that AdaptiveRateLimit keeps waiting, and "user.created/cache" is that of the
	// listener "cache" for the event "user.created" (WithQueue).
	Queue    string   `json:"queue"`
	Session  string   `json:"session,omitempty"` // of a listener's
	Strategy Strategy `json:"strategy"`
	// Size is how many events are in it, Max the most that ever were.
	Size int `json:"size"`
	Max  int `json:"max"`
	// Capacity is how many it holds; 0 for "rate", which has no bound of its own.
	Capacity int `json:"capacity"`
	// Enqueued counts the events that were let in, and Dequeued those that went on
	// from there. Dropped counts those that made room for others, or had none.
	// Rejected counts those that were not let in, which their publisher was told.
	Enqueued uint64 `json:"enqueued"`
	Dequeued uint64 `json:"dequeued"`
	Dropped  uint64 `json:"dropped"`
	Rejected uint64 `json:"rejected"`
	// Active says whether backpressure is raised, and Hits how often it was.
	Active bool   `json:"active"`
	Hits   uint64 `json:"hits"`
	// Rate is how many events a second AdaptiveRateLimit lets in now; else 0.
	Rate float64 `json:"rate,omitempty"`
}

const (
	defaultHigh      = 0.8
	defaultLow       = 0.5
	defaultTargetLag = 250 * time.Millisecond
)

func (p *Backpressure) setDefaults() {
	if p.High == 0 {
		p.High = defaultHigh
	}
	if p.Low == 0 {
		p.Low = min(defaultLow, p.High*defaultLow/defaultHigh)
	}
	setDefault(&p.TargetLag, defaultTargetLag)
}

// check calls bad for every setting that breaks its rule.
func (p Backpressure) check(bad func(string, ...any)) {
	if p.Strategy > AdaptiveRateLimit {
		bad("Config.Backpressure: there is no %v; use Block, DropOldest, RejectNew or AdaptiveRateLimit", p.Strategy)
	}
	if p.TargetLag < 0 {
		bad("Config.Backpressure: TargetLag %v is negative; 0 is the default", p.TargetLag)
	}
	if p.TargetLag > 0 && p.Strategy != AdaptiveRateLimit {
		bad("Config.Backpressure: TargetLag is for AdaptiveRateLimit, not for %v", p.Strategy)
	}
	p.setDefaults()
	switch {
	case math.IsNaN(p.High) || p.High <= 0 || p.High > 1:
		bad("Config.Backpressure: High %v is not above 0 and up to 1", p.High)
	case math.IsNaN(p.Low) || p.Low < 0 || p.Low >= p.High:
		bad("Config.Backpressure: Low %v is not from 0 to below High %v", p.Low, p.High)
	}
}
