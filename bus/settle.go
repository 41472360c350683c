package bus

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"
)

const (
	// longWait is from when on a retry waits in the broker as a copy of its own,
	// where it holds no pending slot of the group.
	longWait = 30 * time.Second
	// maxHeldPrivate bounds the retries that a private listener waits for.
	maxHeldPrivate = 1000
	// settleTimeout bounds each settlement.
	settleTimeout = 5 * time.Second
	// refusedWait is the delay of a delivery that nothing could be done about:
	// its dead letter was refused, or its listener is not here.
	refusedWait = 5 * time.Second
	// returnedWait is after how long a private delivery is tried again that was not
	// run, and cannot be handed back.
	returnedWait = 100 * time.Millisecond
	// maxSearch is how often a copy is passed on that is addressed to a listener
	// which the process that got it does not have, before it is a dead letter.
	maxSearch = 10
)

// settle acts on the verdicts of a dispatch.
func (f *flight) settle() {
	f.score()
	ctx := f.settling()
	defer ctx.end()
	for _, run := range f.runs {
		switch run.verdict.fate {
		case fateDone:
			f.succeeded = true
		case fateDead:
			f.settleDead(run)
		case fateLost:
			f.lose()
		}
	}
	f.spareStopped()
	var again []*run // in the order of dispatch
	var retry, back, wait int
	var delay time.Duration
	for _, run := range f.runs {
		switch run.verdict.fate {
		case fateRetry:
			retry, delay = retry+1, max(delay, run.verdict.delay)
		case fateReturn:
			back++
		case fateWait:
			wait++
		default:
			continue
		}
		again = append(again, run)
	}
	lost := f.isLost()
	copied := f.r.key.group != "" && (delay > longWait || firstFailure(again))
	f.observeSettle(lost, delay, copied)
	// whole: every listener is still to handle it as often as the broker says, so
	// it may come again as it is. Those that were spared are asked once more where
	// nothing ran.
	whole := !f.succeeded && !f.buried && !f.held && (retry == 0 || !f.spared && wait == 0)
	switch {
	case lost:
		f.logLost()
		f.drop()
	case len(again) == 0:
		f.finishWith(ctx, f.succeeded || !f.buried)
	case f.r.key.group == "":
		f.holdPrivate(again, delay)
	case whole && retry == 0:
		f.done("release", f.d.Release(ctx))
	case whole && back == 0 && !copied && !alone(again):
		f.done("nak", f.d.Nak(ctx, delay))
	case back > 0 || copied:
		f.forward(ctx, again, time.Now())
	default:
		f.hold(again, delay)
	}
}

// settleDead stores the dead letter of a run. If that is refused the event waits
// and the listener gets it again.
func (f *flight) settleDead(run *run) {
	switch {
	case f.isLost():
		run.verdict.fate = fateLost
	default:
		if err := f.bury(run.l.name, CodeOf(run.err), run.err, run.attempt); err != nil {
			f.logUnburied(unburied, run.l.name, run.attempt, run.err, err)
			run.verdict = verdict{fate: fateRetry, delay: refusedWait}
			return
		}
		f.buried = true
		f.timeDwell(run, time.Now())
	}
}

// settling returns a context for a settlement: it outlives the handler's, so that
// what was cancelled can still be handed back.
func (f *flight) settling() *lazyContext {
	return &lazyContext{parent: context.Background(), timeout: settleTimeout}
}

// finishWith settles a delivery that nobody has to handle again.
func (f *flight) finishWith(ctx context.Context, acked bool) {
	if acked {
		f.done("ack", f.d.Ack(ctx))
	} else {
		f.done("term", f.d.Term(ctx, "dead letter"))
	}
}

// done ends the flight after a settlement.
func (f *flight) done(what string, err error) {
	f.drop()
	if err != nil {
		// It comes again when AckWait ends, and the handler is idempotent.
		f.logUnsettled("delivery not settled", what, err)
	}
}

func (f *flight) drop() {
	f.report(neutral)
	f.r.keep.remove(f)
}

// nobody settles a delivery for which this process has no listener: the last one
// has just been closed, or the copy is for one that another process has, as while
// a new version is rolled out.
func (f *flight) nobody() {
	ctx := f.settling()
	defer ctx.end()
	if f.target == "" || f.search < maxSearch {
		f.observe(StageReturned, f.target, f.failed, nil)
	}
	switch {
	case f.target == "":
		f.done("release", f.d.Release(ctx))
	case f.search < maxSearch:
		f.passOn(ctx)
	default:
		f.refuse(CodeNoHandler, fmt.Errorf("no process of group %q that got it has a handler %q", f.r.key.group, f.target))
	}
}

// passOn sends a copy that is due a little later, so that another process may get
// it; at random, so that two copies and two processes do not miss each other again
// and again. A nak would count as an attempt.
func (f *flight) passOn(ctx context.Context) {
	c := f.copyFor(f.target, f.failed, f.since(), f.m.Header.Get(headerThen))
	c.ID = digest("search", c.ID, strconv.Itoa(int(f.search)))
	c.Header.Set(headerSearch, strconv.Itoa(int(f.search)+1))
	c.DeliverAt = time.Now().Add(refusedWait/2 + rand.N(refusedWait))
	if err := f.r.b.tr.Publish(ctx, c); err != nil {
		f.r.b.logFailure(failureLine{level: slog.LevelWarn, text: "event not passed on to another process",
			attrs: f.attrs(f.target, f.failed), err: err})
		f.settleAfter("nak", func(ctx context.Context) error { return f.d.Nak(ctx, refusedWait) })
		return
	}
	f.settleAfter("ack", f.d.Ack)
}

// refuse makes a dead letter of a message that no listener can run: one for each
// that a copy is addressed to.
func (f *flight) refuse(code Code, cause error) {
	ctx := f.settling()
	defer ctx.end()
	f.r.tally(f.target).refuse(cause)
	for _, name := range append([]string{f.target}, f.then().names()...) {
		attempts := max(f.d.Deliveries()-1, 0)
		if err := f.bury(name, code, cause, attempts); err != nil {
			f.logUnburied(unburied, name, attempts, cause, err)
			f.done("nak", f.d.Nak(ctx, refusedWait))
			return
		}
	}
	f.done("term", f.d.Term(ctx, "dead letter: "+string(code)))
}
