package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// fate is what is to become of one listener's run.
type fate uint8

const (
	fateReturn fate = iota // not run, or cut short by Close: hand it back
	fateDone               // handled
	fateRetry              // run again after a delay
	fateDead               // a dead letter
	fateLost               // another process may have it: say nothing
)

// verdict is a fate with its delay.
type verdict struct {
	fate  fate
	delay time.Duration
}

// judge decides from a listener's outcome. It is pure: attempt counts from 1,
// aborted is the cause with which the run was cancelled, and stopping says that
// Close has stopped waiting.
func judge(err error, attempt int, retry resilience.Retry, aborted error, stopping bool) verdict {
	if err == nil {
		// Done is done, even if it came late: settling fails if it came too late.
		return verdict{fate: fateDone}
	}
	var permanent *permanentError
	var after *retryAfterError
	switch {
	case errors.Is(aborted, ErrLeaseLost):
		return verdict{fate: fateLost}
	case stopping:
		return verdict{fate: fateReturn}
	case errors.As(err, &permanent), attempt >= retry.Attempts():
		return verdict{fate: fateDead}
	case errors.As(err, &after):
		return verdict{fate: fateRetry, delay: after.after}
	default:
		return verdict{fate: fateRetry, delay: retry.Delay(attempt)}
	}
}

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
	// maxSearch is how often a copy is passed on that is addressed to a listener
	// which the process that got it does not have, before it is a dead letter.
	maxSearch = 10
)

// settle acts on the verdicts of a dispatch.
func (f *flight) settle() {
	ctx := f.settling()
	defer ctx.end()
	var retry, back []*run
	var delay time.Duration
	for _, run := range f.runs {
		switch run.verdict.fate {
		case fateDone:
			f.succeeded = true
		case fateDead:
			if f.isLost() {
				continue
			}
			if err := f.bury(run.l.name, CodeOf(run.err), run.err, run.attempt); err != nil {
				run.verdict = verdict{fate: fateRetry, delay: refusedWait}
				retry, delay = append(retry, run), max(delay, refusedWait)
			} else {
				f.buried = true
			}
		case fateRetry:
			retry, delay = append(retry, run), max(delay, run.verdict.delay)
		case fateReturn:
			back = append(back, run)
		case fateLost:
			f.lose()
		}
	}
	whole := !f.succeeded && !f.buried // every listener is still to handle it
	switch {
	case f.isLost():
		f.r.b.log.Warn("lease on a delivery lost; another process handles the event",
			"name", f.r.key.name, "id", f.id, "group", f.r.key.group)
		f.drop()
	case len(retry) == 0 && len(back) == 0:
		f.finishWith(ctx, f.succeeded)
	case f.r.key.group == "":
		f.hold(append(retry, back...), delay)
	case whole && len(retry) == 0:
		f.done("release", f.d.Release(ctx))
	case whole && len(back) == 0 && delay <= longWait:
		f.done("nak", f.d.Nak(ctx, delay))
	case len(back) > 0 || delay > longWait:
		f.forward(ctx, append(retry, back...), time.Now())
	default:
		f.hold(retry, delay)
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
		f.r.b.log.Warn("delivery not settled", "settle", what,
			"name", f.r.key.name, "id", f.id, "group", f.r.key.group, "err", err)
	}
}

func (f *flight) drop() { f.r.keep.remove(f) }

// nobody settles a delivery for which this process has no listener: the last one
// has just been closed, or the copy is for one that another process has, as while
// a new version is rolled out.
func (f *flight) nobody() {
	ctx := f.settling()
	defer ctx.end()
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
// it. A nak would count as an attempt.
func (f *flight) passOn(ctx context.Context) {
	c := f.copyFor(f.target, f.failed)
	c.ID = digest("search", c.ID, strconv.Itoa(f.search))
	c.Header.Set(headerSearch, strconv.Itoa(f.search+1))
	c.DeliverAt = time.Now().Add(refusedWait)
	if err := f.r.b.tr.Publish(ctx, c); err != nil {
		f.r.b.log.Warn("event not passed on to another process", "name", f.r.key.name, "id", f.id,
			"group", f.r.key.group, "handler", f.target, "err", err)
		f.done("nak", f.d.Nak(ctx, refusedWait))
		return
	}
	f.done("ack", f.d.Ack(ctx))
}

// copyFor returns a copy of the event for one listener of this group, which has
// failed it so many times.
func (f *flight) copyFor(listener string, failed int) *transport.Message {
	c := *f.m
	c.To.Group = f.r.key.group
	seq := strconv.FormatUint(f.sequence(), 10)
	c.ID = digest("retry", f.m.Session, f.id, seq, f.r.key.group, f.r.key.name, listener, strconv.Itoa(failed))
	c.Fresh = false
	c.DeliverAt = time.Time{}
	if c.Header = f.m.Header.Clone(); c.Header == nil {
		c.Header = Header{}
	}
	c.Header.Set(headerOrigin, f.id)
	c.Header.Set(headerSequence, seq)
	c.Header.Set(headerHandler, listener)
	c.Header.Set(headerAttempt, strconv.Itoa(failed))
	delete(c.Header, headerSearch)
	return &c
}

// refuse makes a dead letter of a message that no listener can run.
func (f *flight) refuse(code Code, cause error) {
	ctx := f.settling()
	defer ctx.end()
	f.r.b.log.Error("event cannot be handled", "name", f.r.key.name, "id", f.id,
		"group", f.r.key.group, "session", f.m.Session, "code", code, "err", cause)
	if err := f.bury(f.target, code, cause, max(f.d.Deliveries()-1, 0)); err != nil {
		f.done("nak", f.d.Nak(ctx, refusedWait))
		return
	}
	f.done("term", f.d.Term(ctx, "dead letter: "+string(code)))
}

// forward sends a copy for each listener that is still to handle the event, and
// then settles the original. A copy waits in the broker and is addressed to one
// listener of this group.
func (f *flight) forward(ctx context.Context, runs []*run, now time.Time) {
	copies := make([]*transport.Message, 0, len(runs))
	for _, run := range runs {
		failed := run.attempt
		if run.verdict.fate == fateReturn {
			failed-- // it did not run, or not to its end
		}
		c := f.copyFor(run.l.name, failed)
		if run.verdict.delay > 0 {
			c.DeliverAt = now.Add(run.verdict.delay)
		}
		copies = append(copies, c)
	}
	if err := f.r.b.tr.Publish(ctx, copies...); err != nil {
		f.r.b.log.Warn("retry copy not stored; the event itself waits for its retry",
			"name", f.r.key.name, "id", f.id, "group", f.r.key.group, "err", err)
		f.unforwarded(runs)
		return
	}
	f.done("ack", f.d.Ack(ctx))
}

// unforwarded settles a delivery whose copies could not be stored: it waits as
// long as they would have, so that a handler whose copies are always refused does
// not spin. Only a reader that closes hands it back now, whole.
func (f *flight) unforwarded(runs []*run) {
	ctx := f.settling() // the caller's may have been used up
	defer ctx.end()
	f.r.mu.Lock()
	closing := f.r.closing
	f.r.mu.Unlock()
	f.runs = runs
	switch {
	case closing:
		f.done("release", f.d.Release(ctx))
	case f.succeeded || f.buried:
		f.hold(runs, f.delay())
	default:
		f.done("nak", f.d.Nak(ctx, f.delay()))
	}
}

// hold keeps the delivery in this process until its retry is due: some listeners
// have handled it, or it is private. The keeper keeps it alive; no worker waits.
func (f *flight) hold(runs []*run, delay time.Duration) {
	r := f.r
	f.runs = runs
	f.due = time.Now().Add(delay)
	r.mu.Lock()
	closing := r.closing
	full := r.key.group == "" && len(r.held) >= maxHeldPrivate
	if !closing && !full {
		r.held[f] = struct{}{}
		r.resumed.Add(1)
		f.timer = time.AfterFunc(delay, func() {
			defer r.resumed.Done()
			f.resume()
		})
	}
	r.mu.Unlock()
	switch {
	case closing:
		f.handOver()
	case full:
		for _, run := range runs {
			if err := f.bury(run.l.name, CodeBacklog, run.err, run.attempt); err != nil {
				r.b.log.Error("event lost: the private listener has too many retries waiting and its dead letter is refused",
					"name", r.key.name, "id", f.id, "err", err)
			}
		}
		f.done("term", f.d.Term(context.Background(), "dead letter"))
	}
}

// resume runs what a held delivery waited for.
func (f *flight) resume() {
	r := f.r
	r.mu.Lock()
	_, held := r.held[f]
	delete(r.held, f)
	r.mu.Unlock()
	if !held {
		return
	}
	f.mu.Lock()
	f.began = time.Now()
	f.mu.Unlock()
	for _, run := range f.runs {
		if run.verdict.fate != fateReturn {
			run.attempt++
		}
		run.verdict = verdict{}
	}
	settled := false
	defer func() {
		if !settled {
			f.settle()
		}
	}()
	f.dispatch()
	f.settle()
	settled = true
}

// releaseHeld passes on every delivery that waits for a retry, because the
// reader closes.
func (r *reader) releaseHeld(ctx context.Context) {
	r.mu.Lock()
	var waiting []*flight
	for f := range r.held {
		if f.timer.Stop() {
			delete(r.held, f)
			r.resumed.Done()
			waiting = append(waiting, f)
		}
	}
	r.mu.Unlock()
	for _, f := range waiting {
		if ctx.Err() != nil {
			f.drop() // it comes again whole, when AckWait ends
			continue
		}
		f.handOver()
	}
}

// handOver gives a delivery that waited for its retry to the group.
func (f *flight) handOver() {
	ctx := f.settling()
	defer ctx.end()
	if f.r.key.group == "" { // a private listener's retries end with it
		f.r.b.log.Warn("private listener closed with a retry waiting", "name", f.r.key.name, "id", f.id)
		f.done("term", f.d.Term(ctx, "listener closed"))
		return
	}
	f.forward(ctx, f.runs, f.due.Add(-f.delay()))
}

// delay is the longest of the runs' delays: due was set by it.
func (f *flight) delay() (d time.Duration) {
	for _, run := range f.runs {
		d = max(d, run.verdict.delay)
	}
	return d
}
