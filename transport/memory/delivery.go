package memory

import (
	"context"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// delivery is one copy of an event in a reader's hands.
type delivery struct {
	msg *transport.Message // the entry's own, without a codec
	q   *queue
	e   *entry
	n   int32

	missed int // events of a private reader before this one

	// The transport's lock guards the rest.
	state      state
	until      time.Duration // the lease
	expires    time.Duration // the group gets it again
	prev, next *delivery     // the queue's leases
}

type state uint8

const (
	held state = iota
	settled
	lost
)

func (d *delivery) Message() *transport.Message { return d.msg }
func (d *delivery) Deliveries() int             { return int(d.n) }
func (d *delivery) Missed() int                 { return d.missed }
func (d *delivery) Sequence() uint64            { return d.e.seq }

// leased starts the lease.
func (d *delivery) leased(now time.Duration) {
	d.expires = after(now, d.q.ackWait)
	d.until = after(now, d.q.ackWait/10*8)
}

func (d *delivery) Lease() time.Time {
	if d.q.group == "" {
		return time.Time{}
	}
	d.q.t.mu.Lock()
	defer d.q.t.mu.Unlock()
	return d.q.t.at(d.until)
}

type outcome uint8

const (
	handled outcome = iota
	failed
	unrun
)

// The settlements do not wait, so they ignore ctx: a handler that was cancelled
// can still hand its event back.

func (d *delivery) Ack(context.Context) error          { return d.settle(handled, 0) }
func (d *delivery) Term(context.Context, string) error { return d.settle(handled, 0) }
func (d *delivery) Release(context.Context) error      { return d.settle(unrun, 0) }
func (d *delivery) Nak(_ context.Context, delay time.Duration) error {
	return d.settle(failed, delay)
}

func (d *delivery) settle(how outcome, delay time.Duration) error {
	q, t := d.q, d.q.t
	var woken [2]*waiter
	ws := woken[:0]
	t.mu.Lock()
	if err := d.check(); err != nil {
		t.mu.Unlock()
		return err
	}
	switch {
	case q.closed: // a private reader that is gone: nobody gets it again
	case how == handled:
		ws = q.settled(d.e, ws)
	case how == unrun:
		q.again.push(copied{d.e, d.n})
	case delay <= 0:
		q.again.push(copied{d.e, d.n + 1})
	default:
		if err := q.delay(copied{d.e, d.n + 1}, delay); err != nil {
			t.mu.Unlock()
			return err
		}
	}
	d.state = settled
	if q.group != "" {
		q.out.remove(d)
	} else {
		q.held--
		if how == handled {
			q.moved(d.e, 0, -1)
		} else {
			q.moved(d.e, +1, -1)
		}
	}
	ws = q.wake(ws)
	t.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
	return nil
}

func (d *delivery) Extend(context.Context) error {
	q, t := d.q, d.q.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := d.check(); err != nil {
		return err
	}
	if q.group != "" {
		q.out.remove(d)
		q.lease(d, t.now())
	}
	return nil
}

// check says why d cannot be settled.
func (d *delivery) check() error {
	switch {
	case d.q.t.closed:
		return transport.ErrClosed
	case d.state == settled:
		return transport.ErrSettled
	case d.state == lost, d.q.group != "" && d.q.t.now() > d.until:
		return transport.ErrLeaseLost
	}
	return nil
}
