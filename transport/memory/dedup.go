package memory

import (
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// dedup remembers which IDs were stored, for a window of time and up to a
// number. It keeps two generations: a whole generation is forgotten at once,
// which costs nothing per ID.
type dedup struct {
	window    time.Duration
	limit     int // of one generation
	now, past map[dedupID]time.Duration
	began     time.Duration // when the generation now began
}

type dedupID struct {
	to transport.Address
	id string
}

func newDedup(window time.Duration, limit int) dedup {
	return dedup{window: window, limit: max(1, limit/2), now: map[dedupID]time.Duration{}, past: map[dedupID]time.Duration{}}
}

// known reports whether m's ID was stored within the window.
func (d *dedup) known(m *transport.Message, at time.Duration) bool {
	if m.ID == "" || d.window < 0 {
		return false
	}
	key := dedupID{m.To, m.ID}
	if stored, ok := d.now[key]; ok {
		return at-stored < d.window
	}
	if len(d.past) == 0 {
		return false
	}
	stored, ok := d.past[key]
	return ok && at-stored < d.window
}

// remember notes that m is stored.
func (d *dedup) remember(m *transport.Message, at time.Duration) {
	if m.ID == "" || d.window < 0 {
		return
	}
	if len(d.now) >= d.limit || at-d.began >= d.window {
		d.now, d.past = d.past, d.now
		clear(d.now)
		d.began = at
	}
	d.now[dedupID{m.To, m.ID}] = at
}
