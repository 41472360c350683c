package memory

import (
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// queue is one group's, or one private reader's, view of one event name: what
// is to be delivered, what is out, and what waits to come again. The
// transport's lock guards it.
type queue struct {
	t      *Transport
	group  string // "" is a private reader
	joined bool   // the group has been subscribed
	// readers counts the group's sources that are open.
	readers int
	closed  bool // the private reader has

	fresh   ring[copied]  // not delivered yet
	again   ring[copied]  // to be delivered again, before fresh ones
	waiting waitList      // goroutines in Next
	delayed later[copied] // nak'd, until their time
	out     leases        // delivered and unsettled; of a group
	alarm   alarm         // for out and delayed

	unsettled  int // events of a group
	maxPending int // of out
	ackWait    time.Duration

	// Of a private reader.
	dropping bool
	missed   int        // dropped since the last that was delivered
	held     int        // delivered and unsettled
	catching []*catchUp // who waits for what
}

// copied is an event with the number of its next delivery.
type copied struct {
	e *entry
	n int32
}

func newQueue(t *Transport, group string) *queue {
	q := &queue{t: t, group: group}
	q.alarm = alarm{t: t, ring: q.tick}
	return q
}

// add gives a new event to q. It appends whom to wake to ws.
func (q *queue) add(e *entry, ws []*waiter) []*waiter {
	if q.group != "" {
		e.refs++
		q.unsettled++
	} else if q.fresh.n+q.again.n+q.delayed.len() >= q.t.cfg.MaxPrivate {
		q.drop()
	}
	q.fresh.push(copied{e, 1})
	return q.wake(ws)
}

// drop makes room in a private reader's queue.
func (q *queue) drop() {
	var c copied
	switch {
	case q.fresh.n > 0:
		c = q.fresh.pop()
	case q.again.n > 0:
		c = q.again.pop()
	default:
		c, _ = q.delayed.take(never)
	}
	q.moved(c.e, -1, 0)
	q.t.dropped++
	q.missed++
	if !q.dropping {
		q.dropping = true
		q.t.lapses++
	}
}

// ready reports whether Next has something to return.
func (q *queue) ready() bool {
	return q.fresh.n+q.again.n > 0 && (q.group == "" || q.out.n < q.maxPending)
}

// wake takes one waiter, if there is one and something to return.
func (q *queue) wake(ws []*waiter) []*waiter {
	if q.waiting.head != nil && q.ready() {
		ws = append(ws, q.waiting.take())
	}
	return ws
}

// next takes what is to be delivered next; there must be something.
func (q *queue) next() copied {
	if q.again.n > 0 {
		return q.again.pop()
	}
	c := q.fresh.pop()
	if q.fresh.n == 0 {
		q.dropping = false
	}
	return c
}

// lease notes that d is out.
func (q *queue) lease(d *delivery, now time.Duration) {
	d.leased(now)
	q.out.add(d)
	q.alarm.setFor(d.expires, now)
}

// settled ends an event for q. It appends whom to wake to ws.
func (q *queue) settled(e *entry, ws []*waiter) []*waiter {
	if q.group == "" {
		return ws
	}
	q.unsettled--
	if e.refs--; e.refs > 0 {
		return ws
	}
	q.t.log.settle(e)
	return q.t.wakeBlocked(ws)
}

// delay makes an event come again after a while.
func (q *queue) delay(c copied, d time.Duration) error {
	if q.group == "" && q.delayed.len() >= q.t.cfg.MaxPrivate {
		return &transport.BacklogError{Limit: q.t.cfg.MaxPrivate}
	}
	now := q.t.now()
	at := after(now, d)
	q.delayed.add(at, c)
	q.alarm.setFor(at, now)
	return nil
}

// tick moves what is due: leases that ran out, and delays that are over.
func (q *queue) tick() {
	t := q.t
	t.mu.Lock()
	q.alarm.set = false
	if t.closed {
		t.mu.Unlock()
		return
	}
	now := t.now()
	var ws []*waiter
	for d := q.out.head; d != nil && d.expires <= now; d = q.out.head {
		q.out.remove(d)
		d.state = lost
		q.again.push(copied{d.e, d.n + 1})
		ws = q.wake(ws)
	}
	for c, ok := q.delayed.take(now); ok; c, ok = q.delayed.take(now) {
		q.again.push(c)
		ws = q.wake(ws)
	}
	if q.out.head != nil {
		q.alarm.setFor(q.out.head.expires, now)
	}
	if at, ok := q.delayed.first(); ok {
		q.alarm.setFor(at, now)
	}
	t.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
}

// leases lists deliveries in order of expiry, which is the order of lease: the
// clock and a group's AckWait do not go back.
type leases struct {
	head, tail *delivery
	n          int
}

func (l *leases) add(d *delivery) {
	d.prev, d.next = l.tail, nil
	if l.tail == nil {
		l.head = d
	} else {
		l.tail.next = d
	}
	l.tail = d
	l.n++
}

func (l *leases) remove(d *delivery) {
	if d.prev == nil {
		l.head = d.next
	} else {
		d.prev.next = d.next
	}
	if d.next == nil {
		l.tail = d.prev
	} else {
		d.next.prev = d.prev
	}
	d.prev, d.next = nil, nil
	l.n--
}
