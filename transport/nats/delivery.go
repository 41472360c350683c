package nats

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport"
)

// The settlements of JetStream.
const (
	ackAck      = "+ACK"
	ackNak      = "-NAK"
	ackProgress = "+WPI"
	ackTerm     = "+TERM"
)

// How a delivery stands.
const (
	deliveryOpen int32 = iota
	deliverySettling
	deliverySettled
)

// delivery is one copy of an event that a group was handed.
type delivery struct {
	p       *puller
	m       transport.Message
	inbox   string // where to settle
	stored  uint64 // its sequence in the stream it was read from
	handed  int    // how often the server delivered it
	back    int    // how often it was handed back unrun; known once counted
	counted bool
	lease   atomic.Int64 // UnixNano
	state   atomic.Int32
}

func (d *delivery) Message() *transport.Message { return &d.m }

func (d *delivery) Deliveries() int { return max(d.handed-d.back, 1) }

// Sequence is the place in the event stream. A retry copy has none there.
func (d *delivery) Sequence() uint64 {
	if d.p.retry {
		return 0
	}
	return d.stored
}

// waited is how long ago a delivery arrived that nobody has taken, or extended.
func (d *delivery) waited() time.Duration {
	return d.p.g.leaseFor - time.Until(d.Lease())
}

func (d *delivery) Lease() time.Time { return time.Unix(0, d.lease.Load()) }

// Ack implements transport.Delivery.
func (d *delivery) Ack(ctx context.Context) error {
	return d.settle(ctx, ackAck, d.p.g.t.cfg.DoubleAck)
}

// Nak implements transport.Delivery.
func (d *delivery) Nak(ctx context.Context, delay time.Duration) error {
	if delay <= 0 {
		return d.settle(ctx, ackNak, false)
	}
	return d.settle(ctx, ackNak+` {"delay":`+strconv.FormatInt(int64(delay), 10)+`}`, false)
}

// Term implements transport.Delivery.
func (d *delivery) Term(ctx context.Context, reason string) error {
	if reason == "" {
		return d.settle(ctx, ackTerm, false)
	}
	return d.settle(ctx, ackTerm+" "+reason, false)
}

// Release implements transport.Delivery. That the copy was not run is recorded
// first, so that no later reader takes it for a failure.
func (d *delivery) Release(ctx context.Context) error {
	if err := d.begin(ctx); err != nil {
		return d.wrap(ackNak, err)
	}
	d.record(ctx)
	return d.wrap(ackNak, d.finish(d.send(ackNak)))
}

// record notes that the copy goes back unrun. If that fails it goes back all the
// same: the group must not wait for AckWait.
func (d *delivery) record(ctx context.Context) {
	if err := d.p.g.t.recordHandBack(ctx, d); err != nil {
		d.p.g.t.log.Warn("cannot record a hand-back; it counts as a delivery",
			"name", d.m.To.Name, "group", d.p.g.sub.Group, "err", err)
	}
}

// Extend implements transport.Delivery. The lease counts from before the server
// was asked.
func (d *delivery) Extend(ctx context.Context) error {
	if err := d.check(ctx); err != nil {
		return d.wrap(ackProgress, err)
	}
	asked := time.Now()
	if err := d.confirm(ctx, ackProgress); err != nil {
		return d.wrap(ackProgress, err)
	}
	d.lease.Store(asked.Add(d.p.g.leaseFor).UnixNano())
	return nil
}

// check says why the delivery cannot be spoken for.
func (d *delivery) check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case d.state.Load() != deliveryOpen:
		return transport.ErrSettled
	case d.p.g.t.isShut():
		return transport.ErrClosed
	case time.Now().UnixNano() >= d.lease.Load():
		return transport.ErrLeaseLost
	}
	return nil
}

// begin takes the right to settle.
func (d *delivery) begin(ctx context.Context) error {
	if err := d.check(ctx); err != nil {
		return err
	}
	if !d.state.CompareAndSwap(deliveryOpen, deliverySettling) {
		return transport.ErrSettled
	}
	return nil
}

// finish ends what begin began: an error leaves the delivery open.
func (d *delivery) finish(err error) error {
	if err != nil {
		d.state.Store(deliveryOpen)
		return err
	}
	d.state.Store(deliverySettled)
	return nil
}

func (d *delivery) settle(ctx context.Context, how string, confirmed bool) error {
	if err := d.begin(ctx); err != nil {
		return d.wrap(how, err)
	}
	if confirmed {
		return d.wrap(how, d.finish(d.confirm(ctx, how)))
	}
	return d.wrap(how, d.finish(d.send(how)))
}

func (d *delivery) send(how string) error {
	return d.p.g.t.link.conn().Publish(d.inbox, []byte(how))
}

// sendOnce sends a settlement and waits for a moment for the server's word. It is
// not sent again: a second nak might meet the next delivery.
func (d *delivery) sendOnce(ctx context.Context, how string) error {
	ctx, cancel := context.WithTimeout(ctx, maxTry)
	defer cancel()
	_, sent, err := d.p.g.t.win.ask(ctx, question{subject: d.inbox, data: []byte(how)})
	if sent {
		return nil
	}
	return err
}

// confirm sends a settlement and waits for the server's word, again and again
// while the lease lasts: an answer may be lost with a leader.
func (d *delivery) confirm(ctx context.Context, how string) error {
	ctx, cancel := context.WithDeadline(ctx, d.Lease())
	defer cancel()
	for try := firstTry; ; try = min(2*try, maxTry) {
		one, cancel := context.WithTimeout(ctx, try)
		in, _, err := d.p.g.t.win.ask(one, question{subject: d.inbox, data: []byte(how)})
		cancel()
		if err == nil && !noResponders(in) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("nobody confirms it: %w", nats.ErrNoResponders)
		}
		if ctx.Err() == nil && (isPassing(err) || one.Err() != nil) && sleep(ctx, firstRefuse) {
			continue
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
		}
		return err
	}
}

func (d *delivery) wrap(how string, err error) error {
	if err == nil {
		return nil
	}
	doing := "settle"
	switch how[:4] {
	case ackAck:
		doing = "ack"
	case ackNak:
		doing = "nak"
	case ackTerm:
		doing = "term"
	case ackProgress:
		doing = "extend"
	}
	return mapError(fmt.Sprintf("%s %q of group %q", doing, d.m.To.Name, d.p.g.sub.Group), err)
}
