package bus

import (
	"cmp"
	"context"
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

	mu  sync.Mutex
	all map[*gauge]struct{}
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

// remove forgets a queue that is closed.
func (p *pressure) remove(g *gauge) {
	p.mu.Lock()
	delete(p.all, g)
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

// stats returns what the queues have done, by name.
func (p *pressure) stats() []QueueStats {
	p.mu.Lock()
	gauges := make([]*gauge, 0, len(p.all))
	for g := range p.all {
		gauges = append(gauges, g)
	}
	p.mu.Unlock()
	all := make([]QueueStats, 0, len(gauges))
	for _, g := range gauges {
		all = append(all, g.stats())
	}
	slices.SortFunc(all, func(a, b QueueStats) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Session, b.Session))
	})
	return all
}
