package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// source is one reader of a queue; a private reader has its queue alone, and is a
// privateSource.
type source struct {
	t             *Transport
	q             *queue
	name, session string
	closed        bool
}

// Subscribe starts to read events. AckWait and MaxAckPending are the group's: the
// longest AckWait that a reader asked for, since the others' leases would become
// wrong by a shorter one, and the MaxAckPending of the latest reader.
func (t *Transport) Subscribe(ctx context.Context, s transport.Subscription) (transport.Source[transport.Delivery], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkName(s.Name); err != nil {
		return nil, err
	}
	if s.Group != "" {
		if err := checkGroup(s.Group); err != nil {
			return nil, err
		}
		if s.Session != "" {
			return nil, fmt.Errorf("group %q with session %q: a group reads all sessions: %w", s.Group, s.Session, transport.ErrInvalid)
		}
	}
	if s.AckWait <= 0 {
		s.AckWait = 30 * time.Second
	}
	if s.MaxAckPending <= 0 {
		s.MaxAckPending = 10_000
	}

	src := source{t: t, name: s.Name, session: s.Session}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, transport.ErrClosed
	}
	var ws []*waiter
	if s.Group == "" {
		src.q = newQueue(t, "")
		t.topic(s.Name).readPrivately(src.q, s.Session)
	} else {
		src.q = t.group(s.Name, s.Group)
		src.q.readers++
		if !src.q.joined {
			t.join(s.Name, src.q, s.Start)
		}
		if s.MaxAckPending > src.q.maxPending {
			ws = src.q.waiting.takeAll(nil) // more may go on
		}
		src.q.maxPending = s.MaxAckPending
		src.q.ackWait = max(src.q.ackWait, s.AckWait)
	}
	t.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
	if s.Group == "" {
		return &privateSource{src}, nil
	}
	return &src, nil
}

// Next returns the next event.
func (s *source) Next(ctx context.Context) (transport.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, q := s.t, s.q
	t.mu.Lock()
	for {
		if s.closed || t.closed {
			t.mu.Unlock()
			return nil, transport.ErrClosed
		}
		if q.ready() {
			break
		}
		signalled := q.waiting.wait(ctx, &t.mu, s)
		if err := ctx.Err(); err != nil && !s.closed && !t.closed {
			var one [1]*waiter
			ws := one[:0]
			if signalled {
				ws = q.wake(ws) // what it was for is somebody else's now
			}
			t.mu.Unlock()
			for _, w := range ws {
				w.signal()
			}
			return nil, err
		}
	}
	c := q.next()
	d := &c.e.first
	if c.e.taken {
		d = &delivery{}
	}
	c.e.taken = true
	d.q, d.e, d.n, d.msg = q, c.e, c.n, c.e.msg
	if q.group != "" {
		q.lease(d, t.now())
	} else {
		d.missed, q.missed = q.missed, 0
		q.held++
		q.moved(c.e, -1, +1)
	}
	t.mu.Unlock()
	if t.cfg.Codec != nil {
		d.msg = t.carried(d.msg)
	}
	return d, nil
}

// Close ends the reader. What it has not returned is the group's; a private
// reader's is gone.
func (s *source) Close(context.Context) error {
	t, q := s.t, s.q
	t.mu.Lock()
	if s.closed || t.closed {
		s.closed = true
		t.mu.Unlock()
		return nil
	}
	s.closed = true
	ws := q.waiting.takeAll(s)
	if q.group == "" {
		t.topics[s.name].forget(q, s.session)
		q.alarm.stop()
		q.closed = true
		q.endCatchUps()
		q.fresh, q.again, q.delayed = ring[copied]{}, ring[copied]{}, later[copied]{}
	} else {
		q.readers--
		ws = q.wake(ws) // a signal on its way to one of ours was for the group
	}
	t.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
	return nil
}
