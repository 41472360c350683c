package bus

import (
	"math"
	"sync"
)

// gauge counts what goes through a bounded queue, and raises backpressure when it is
// nearly full. The queue's own lock guards it.
type gauge struct {
	p  *pressure
	mu *sync.Mutex

	s         QueueStats
	high, low int
	lapsed    bool // something was dropped since backpressure was cleared
	refresh   func(*QueueStats)

	// Of notices.
	raisedAt, clearedAt QueueStats // the last time
	listed              bool       // its lock guards this
	told                QueueStats // only run looks at it
}

// newGauge makes a gauge of a queue that mu guards. It is not known to the bus
// before pressure.add.
func newGauge(p *pressure, mu *sync.Mutex, s QueueStats) *gauge {
	g := &gauge{p: p, mu: mu, s: s}
	g.high = max(1, int(math.Ceil(p.cfg.High*float64(s.Capacity))))
	g.low = min(int(p.cfg.Low*float64(s.Capacity)), g.high-1)
	return g
}

// in, out, drop and reject count one event each; the size of the queue is set by
// fill afterwards.
func (g *gauge) in()     { g.s.Enqueued++ }
func (g *gauge) reject() { g.s.Rejected++ }

// drop reports whether it is the first since backpressure was cleared, which is
// worth a line in the log.
func (g *gauge) drop() (first bool) {
	g.s.Dropped++
	first = !g.lapsed
	g.lapsed = true
	return first
}

func (g *gauge) out(n int) { g.s.Dequeued += uint64(n) }

// fill notes how many events are in the queue.
func (g *gauge) fill(size int) {
	g.s.Size = size
	g.s.Max = max(g.s.Max, size)
	switch {
	case !g.s.Active && size >= g.high:
		g.raise()
	case g.s.Active && size <= g.low:
		g.clear()
	}
}

func (g *gauge) raise() {
	g.s.Active = true
	g.s.Hits++
	g.raisedAt = g.now()
	g.p.raised.Add(1)
	g.p.notices.changed(g)
}

func (g *gauge) clear() {
	g.s.Active, g.lapsed = false, false
	g.clearedAt = g.now()
	g.p.raised.Add(-1)
	g.p.notices.changed(g)
}

func (g *gauge) stats() QueueStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now()
}

// now is what the queue has done. Its lock is held.
func (g *gauge) now() QueueStats {
	if g.refresh != nil {
		g.refresh(&g.s)
	}
	return g.s
}
