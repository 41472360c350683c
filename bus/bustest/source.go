package bustest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// requests counts each request that is handed out until its reply.
type requests struct {
	transport.Source[transport.Request]
	p *process
}

func (s *requests) Next(ctx context.Context) (transport.Request, error) {
	r, err := s.Source.Next(ctx)
	if err != nil {
		return nil, err
	}
	own := &request{Request: r, p: s.p, end: s.p.h.ledger.take(r.Message())}
	s.p.hold(own)
	return own, nil
}

func (s *requests) Close(ctx context.Context) error {
	err := s.Source.Close(ctx)
	s.p.gone(s)
	return err
}

type request struct {
	transport.Request
	p   *process
	end func()
}

func (r *request) Reply(ctx context.Context, m *transport.Message) error {
	if r.p.life.Err() != nil {
		return transport.ErrClosed
	}
	err := r.Request.Reply(ctx, m)
	if err == nil {
		r.p.letGo(r)
		r.end()
	}
	return err
}

func (r *request) abandon() { r.end() }

// deliveries counts each delivery that is handed out until it is settled.
type deliveries struct {
	transport.Source[transport.Delivery]
	p      *process
	queue  *queue
	closed atomic.Bool
}

// catchingUp is the source of a driver that says when a reader has caught up.
type catchingUp struct {
	*deliveries
	transport.CatchUpper
}

func (s *deliveries) Next(ctx context.Context) (transport.Delivery, error) {
	inner, err := s.Source.Next(ctx)
	if err != nil {
		return nil, err
	}
	d := &delivery{Delivery: inner, p: s.p, queue: s.queue, m: inner.Message()}
	d.key = copyKey{session: d.m.To.Session, id: d.m.ID, addressed: d.m.To.Group != ""}
	d.m = s.p.h.faults.restore(d.m)
	s.p.hold(d)
	s.p.h.ledger.handOut(d)
	return d, nil
}

// Pause closes the source for a while, because a circuit breaker has opened: its
// reader is still to handle what its group has, and closes it when it reads again or
// ends.
func (s *deliveries) Pause(ctx context.Context) error { return s.Source.Close(ctx) }

func (s *deliveries) Close(ctx context.Context) error {
	err := s.Source.Close(ctx)
	if !s.closed.Swap(true) {
		s.p.gone(s)
		s.p.h.ledger.leave(s.queue)
	}
	return err
}

type delivery struct {
	transport.Delivery
	p     *process
	queue *queue
	key   copyKey
	m     *transport.Message
}

func (d *delivery) Message() *transport.Message { return d.m }

func (d *delivery) Missed() int {
	if m, ok := d.Delivery.(transport.Misser); ok {
		return m.Missed()
	}
	return 0
}

func (d *delivery) Ack(ctx context.Context) error {
	if d.p.h.faults.dropAck(d) {
		d.p.letGo(d)
		return nil // and it stays with the group, until AckWait has passed
	}
	return d.settle(func() error { return d.Delivery.Ack(ctx) })
}

func (d *delivery) Term(ctx context.Context, reason string) error {
	return d.settle(func() error { return d.Delivery.Term(ctx, reason) })
}

func (d *delivery) Nak(ctx context.Context, delay time.Duration) error {
	return d.giveBack(func() error { return d.Delivery.Nak(ctx, delay) })
}

func (d *delivery) Release(ctx context.Context) error {
	return d.giveBack(func() error { return d.Delivery.Release(ctx) })
}

func (d *delivery) Extend(ctx context.Context) error {
	if d.p.life.Err() != nil {
		return transport.ErrClosed
	}
	return d.Delivery.Extend(ctx)
}

// settle settles for good. Only then is it struck out.
func (d *delivery) settle(do func() error) error {
	if d.p.life.Err() != nil {
		return transport.ErrClosed
	}
	err := do()
	if err == nil {
		d.p.letGo(d)
		d.p.h.ledger.settle(d)
	}
	return err
}

// giveBack is noted first: the event may be handed out again before do returns.
func (d *delivery) giveBack(do func() error) error {
	if d.p.life.Err() != nil {
		return transport.ErrClosed
	}
	d.p.h.ledger.giveBack(d)
	err := do()
	if err != nil {
		d.p.h.ledger.handOut(d)
		return err
	}
	d.p.letGo(d)
	return nil
}

func (d *delivery) abandon() { d.p.h.ledger.giveBack(d) }
