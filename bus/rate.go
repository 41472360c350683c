package bus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// rate lets events be published as fast as they are handled (AdaptiveRateLimit). It
// learns that from how long this bus's events take until a durable group of this
// process begins to handle them, from how long the transport takes to store them,
// and from what the transport refuses because its log is full.
type rate struct {
	limiter *resilience.AIMD
	mark    string // of this bus's events, which have it in a header

	mu     sync.Mutex
	gauge  *gauge
	last   time.Time   // when somebody had to wait
	calm   *time.Timer // set while backpressure is raised
	closed bool
}

// calmAfter is after how long without anybody who has to wait backpressure is
// cleared.
const calmAfter = time.Second

func newRate(p *pressure, ids *idSource) *rate {
	r := &rate{limiter: resilience.NewAIMD(p.cfg.TargetLag), mark: ids.prefix}
	r.gauge = newGauge(p, &r.mu, QueueStats{Queue: "rate", Strategy: AdaptiveRateLimit})
	r.gauge.refresh = func(s *QueueStats) { s.Size, s.Rate = r.limiter.Waiting(), r.limiter.Rate() }
	p.add(r.gauge)
	return r
}

// admit waits until n events may be published. What a handler publishes takes its
// turns without waiting: it is the handlers that the others wait for.
func (r *rate) admit(ctx context.Context, name, id string, n int) error {
	var waited time.Duration
	var err error
	if callFrom(ctx) != nil {
		r.limiter.Take(n)
	} else {
		waited, err = r.limiter.Wait(ctx, n)
	}
	r.note(n, waited, err != nil)
	if err == nil {
		return nil
	}
	e := errorf(CodeBacklog, "publish", name, "not sent, its turn would come too late: %w", ErrRejected)
	if errors.Is(err, context.Canceled) {
		e = errorf(CodeCancelled, "publish", name, "not sent: %w", context.Canceled)
	}
	e.ID = id
	return e
}

// note counts n events, and raises backpressure if somebody had to wait.
func (r *rate) note(n int, waited time.Duration, rejected bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rejected {
		r.gauge.s.Rejected += uint64(n)
	} else {
		r.gauge.s.Enqueued += uint64(n)
		r.gauge.s.Dequeued += uint64(n)
	}
	if waited == 0 && !rejected || r.closed {
		return
	}
	r.gauge.s.Max = max(r.gauge.s.Max, r.limiter.Waiting()+1)
	r.last = time.Now()
	if r.calm == nil {
		r.gauge.raise()
		r.calm = time.AfterFunc(calmAfter, r.settle)
	}
}

// settle clears backpressure when nobody has had to wait for a while.
func (r *rate) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.calm == nil {
		return
	}
	if left := calmAfter - time.Since(r.last); left > 0 || r.limiter.Waiting() > 0 {
		r.calm.Reset(max(left, calmAfter/10))
		return
	}
	r.calm = nil
	r.gauge.clear()
}

func (r *rate) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.calm != nil {
		r.calm.Stop()
		r.calm = nil
		r.gauge.clear()
	}
}

// stamp marks events that are about to be stored, so that who handles them can tell
// how long ago that was. Delayed ones say nothing.
func (r *rate) stamp(ms ...*transport.Message) {
	now := time.Now()
	for _, m := range ms {
		if !m.DeliverAt.IsZero() {
			continue
		}
		m.SentAt = now
		if m.Header == nil {
			m.Header = Header{}
		}
		m.Header.Set(headerPaced, r.mark)
	}
}

// store stores events whose turn has come.
func (r *rate) store(ctx context.Context, tr transport.Transport, ms ...*transport.Message) error {
	r.stamp(ms...)
	began := time.Now()
	err := tr.Publish(ctx, ms...)
	switch {
	case err == nil:
		r.limiter.Observe(time.Since(began))
	case errors.Is(err, transport.ErrBacklog):
		r.limiter.Refuse()
	}
	return err
}

// handled takes note of an event of a durable group that is about to be handled.
func (r *rate) handled(d transport.Delivery, m *transport.Message) {
	if m.To.Group == "" && m.Header.Get(headerPaced) == r.mark && d.Deliveries() == 1 {
		r.limiter.Observe(max(0, time.Since(m.SentAt)))
	}
}
