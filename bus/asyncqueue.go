package bus

import (
	"context"
	"sync"
	"time"
)

// sendQueue holds the events of PublishAsync that no batch has taken yet, and
// says when a batch is due.
type sendQueue struct {
	size, bytes int           // of a batch
	timeout     time.Duration // after its first event

	strategy Strategy
	capacity int
	room     chan struct{} // has an element for each event that is queued; nil if nobody waits for room
	wake     chan struct{} // receives when a batch may be due sooner than it was

	mu     sync.Mutex
	gauge  *gauge
	items  []*Pending // items[:head] was taken
	head   int
	held   int    // bytes that are queued
	last   uint64 // the number of the event that was added last
	recent uint64 // of the last that belongs to a session
	flush  uint64 // up to this number events are due now
	closed bool   // takes no more; what is there is due

	broken map[string]brokenKey // by events that were taken
	// Of a queue that drops its oldest: how many events of a key are queued, and the
	// last that was dropped before them.
	keys map[string]int
	gaps map[string]brokenKey
}

func newSendQueue(c *Config, p *pressure) *sendQueue {
	q := &sendQueue{
		// A queue that is smaller than a batch is due when it is full.
		size: min(c.BatchSize, c.QueueSize), bytes: c.BatchBytes, timeout: c.BatchTimeout,
		strategy: c.Backpressure.Strategy, capacity: c.QueueSize,
		wake: make(chan struct{}, 1), broken: map[string]brokenKey{},
	}
	switch q.strategy {
	case DropOldest:
		q.keys, q.gaps = map[string]int{}, map[string]brokenKey{}
	case Block, AdaptiveRateLimit:
		q.room = make(chan struct{}, c.QueueSize)
	}
	q.gauge = newGauge(p, &q.mu, QueueStats{Queue: "publish", Strategy: q.strategy, Capacity: q.capacity})
	p.add(q.gauge)
	return q
}

// push adds p. If the queue is full it does what the strategy says: it waits for room
// until ctx ends, refuses p, or returns the event that made room.
func (q *sendQueue) push(ctx context.Context, p *Pending) (dropped *Pending, first bool, err error) {
	if err := q.awaitRoom(ctx); err != nil {
		return nil, false, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		q.leaveRoom(1)
		return nil, false, ErrClosed
	case q.len() < q.capacity:
	case q.strategy == RejectNew:
		q.gauge.reject()
		return nil, false, ErrRejected
	case q.strategy == DropOldest:
		dropped, first = q.drop(), q.gauge.drop()
	}
	q.add(p)
	return dropped, first, nil
}

// awaitRoom waits for room where that is what the strategy says.
func (q *sendQueue) awaitRoom(ctx context.Context) error {
	if q.room == nil {
		return nil
	}
	select {
	case q.room <- struct{}{}:
		return nil
	default:
	}
	select {
	case q.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		q.refused()
		return ctx.Err()
	}
}

// refused counts an event that was not let in.
func (q *sendQueue) refused() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gauge.reject()
}

// leaveRoom makes room for n events where somebody may wait for it.
func (q *sendQueue) leaveRoom(n int) {
	if q.room == nil {
		return
	}
	for range n {
		<-q.room
	}
}

// add puts p at the end. q.mu is held.
func (q *sendQueue) add(p *Pending) {
	q.last++
	p.number, p.queued = q.last, time.Now()
	if len(q.items) == cap(q.items) && q.head >= len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	if p.m.Session != "" {
		q.recent = p.number
	}
	if q.keys != nil && p.m.Key != "" {
		q.keys[p.m.Key]++
	}
	q.items = append(q.items, p)
	q.held += p.size
	q.gauge.in()
	q.gauge.fill(q.len())
	if q.len() == 1 || q.full() {
		q.signal()
	}
}

// drop removes the oldest event. The events of its key behind it must not be stored
// without it: take sees to it. q.mu is held.
func (q *sendQueue) drop() *Pending {
	p := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	q.held -= p.size
	if key := p.m.Key; key != "" && q.unqueue(key) {
		q.gaps[key] = brokenKey{id: p.id, through: q.last}
	}
	return p
}

// unqueue notes that an event of a key is no longer queued, and reports whether
// others are. q.mu is held.
func (q *sendQueue) unqueue(key string) bool {
	if q.keys[key]--; q.keys[key] > 0 {
		return true
	}
	delete(q.keys, key)
	delete(q.gaps, key)
	return false
}

// brokenKey says that an event of a key was not stored.
type brokenKey struct {
	id      string
	through uint64 // events of the key up to this number were queued by then
}

// failed notes that an event of a key, which was taken, is not stored.
func (q *sendQueue) failed(p *Pending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.broken[p.m.Key] = brokenKey{id: p.id, through: q.last}
}

// brokenBy returns the id of the event because of which p must not be sent, or "":
// an earlier one of its key that was not stored after p was queued.
func (q *sendQueue) brokenBy(p *Pending) string {
	if p.behind != "" {
		return p.behind
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	k, ok := q.broken[p.m.Key]
	if !ok {
		return ""
	}
	if p.number <= k.through {
		return k.id
	}
	delete(q.broken, p.m.Key)
	return ""
}

// mend forgets the keys of which no event up to number waits for its result.
func (q *sendQueue) mend(number uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, k := range q.broken {
		if k.through <= number {
			delete(q.broken, key)
		}
	}
}

func (q *sendQueue) len() int { return len(q.items) - q.head }

// full reports whether there is enough for a batch. q.mu is held.
func (q *sendQueue) full() bool { return q.len() >= q.size || q.held >= q.bytes }

func (q *sendQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns the next batch if one is due; otherwise when one will be, which is
// the zero time if nothing is queued, and whether nothing will come any more.
func (q *sendQueue) take(now time.Time) (batch []*Pending, due time.Time, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.len() == 0 {
		return nil, time.Time{}, q.closed
	}
	waiting := q.items[q.head:]
	first := waiting[0]
	due = first.queued.Add(q.timeout)
	if !q.full() && !q.closed && first.number > q.flush && now.Before(due) {
		return nil, due, false
	}
	n, bytes := 1, first.size
	for n < len(waiting) && n < q.size && bytes+waiting[n].size <= q.bytes {
		bytes += waiting[n].size
		n++
	}
	batch = append(batch, waiting[:n]...)
	clear(waiting[:n])
	if q.head += n; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	q.held -= bytes
	if q.keys != nil {
		for _, p := range batch {
			if key := p.m.Key; key != "" {
				if gap, ok := q.gaps[key]; ok && p.number <= gap.through {
					p.behind = gap.id
				}
				q.unqueue(key)
			}
		}
	}
	q.gauge.out(n)
	q.gauge.fill(q.len())
	q.leaveRoom(n)
	return batch, time.Time{}, false
}

// flushAll makes what is queued due, and returns the number of the last event.
func (q *sendQueue) flushAll() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flush = q.last
	q.signal()
	return q.last
}

// close takes no more events and makes what is queued due.
func (q *sendQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

// lastOfSession is the number of the last event that belongs to a session.
func (q *sendQueue) lastOfSession() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.recent
}
