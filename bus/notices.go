package bus

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
)

// notices calls Backpressure.OnChange, outside every lock and in order. What it
// keeps is bounded by the number of queues.
type notices struct {
	call func(QueueStats) // nil: nobody wants to know
	log  *slog.Logger

	mu      sync.Mutex
	changes []*gauge
	running bool
	closed  bool
	idle    chan struct{} // closed when, after closed, it does not run any more
}

func newNotices(b *Bus) *notices {
	return &notices{call: b.cfg.Backpressure.OnChange, log: b.log, idle: make(chan struct{})}
}

// changed takes note that a gauge has changed. The caller holds the gauge's lock.
func (n *notices) changed(g *gauge) {
	if n.call == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || g.listed {
		return
	}
	g.listed = true
	n.changes = append(n.changes, g)
	n.start()
}

// start sees to it that run runs. n.mu is held.
func (n *notices) start() {
	if !n.running && len(n.changes) > 0 {
		n.running = true
		go n.run()
	}
}

func (n *notices) run() {
	defer func() { // also when the callback ends this goroutine
		n.mu.Lock()
		defer n.mu.Unlock()
		n.running = false
		if n.start(); n.closed && !n.running {
			close(n.idle)
		}
	}()
	for {
		n.mu.Lock()
		if len(n.changes) == 0 {
			n.mu.Unlock()
			return
		}
		g := n.changes[0]
		n.changes = n.changes[1:]
		g.listed = false
		n.mu.Unlock()
		n.tell(g)
	}
}

// tell tells of what has happened to a gauge since the last time: that it was raised
// or cleared, or both.
func (n *notices) tell(g *gauge) {
	g.mu.Lock()
	now, raised, cleared := g.s, g.raisedAt, g.clearedAt
	g.mu.Unlock()
	was := g.told
	g.told = now
	switch {
	case !was.Active && now.Hits > was.Hits:
		n.guarded(raised)
		if !now.Active {
			n.guarded(cleared)
		}
	case was.Active && (!now.Active || now.Hits > was.Hits):
		n.guarded(cleared)
		if now.Active {
			n.guarded(raised)
		}
	}
}

func (n *notices) guarded(s QueueStats) {
	defer func() {
		if r := recover(); r != nil {
			n.log.Error("Backpressure.OnChange panicked", "queue", s.Queue, "panic", textOf(r), "stack", string(debug.Stack()))
		}
	}()
	n.call(s)
}

// close takes no more changes, and waits until those before are told.
func (n *notices) close(ctx context.Context) {
	n.mu.Lock()
	n.closed = true
	running := n.running
	n.mu.Unlock()
	if running {
		awaitClosed(ctx, n.idle)
	}
}
