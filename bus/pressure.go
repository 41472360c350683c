package bus

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// pressure knows the bounded queues of a bus.
type pressure struct {
	cfg     Backpressure
	raised  atomic.Int32 // queues whose backpressure is raised
	notices *notices
	rate    *rate // nil without AdaptiveRateLimit

	mu   sync.Mutex
	all  map[*gauge]struct{}
	gone map[string]QueueStats // what closed queues have counted, so that no sum shrinks
}

func newPressure(b *Bus) *pressure {
	p := &pressure{cfg: b.cfg.Backpressure, notices: newNotices(b), all: map[*gauge]struct{}{}}
	if p.cfg.Strategy == AdaptiveRateLimit {
		p.rate = newRate(p, b.ids)
	}
	return p
}

func (p *pressure) add(g *gauge) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[g] = struct{}{}
}

// remove forgets a queue that is closed, but not what it has counted.
func (p *pressure) remove(g *gauge) {
	s := g.stats()
	s.Size, s.Capacity, s.Active = 0, 0, false
	p.mu.Lock()
	if _, ok := p.all[g]; ok {
		delete(p.all, g)
		p.gone = addQueue(p.gone, s)
	}
	p.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.s.Active {
		g.clear()
	}
}

// close ends what runs, and waits for Backpressure.OnChange.
func (p *pressure) close(ctx context.Context) {
	if p.rate != nil {
		p.rate.close()
	}
	p.notices.close(ctx)
}

// active reports whether backpressure is raised for some queue.
func (p *pressure) active() bool { return p.raised.Load() > 0 }

// stats returns what the queues have done, by name and session. Those of sessions
// are at most maxSessionStats; the rest of them, and those that are closed, are one
// for each name.
func (p *pressure) stats() []QueueStats {
	p.mu.Lock()
	gauges := slices.Collect(maps.Keys(p.all))
	rest := maps.Clone(p.gone)
	p.mu.Unlock()
	var all []QueueStats
	for _, g := range gauges {
		s := g.stats()
		if s.Session != "" && len(all) >= maxSessionStats {
			rest = addQueue(rest, s)
		} else {
			all = append(all, s)
		}
	}
	all = slices.AppendSeq(all, maps.Values(rest))
	slices.SortFunc(all, func(a, b QueueStats) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Session, b.Session), cmp.Compare(b.Capacity, a.Capacity))
	})
	return all
}

// addQueue adds what a queue has done to the sum of its name. There are maxTallies
// sums at the most, and one of all others.
func addQueue(sums map[string]QueueStats, s QueueStats) map[string]QueueStats {
	name := s.Queue
	if _, ok := sums[name]; !ok && len(sums) >= maxTallies {
		name = maxedOut
	}
	if sums == nil {
		sums = map[string]QueueStats{}
	}
	sum := sums[name]
	sum.Queue, sum.Strategy = name, s.Strategy
	sum.Size += s.Size
	sum.Capacity += s.Capacity
	sum.Max = max(sum.Max, s.Max)
	sum.Enqueued += s.Enqueued
	sum.Dequeued += s.Dequeued
	sum.Dropped += s.Dropped
	sum.Rejected += s.Rejected
	sum.Hits += s.Hits
	sum.Active = sum.Active || s.Active
	sums[name] = sum
	return sums
}
