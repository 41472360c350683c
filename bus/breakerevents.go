package bus

import (
	"context"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/resilience"
)

// BreakerChanged is published by a process whose circuit breaker has changed its
// state: once for each change, in order, after it. It tells, it does not keep: in a
// process that ends, or whose broker cannot be reached, a change may go untold, and
// changes of a breaker before the handlers of this event itself are never published.
// Subscribe to it as to any event.
type BreakerChanged struct {
	// Kind, Name and Group are as in BreakerStats.
	Kind  Kind   `json:"kind"`
	Name  string `json:"name"`
	Group string `json:"group,omitempty"`
	// From and To are the states before and after.
	From resilience.BreakerState `json:"from"`
	To   resilience.BreakerState `json:"to"`
	// Failures are those that opened it, and Until is how long it stays open.
	Failures int       `json:"failures,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	// Service and Host are of the process.
	Service string    `json:"service,omitempty"`
	Host    string    `json:"host,omitempty"`
	Time    time.Time `json:"time"`
}

// MessageName implements Named.
func (BreakerChanged) MessageName() string { return "jitney.breaker_changed" }

// announcer tells of changes of breakers on a goroutine of its own: first
// Config.OnBreaker, then everybody.
type announcer struct {
	b    *Bus
	life context.Context
	stop context.CancelFunc

	mu     sync.Mutex
	queue  []BreakerChanged
	lost   int           // for want of room in queue
	idle   chan struct{} // closed when run ends; nil if it does not run
	closed bool
}

// maxAnnounced bounds the changes that wait to be told.
const maxAnnounced = 256

func newAnnouncer(b *Bus) *announcer {
	a := &announcer{b: b}
	a.life, a.stop = context.WithCancel(context.Background())
	return a
}

// announce queues a change. It does not wait.
func (a *announcer) announce(c BreakerChanged) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return
	case len(a.queue) == maxAnnounced:
		a.lost++
		return
	}
	a.queue = append(a.queue, c)
	if a.idle == nil {
		a.idle = make(chan struct{})
		go a.run()
	}
}

// run tells what is queued, and ends when there is nothing.
func (a *announcer) run() {
	returned := false
	defer func() {
		if !returned { // Config.OnBreaker has ended this goroutine
			go a.run()
		}
	}()
	for {
		a.mu.Lock()
		changes, lost := a.queue, a.lost
		a.queue, a.lost = nil, 0
		if len(changes) == 0 {
			close(a.idle)
			a.idle = nil
		}
		a.mu.Unlock()
		if lost > 0 {
			a.b.log.Warn("changes of circuit breakers not told: too many at once", "changes", lost)
		}
		if len(changes) == 0 {
			returned = true
			return
		}
		for _, c := range changes {
			a.call(c)
		}
		a.publish(changes)
	}
}

func (a *announcer) call(c BreakerChanged) {
	if a.b.cfg.OnBreaker == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			a.b.log.Error("OnBreaker panicked", "name", c.Name, "group", c.Group, "err", textOf(p))
		}
	}()
	a.b.cfg.OnBreaker(c)
}

func (a *announcer) publish(changes []BreakerChanged) {
	var as []announcement
	for _, c := range changes {
		if c.Name == c.MessageName() {
			continue // or its handlers' failures would feed on themselves
		}
		one, err := a.b.announcement("", a.b.ids.next(), c)
		if err != nil {
			a.b.log.Error("change of a circuit breaker not published", "name", c.Name, "group", c.Group, "err", err)
			continue
		}
		as = append(as, one)
	}
	if len(as) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(a.life, a.b.cfg.PublishTimeout)
	defer cancel()
	if err := a.b.publishAll(ctx, as...); err != nil {
		a.b.log.Warn("changes of circuit breakers not published", "changes", len(as), "err", err)
	}
}

// close tells what is queued, until ctx ends.
func (a *announcer) close(ctx context.Context) {
	a.mu.Lock()
	a.closed = true
	idle := a.idle
	a.mu.Unlock()
	if idle != nil && !awaitClosed(ctx, idle) {
		a.b.log.Warn("changes of circuit breakers not told: the bus has closed")
	}
	a.stop()
}
