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

	room chan struct{} // has an element for each event that is queued
	wake chan struct{} // receives when a batch may be due sooner than it was

	mu     sync.Mutex
	items  []*Pending // items[:head] was taken
	head   int
	held   int    // bytes that are queued
	last   uint64 // the number of the event that was added last
	recent uint64 // of the last that belongs to a session
	flush  uint64 // up to this number events are due now
	closed bool   // takes no more; what is there is due
}

func newSendQueue(c *Config) *sendQueue {
	return &sendQueue{
		// A queue that is smaller than a batch is due when it is full.
		size: min(c.BatchSize, c.QueueSize), bytes: c.BatchBytes, timeout: c.BatchTimeout,
		room: make(chan struct{}, c.QueueSize), wake: make(chan struct{}, 1),
	}
}

// push adds p, and waits for room until ctx ends.
func (q *sendQueue) push(ctx context.Context, p *Pending) error {
	select {
	case q.room <- struct{}{}:
	default:
		select {
		case q.room <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		<-q.room
		return ErrClosed
	}
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
	q.items = append(q.items, p)
	q.held += p.size
	if q.len() == 1 || q.full() {
		q.signal()
	}
	return nil
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
	for range n {
		<-q.room
	}
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

// newest is the number of the event that was added last.
func (q *sendQueue) newest() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last
}

// lastOfSession is the number of the last event that belongs to a session.
func (q *sendQueue) lastOfSession() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.recent
}
