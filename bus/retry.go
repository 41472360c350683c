package bus

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// forward sends copies for the listeners that are still to handle the event, and
// then settles the original.
func (f *flight) forward(ctx context.Context, runs []*run, now time.Time) {
	if err := f.r.b.tr.Publish(ctx, f.copies(runs, now)...); err != nil {
		f.logUnsettled("retry copy not stored; the event itself waits for its retry", "copy", err)
		f.unforwarded(runs)
		return
	}
	f.settleAfter("ack", f.d.Ack)
}

// unforwarded settles a delivery whose copies could not be stored: it waits as
// long as they would have, so that a handler whose copies are always refused does
// not spin. Only a reader that closes hands it back now, whole.
func (f *flight) unforwarded(runs []*run) {
	f.runs = runs
	wait := max(f.delay(), refusedWait)
	switch {
	case f.r.isStopping():
		f.settleAfter("release", f.d.Release)
	case f.succeeded || f.buried || f.spared || f.held || waiting(runs):
		f.hold(runs, wait)
	default:
		f.settleAfter("nak", func(ctx context.Context) error { return f.d.Nak(ctx, wait) })
	}
}

// settleAfter settles a delivery after an operation that may have used up the
// context of its settlement.
func (f *flight) settleAfter(what string, settle func(context.Context) error) {
	ctx := f.settling()
	defer ctx.end()
	f.done(what, settle(ctx))
}

// holdPrivate keeps a private delivery for what is still to be done with it by
// listeners that are there. What was not run for another reason is tried again in a
// moment, unless the reader closes.
func (f *flight) holdPrivate(runs []*run, delay time.Duration) {
	runs = slices.DeleteFunc(runs, f.hasEnded)
	if len(runs) == 0 {
		f.settleAfter("term", func(ctx context.Context) error { return f.d.Term(ctx, "listener closed") })
		return
	}
	if slices.ContainsFunc(runs, func(r *run) bool { return r.verdict.fate == fateReturn }) {
		delay = max(delay, returnedWait)
	}
	f.hold(runs, delay)
}

// hold keeps the delivery in this process until its retry is due: some listeners
// have handled it or wait for one that failed, or it is private. The keeper keeps
// it alive; no worker waits.
func (f *flight) hold(runs []*run, delay time.Duration) {
	r := f.r
	f.runs = runs
	f.held = true
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
			cause := run.err
			if cause == nil { // it was about to run
				cause = errors.New("too many events wait for the private listener")
			}
			if err := f.bury(run.l.name, CodeBacklog, cause, run.attempt); err != nil {
				f.logUnburied("event lost: the private listener has too many retries waiting and its dead letter is refused",
					run.l.name, run.attempt, cause, err)
			}
		}
		f.settleAfter("term", func(ctx context.Context) error { return f.d.Term(ctx, "dead letter") })
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
	if !f.readmit() {
		f.handOver()
		return
	}
	f.late = true
	for _, run := range f.runs {
		if run.verdict.fate == fateRetry {
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
	for _, run := range f.runs {
		if run.verdict.fate != fateReturn { // those were told of
			f.observeRun(StageReturned, run, 0)
		}
	}
	if f.r.key.group == "" { // a private listener's retries end with it
		f.r.b.log.LogAttrs(ctx, slog.LevelWarn, "private listener closed with a retry waiting", f.allAttrs()...)
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
