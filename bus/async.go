package bus

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// PublishAsync puts an event into a queue and returns; a batch of what is queued
// is stored with one call, when Config.BatchSize events (100) or BatchBytes
// (1 MiB) have come together, or BatchTimeout (100 ms) after the first. What
// became of the event is told by the *Pending, and by Bus.Flush.
//
// The options, Validate, the sending chain and the encoding are done when
// PublishAsync returns, with the errors of Publish. So the chain sees an event
// that is queued as sent. ctx, WithTimeout and Config.PublishTimeout (10 s) bound
// the wait for room in the queue, which holds Config.QueueSize events (10,000),
// and nothing after it. When it ends, the error is of CodeBacklog, or of
// CodeCancelled for a ctx that was cancelled: the event is not sent.
//
// Events are stored in the order in which one caller gave them: one batch at a
// time, and a batch in parts where a key repeats. Within a part, one that has to be
// sent again may be stored after later ones. Of a WithKey, none is stored after one
// that was not: the events of the key that were queued when one fails are not sent,
// and their error is ErrOutOfOrder. Publish and PublishAll do not wait for the
// queue.
//
// Each part has Config.PublishTimeout to be stored. Nothing is lost silently: Close
// stores what is queued, within its ctx, and a failure that nobody asks for within
// 5 s is logged.
func PublishAsync(ctx context.Context, s Scope, event any, opts ...PublishOption) (*Pending, error) {
	sc := s.scope()
	p := &Pending{m: new(transport.Message)}
	if !sc.bus.observed() {
		if err := sc.publishAsync(ctx, p, event, opts, nil); err != nil {
			return nil, err
		}
		return p, nil
	}
	// What is queued is told of when it has its result, which may be at once.
	m := p.m
	p.began, p.seen = time.Now(), &passage{value: event}
	if err := sc.publishAsync(ctx, p, event, opts, p.seen); err != nil {
		sc.bus.observePublished(m, p.seen, p.began, err)
		return nil, err
	}
	if !p.reached {
		sc.bus.observePublished(m, p.seen, p.began, nil)
	}
	return p, nil
}

// publishAsync fills in p and queues it.
func (s *scope) publishAsync(ctx context.Context, p *Pending, event any, opts []PublishOption, seen *passage) error {
	o := publishing(opts)
	sends, err := s.event(ctx, p.m, event, &o)
	if err != nil {
		sends.count(err)
		return err
	}
	p.sends = sends
	p.id, p.name = p.m.ID, p.m.To.Name
	p.m.Fresh = false // its id is told before it is stored: it may be published again
	bounded := &lazyContext{parent: ctx}
	if _, ok := ctx.Deadline(); !ok || o.timeout > 0 {
		bounded.timeout = cmp.Or(o.timeout, s.bus.cfg.PublishTimeout)
	}
	defer bounded.end()
	err = s.bus.sendEvent(bounded, p.m, p, seen)
	switch {
	case err != nil:
	case p.reached:
		err = s.bus.sender.enqueue(bounded, p)
	default: // a filter or a middleware has stopped it
		sends.filtered.Add(1)
		p.settle(nil)
	}
	if err != nil { // else it is counted when it has its result
		sends.count(err)
	}
	return err
}

// Flush sends at once what PublishAsync has queued, and returns when every event
// that was queued before the call has its result. Its error, of CodeUnknown if one
// of them may be stored, joins the failures since the last Flush whose result nobody
// has asked for: up to 100, and the number of all. When ctx ends first, the error is
// of CodeTimeout or CodeCancelled and tells how many have no result yet. Without a
// deadline Flush waits for as long as it takes: Config.PublishTimeout for each batch
// at the most.
func (b *Bus) Flush(ctx context.Context) error {
	if err := b.sender.flush(ctx); err != nil {
		return err
	}
	return b.sender.untold.report("flush", false)
}

// Pending is an event that PublishAsync has queued. It is safe for concurrent
// use, and may be dropped by who does not care for the result.
type Pending struct {
	id, name string
	m        *transport.Message // nil when there is a result
	reached  bool               // the end of the sending chain
	size     int                // of what is sent, in bytes
	number   uint64             // its place in the queue
	queued   time.Time
	sends    *sendTally
	behind   string // the id of an event of its key that was dropped before it
	// For observers; nil without any.
	seen  *passage
	began time.Time

	mu      sync.Mutex
	settled bool
	err     error
	told    bool          // somebody has got err
	done    chan struct{} // made when somebody asks
}

// ID returns the event's id. Publishing the event again WithID the same id, whatever
// its result is or will be, stores it once within the dedup window.
func (p *Pending) ID() string { return p.id }

// Done returns a channel that is closed when the result is there.
func (p *Pending) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		p.done = make(chan struct{})
		if p.settled {
			close(p.done)
		}
	}
	return p.done
}

// Err returns the result: nil if the event is stored, otherwise the *Error that
// Publish would have returned. It is nil as long as there is no result: ask once
// Done is closed, or after Flush.
func (p *Pending) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = p.told || p.settled
	return p.err
}

// Wait waits for the result and returns it. When ctx ends first the error is of
// CodeTimeout or CodeCancelled with the Op "wait", and the event goes on.
func (p *Pending) Wait(ctx context.Context) error {
	p.mu.Lock()
	settled := p.settled
	p.mu.Unlock()
	if settled || awaitClosed(ctx, p.Done()) {
		return p.Err()
	}
	return fromTransport("wait", p.name, p.id, ctx.Err())
}

// add makes p a collector: its message has come through the sending chain.
func (p *Pending) add(*transport.Message) { p.reached = true }

// settle notes the result.
func (p *Pending) settle(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.m, p.err, p.settled = nil, err, true
	if p.done != nil {
		close(p.done)
	}
}

// isTold reports whether somebody has got the result, and counts the caller as
// somebody if tell is true.
func (p *Pending) isTold(tell bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := p.told
	p.told = told || tell
	return told
}
