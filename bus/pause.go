package bus

import (
	"context"
	"errors"

	"github.com/jitney-bus/jitney/resilience"
)

// sameBreaker reports whether a subscription may join a reader with that breaker.
func (o *subscribeOptions) sameBreaker(of *resilience.Breaker) bool {
	switch {
	case o.breaker == nil || of == nil:
		return o.breaker == of
	default:
		return o.breaker.WithDefaults() == of.WithDefaults()
	}
}

func breakerText(b *resilience.Breaker) string {
	if b == nil {
		return "which is none"
	}
	return "which " + b.String()
}

// isBarred reports whether the circuit has changed since the delivery was fetched: it
// was open since, or is. What has not begun then goes back.
func (f *flight) isBarred() bool {
	p := f.pass.Load()
	return p != nil && !p.current()
}

// readmit reports whether a delivery that has waited in this process for a retry may
// go on here. While the circuit is not closed it may not.
func (f *flight) readmit() bool {
	if f.r.valve == nil {
		return true
	}
	p := f.r.valve.g.closedPermit()
	f.pass.Store(&p)
	return p.current()
}

// score tells the circuit what the handlers of a delivery have made of it. A batch
// is told of as a whole.
func (f *flight) score() {
	if f.r.valve == nil || f.r.batch != nil {
		return
	}
	o := neutral
	for _, run := range f.runs {
		o = max(o, run.outcome())
	}
	f.report(o)
}

// score tells the circuit what the handler has made of a batch, once.
func (k *batchCall) score() {
	if k.r.valve == nil {
		return
	}
	flights := k.flights
	for _, x := range k.refused {
		flights = append(flights[:len(flights):len(flights)], x.f)
	}
	o := neutral
	for _, f := range flights {
		switch f.runs[0].outcome() {
		case succeeded:
			o = succeeded
		case failed:
			if o == neutral {
				o = failed
			}
		}
	}
	for _, f := range flights {
		if !f.isBarred() {
			f.report(o)
			return // the others' permits are of the same closed state, and hold nothing
		}
	}
}

// report tells the circuit what became of a delivery. Only the first time counts.
func (f *flight) report(o outcome) {
	if f.r.valve == nil {
		return
	}
	p := f.pass.Swap(nil)
	if p == nil {
		return
	}
	p.done(o, f.id)
	if p.probe != 0 {
		f.r.valve.wake()
	}
}

// outcome is what a run says of the handler. A failure that no retry can mend is the
// message's and says nothing, nor does one that was cut short.
func (r *run) outcome() outcome {
	switch r.verdict.fate {
	case fateDone:
		return succeeded
	case fateRetry, fateDead:
		if IsPermanent(r.err) || r.l.retry.IsFinal(r.err) || CodeOf(r.err) == CodeInvalid || errors.Is(r.err, context.Canceled) {
			return neutral
		}
		return failed
	default:
		return neutral
	}
}
