package bus

import (
	"context"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// gathering is the events of one batch that is being made.
type gathering struct {
	flights []*flight // to be handled
	refused []refusal // that no run can mend
	opening *flight   // that is looked at
	bytes   int
	began   time.Time // when the first was fetched
}

type refusal struct {
	f    *flight
	code Code
	err  error
}

func (b *gathering) len() int { return len(b.flights) + len(b.refused) }

// gatherer makes batches of what a source hands out, and is the source of its
// reader's pump. From when it has fetched an event, the reader's keeper keeps it
// alive.
type gatherer struct {
	batching
	r   *reader
	src transport.Source[transport.Delivery]

	turn chan struct{} // one at a time gathers: several would split what comes
	over *flight       // fetched, and not fit for the batch before; for who has the turn
}

func newGatherer(r *reader, src transport.Source[transport.Delivery]) *gatherer {
	return &gatherer{batching: *r.batch, r: r, src: src, turn: make(chan struct{}, 1)}
}

// Next implements transport.Source. A batch that has begun is returned when the
// source ends: its reader hands it back.
func (g *gatherer) Next(ctx context.Context) (*gathering, error) {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	b := &gathering{}
	returned := false
	defer func() {
		if !returned { // a filter, a decoder or Validate has ended this goroutine
			b.giveUp()
		}
	}()
	err := g.gather(ctx, b)
	returned = true
	if b.len() > 0 {
		return b, nil // what err is, if it lasts, the next call finds out
	}
	return nil, err
}

// giveUp hands everything back.
func (b *gathering) giveUp() {
	all := append(b.flights, b.opening)
	for _, r := range b.refused {
		all = append(all, r.f)
	}
	settleAll(all)
}

// Close implements transport.Source.
func (g *gatherer) Close(ctx context.Context) error { return g.src.Close(ctx) }

// gather adds events to b until it is full, its time is over or the source fails.
func (g *gatherer) gather(ctx context.Context, b *gathering) error {
	if f := g.over; f != nil {
		g.over = nil
		if g.add(b, f) {
			return nil
		}
	}
	for b.len() == 0 {
		if full, err := g.next(ctx, b); full || err != nil {
			return err
		}
	}
	ctx, cancel := context.WithDeadline(ctx, b.began.Add(g.linger))
	defer cancel()
	for {
		if full, err := g.next(ctx, b); full || err != nil {
			return err
		}
	}
}

// next adds one event to b, unless it is settled without the listener. It reports
// whether b is full.
func (g *gatherer) next(ctx context.Context, b *gathering) (full bool, err error) {
	d, err := g.src.Next(ctx)
	if err != nil {
		return false, err
	}
	f := g.r.newFlight(d)
	if p := g.r.b.pressure.rate; p != nil && g.r.key.group != "" {
		p.handled(d, f.m)
	}
	b.opening = f
	code, err := f.prepare()
	b.opening = nil
	switch {
	case err != nil:
		b.begin(f)
		b.refused = append(b.refused, refusal{f, code, err})
		return b.len() >= g.size, nil
	case len(f.runs) == 0:
		return false, nil
	}
	return g.add(b, f), nil
}

// prepare decodes the event. It settles one that the listener is not to see, which
// then has no runs.
func (f *flight) prepare() (Code, error) {
	if f.surplus() {
		return "", nil
	}
	f.plan()
	if len(f.runs) == 0 {
		f.nobody()
		return "", nil
	}
	if f.siftEarly(); len(f.runs) > 0 {
		if code, err := f.open(); err != nil {
			return code, err
		}
		f.siftLate()
	}
	if len(f.runs) == 0 {
		f.settle()
	}
	return "", nil
}

// add adds f to b, or keeps it for the next batch if it does not fit. It reports
// whether b is full.
func (g *gatherer) add(b *gathering, f *flight) (full bool) {
	alone, bytes := f.runs[0].isLast(), len(f.m.Body)
	if b.len() > 0 && (alone || b.bytes+bytes > g.bytes) {
		g.over = f
		return true
	}
	b.begin(f)
	b.flights = append(b.flights, f)
	b.bytes += bytes
	return alone || b.len() >= g.size || b.bytes >= g.bytes
}

func (b *gathering) begin(first *flight) {
	if b.len() == 0 {
		b.began = first.began
	}
}

// isLast reports whether a failure of this run would make a dead letter, where
// there are others before it.
func (run *run) isLast() bool {
	retry := &run.l.retry
	last := retry.Attempts()
	return last > 1 && (run.attempt >= last || !retry.Allows(run.first.passed(), 0))
}
