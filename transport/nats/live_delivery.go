package nats

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// liveDelivery is one copy of an event for a private reader. The server knows
// nothing of it: what settles it, and when it comes again, is decided here.
type liveDelivery struct {
	r       *liveReader
	m       *transport.Message
	seq     uint64
	place   uint64 // among all events of the reader, also if the stream is made anew
	n       int    // which delivery this is
	out     bool   // Next has returned it; r.mu guards it and settled
	settled bool
}

// waiting is an event that a private reader gets again. Only its place in the
// stream is kept: the copy before may have been changed by who received it.
type waiting struct {
	at         time.Time
	seq, place uint64
	n          int
}

func (d *liveDelivery) Message() *transport.Message { return d.m }
func (d *liveDelivery) Deliveries() int             { return d.n }
func (d *liveDelivery) Sequence() uint64            { return d.seq }

// Lease is the zero time: nobody else gets the copy.
func (d *liveDelivery) Lease() time.Time { return time.Time{} }

func (d *liveDelivery) Ack(ctx context.Context) error { return d.settle(ctx) }

func (d *liveDelivery) Term(ctx context.Context, _ string) error { return d.settle(ctx) }

// Nak returns ErrBacklog when too many events of this reader wait already.
func (d *liveDelivery) Nak(ctx context.Context, delay time.Duration) error {
	return d.wait(ctx, waiting{at: time.Now().Add(max(delay, 0)), seq: d.seq, place: d.place, n: d.n + 1})
}

func (d *liveDelivery) Release(ctx context.Context) error {
	return d.wait(ctx, waiting{at: time.Now(), seq: d.seq, place: d.place, n: d.n})
}

func (d *liveDelivery) Extend(ctx context.Context) error {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	return d.check(ctx)
}

// check says why d cannot be settled. The caller holds r.mu.
func (d *liveDelivery) check(ctx context.Context) error {
	if d.settled {
		return transport.ErrSettled
	}
	return ctx.Err()
}

// settle settles d for good.
func (d *liveDelivery) settle(ctx context.Context) error {
	r := d.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := d.check(ctx); err != nil {
		return err
	}
	d.settled = true
	delete(r.unsettled, d)
	r.moved(d.place, 0, -1)
	return nil
}

// wait settles d and queues the event again.
func (d *liveDelivery) wait(ctx context.Context, w waiting) error {
	r := d.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case d.settled:
		return transport.ErrSettled
	case r.life.Err() != nil:
		return transport.ErrClosed
	case len(r.again) >= liveWaiting:
		return &transport.BacklogError{Limit: liveWaiting}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.settled = true
	delete(r.unsettled, d)
	r.moved(d.place, +1, -1)
	r.enqueue(w)
	r.wake()
	return nil
}

// enqueue puts w among those that wait, by time. The caller holds r.mu.
func (r *liveReader) enqueue(w waiting) {
	i, _ := slices.BinarySearchFunc(r.again, w, func(a, b waiting) int {
		if a.at.After(b.at) {
			return 1
		}
		return -1 // equal times in the order of their settlement
	})
	r.again = slices.Insert(r.again, i, w)
}

// redeliver hands out the events whose time has come, and returns when the next
// one's will.
func (r *liveReader) redeliver() time.Duration {
	for {
		r.mu.Lock()
		if len(r.again) == 0 {
			r.mu.Unlock()
			return time.Hour
		}
		w := r.again[0]
		if wait := time.Until(w.at); wait > 0 {
			r.mu.Unlock()
			return wait
		}
		r.again = slices.Delete(r.again, 0, 1)
		r.mu.Unlock()
		if !r.deliverAgain(w) {
			return pauseLongest
		}
	}
}

// deliverAgain reports false if w has to wait longer.
func (r *liveReader) deliverAgain(w waiting) bool {
	var m *jetstream.RawStreamMsg
	gone := w.place <= r.base // with the stream before this one
	if !gone {
		err := r.call(func(ctx context.Context, js jetstream.JetStream) (err error) {
			m, err = fromLeader(ctx, js, r.stream, msgRequest{Seq: w.seq})
			return err
		})
		if err == nil {
			return r.deliver(m, w.n)
		}
		gone = isNoMessage(err)
	}
	if gone {
		r.log.Error("an event that was to be handled again is no longer stored", "sequence", w.seq, "delivery", w.n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if gone {
		r.moved(w.place, -1, 0)
		return true
	}
	w.at = time.Now().Add(pauseLongest)
	r.enqueue(w)
	return false
}

// deliver queues a copy of an event for Next, waiting until there is room. It
// reports false when the reader closes first.
func (r *liveReader) deliver(m *jetstream.RawStreamMsg, n int) bool {
	d := &liveDelivery{r: r, m: r.names.decode(m.Subject, m.Header, m.Data), seq: m.Sequence, place: r.base + m.Sequence, n: n}
	if d.m.SentAt.IsZero() {
		d.m.SentAt = m.Time
	}
	r.mu.Lock()
	r.unsettled[d] = struct{}{}
	r.newest = max(r.newest, d.place)
	r.mu.Unlock()
	select {
	case r.out <- d:
		return true
	case <-r.life.Done():
		return false
	}
}
