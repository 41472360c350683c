package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// queueing is what WithQueue asks for.
type queueing struct {
	capacity int
	strategy Strategy
}

// String returns the queue in words.
func (q *queueing) String() string { return fmt.Sprintf("up to %d events, %v", q.capacity, q.strategy) }

// maxListenQueue bounds what WithQueue takes.
const maxListenQueue = 1_000_000

// inbox is the queue of a private or session listener, between the transport and the
// reader's pump. A goroutine of its own takes from the transport what comes, so that
// nothing piles up there unless the strategy is Block.
type inbox struct {
	queueing
	src  deliverySource
	p    *pressure
	log  *slog.Logger
	room chan struct{} // with Block, has an element for each event in the queue
	some chan struct{} // holds a token while there may be something for Next

	closing chan struct{} // closed by Close
	once    sync.Once
	ended   chan struct{} // closed when nothing is taken from the transport any more

	mu     sync.Mutex
	gauge  *gauge
	items  []stowed // items[:head] was taken
	head   int
	missed int // events that were dropped after the last item
	closed bool
}

// stowed is a delivery that waits for its listener.
type stowed struct {
	transport.Delivery
	missed int // events that were dropped before it
}

// Missed implements transport.Misser.
func (q *stowed) Missed() int { return q.missed + missedBefore(q.Delivery) }

func missedBefore(d transport.Delivery) int {
	if m, ok := d.(transport.Misser); ok {
		return m.Missed()
	}
	return 0
}

func newInbox(b *Bus, q queueing, name, session string, src deliverySource) *inbox {
	x := &inbox{
		queueing: q, src: src, p: b.pressure, log: b.log.With("queue", name, "session", session),
		some: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}),
	}
	if q.strategy == Block {
		x.room = make(chan struct{}, q.capacity)
	}
	x.gauge = newGauge(x.p, &x.mu, QueueStats{Queue: name, Session: session, Strategy: q.strategy, Capacity: q.capacity})
	x.p.add(x.gauge)
	go x.follow()
	return x
}

// follow takes what comes until the source is closed.
func (x *inbox) follow() {
	defer close(x.ended)
	defer x.end()
	for {
		if x.room != nil {
			select {
			case x.room <- struct{}{}:
			case <-x.closing:
				return
			}
		}
		d, err := x.src.Next(context.Background())
		switch {
		case errors.Is(err, transport.ErrClosed):
			return
		case err != nil:
			x.log.Warn("no messages for now", "err", err)
			if x.room != nil {
				<-x.room
			}
			time.Sleep(nextRetry)
		default:
			x.add(d)
		}
	}
}

// add queues d. If there is no room it settles the oldest, or d itself.
func (x *inbox) add(d transport.Delivery) {
	x.mu.Lock()
	victim, first := transport.Delivery(nil), false
	switch full := x.len() >= x.capacity; {
	case full && x.strategy == RejectNew:
		victim, first = d, x.gauge.drop()
		x.missed += 1 + missedBefore(d)
	case full: // only if it drops the oldest
		oldest := x.take()
		victim, first = oldest.Delivery, x.gauge.drop()
		*x.next() += 1 + oldest.Missed()
		fallthrough
	default:
		x.items = append(x.items, stowed{d, x.missed})
		x.missed = 0
		x.gauge.in()
	}
	x.gauge.fill(x.len())
	x.signal()
	x.mu.Unlock()
	if first {
		x.log.Warn("a listener is too slow for its queue and misses events", "capacity", x.capacity, "strategy", x.strategy)
	}
	if victim != nil {
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		defer cancel()
		if err := victim.Term(ctx, ErrDropped.Error()); err != nil {
			x.log.Warn("event that its listener misses not settled", "err", err)
		}
	}
}

// next is where the events are counted that are missed before the oldest item, or
// before the one that comes next. x.mu is held.
func (x *inbox) next() *int {
	if x.len() > 0 {
		return &x.items[x.head].missed
	}
	return &x.missed
}

func (x *inbox) len() int { return len(x.items) - x.head }

// take removes the oldest item; there must be one. x.mu is held.
func (x *inbox) take() stowed {
	it := x.items[x.head]
	x.items[x.head] = stowed{}
	if x.head++; 2*x.head >= len(x.items) { // as often moved as taken, at the most
		n := copy(x.items, x.items[x.head:])
		clear(x.items[n:])
		x.items, x.head = x.items[:n], 0
	}
	return it
}

// signal says that there is something for Next. x.mu is held.
func (x *inbox) signal() {
	select {
	case x.some <- struct{}{}:
	default:
	}
}

// Next implements transport.Source.
func (x *inbox) Next(ctx context.Context) (transport.Delivery, error) {
	for {
		x.mu.Lock()
		if x.len() > 0 {
			it := x.take()
			x.gauge.out(1)
			x.gauge.fill(x.len())
			if x.len() > 0 {
				x.signal() // to who else waits
			}
			x.mu.Unlock()
			if x.room != nil {
				<-x.room
			}
			return &it, nil
		}
		if x.closed {
			x.signal()
			x.mu.Unlock()
			return nil, transport.ErrClosed
		}
		x.mu.Unlock()
		select {
		case <-x.some:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// end drops what is queued: it ends with its listener.
func (x *inbox) end() {
	x.mu.Lock()
	left := x.items[x.head:]
	x.items, x.head, x.closed = nil, 0, true
	x.gauge.fill(0)
	x.signal()
	x.mu.Unlock()
	for _, it := range left {
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		_ = it.Term(ctx, "listener closed") // its source has forgotten it
		cancel()
	}
	x.p.remove(x.gauge)
}

// Close implements transport.Source.
func (x *inbox) Close(ctx context.Context) error {
	x.once.Do(func() { close(x.closing) })
	err := x.src.Close(ctx)
	if !awaitClosed(ctx, x.ended) {
		return errors.Join(err, ctx.Err())
	}
	return err
}

// CatchUp implements transport.CatchUpper, as far as the source does. What is queued
// is handed out and not settled, so it is waited for.
func (x *inbox) CatchUp(ctx context.Context, left int) error {
	if c, ok := x.src.(transport.CatchUpper); ok {
		return c.CatchUp(ctx, left)
	}
	return nil
}
