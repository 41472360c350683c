package memory

import (
	"hash/maphash"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// dedup remembers which IDs were stored, for a window of time and up to a
// number. It keeps two generations: a whole generation is forgotten at once,
// which costs nothing per ID. It keeps fingerprints of 128 bits under random
// seeds instead of the addresses and IDs: they hold no memory alive, give the
// garbage collector nothing to scan, and do not collide.
type dedup struct {
	window    time.Duration
	limit     int // of one generation
	now, past map[fingerprint]time.Duration
	began     time.Duration // when the generation now began
	seeds     [2]maphash.Seed
}

type fingerprint [2]uint64

func newDedup(window time.Duration, limit int) dedup {
	return dedup{
		window: window, limit: max(1, limit/2),
		now: map[fingerprint]time.Duration{}, past: map[fingerprint]time.Duration{},
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
	}
}

// applies reports whether m is one to remember. A fresh ID comes once, since this
// driver sends nothing twice.
func (d *dedup) applies(m *transport.Message) bool {
	return m.ID != "" && !m.Fresh && d.window > 0
}

// print is the fingerprint of m's address and ID. It needs no lock.
func (d *dedup) print(m *transport.Message) (f fingerprint) {
	for i, seed := range d.seeds {
		h := maphash.String(seed, m.ID)
		h = join(h, maphash.String(seed, m.To.Name))
		if m.To.Session != "" {
			h = join(h, maphash.String(seed, m.To.Session))
		}
		if m.To.Group != "" {
			h = join(h, ^maphash.String(seed, m.To.Group))
		}
		f[i] = h
	}
	return f
}

// join folds the hash of one more field into h; the order counts.
func join(h, field uint64) uint64 { return (h<<23|h>>41)*0x9e3779b97f4a7c15 ^ field }

// known reports whether f was stored within the window.
func (d *dedup) known(f fingerprint, at time.Duration) bool {
	stored, ok := d.now[f]
	if !ok && len(d.past) > 0 {
		stored, ok = d.past[f]
	}
	return ok && at-stored < d.window
}

// remember notes that f is stored.
func (d *dedup) remember(f fingerprint, at time.Duration) {
	if len(d.now) >= d.limit || at-d.began >= d.window {
		d.now, d.past = d.past, d.now
		clear(d.now)
		d.began = at
	}
	d.now[f] = at
}
