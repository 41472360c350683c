package bus

import (
	"errors"
	"sync"
	"time"
)

// handleBatch takes a batch through its listener.
func (r *reader) handleBatch(b *gathering) {
	var refusing sync.WaitGroup
	defer refusing.Wait()
	if len(b.refused) > 0 {
		refusing.Go(func() {
			for _, x := range b.refused {
				x.f.refuse(x.code, x.err)
			}
		})
	}
	flights := tried(b.flights)
	if len(flights) == 0 { // all are refused
		return
	}
	defer absolveAll(flights)
	defer settleAll(flights) // also when the listener ends this goroutine
	r.runBatch(flights)
}

// runBatch runs a batch handler once and judges the outcome for each event.
func (r *reader) runBatch(flights []*flight) {
	l := flights[0].runs[0].l
	_, entered := flights[0].enter(l)
	if entered && r.s.expired("", "") != nil {
		l.leave()
		entered = false
	}
	if !entered {
		for _, f := range flights {
			f.runs[0].verdict = verdict{fate: fateReturn}
		}
		return
	}
	defer l.leave()
	k := newBatchCall(l, flights)
	for _, f := range flights {
		if f.begin(&k.call, true) {
			if !f.held && f.d.Deliveries() > 1 {
				l.tally.redeliver()
			}
			k.flights = append(k.flights, f)
		} else {
			f.runs[0].verdict = verdict{fate: fateLost}
		}
	}
	if len(k.flights) == 0 {
		return
	}
	k.events = int32(len(k.flights))
	began := time.Now()
	err := error(errGoexit)
	defer func() { k.judge(err, began) }()
	err = sane(k.run())
}

// judge gives each event its verdict, when the handler has run.
func (k *batchCall) judge(err error, began time.Time) {
	ended := time.Now()
	k.r.b.timed(k.l.tally, timingRun, ended.Sub(began))
	k.sift()
	results, whole := itemResults(err, len(k.flights))
	aborted := k.aborted()
	var retry verdict // the latest of those that are to be run again
	for i, f := range k.flights {
		f.finish(&k.call)
		k.conclude(f, results[i], aborted, began, ended, !whole)
		if whole && len(k.flights) > 1 {
			f.runs[0].spare()
		}
		if v := f.runs[0].verdict; v.fate == fateRetry && (retry.fate != fateRetry || v.delay > retry.delay) {
			retry = v
		}
	}
	for _, x := range k.refused {
		x.f.finish(&k.call)
		k.conclude(x.f, x.err, aborted, began, ended, true)
	}
	if whole && retry.fate == fateRetry {
		k.r.b.logRetry(&k.call, err, retry)
	}
	k.score()
}

// conclude gives one event its verdict.
func (k *batchCall) conclude(f *flight, err, aborted error, began, ended time.Time, log bool) {
	b, run := f.r.b, f.runs[0]
	run.err = err
	stopping := f.r.s.work.Err() != nil
	switch {
	case f.isLost():
		run.judge(ErrLeaseLost, stopping)
	case err != nil && errors.Is(aborted, ErrLeaseLost):
		run.verdict = verdict{fate: fateReturn} // cut short because of another event
	default:
		run.judge(nil, stopping)
	}
	if run.verdict.fate == fateReturn {
		return
	}
	run.l.tally.ran(err)
	f.timeLag(run)
	if run.verdict.fate == fateDone {
		f.timeDwell(run, ended)
	}
	if b.observed() {
		b.observeHandled(itemCall(f), f.value, ended.Sub(began), err)
	}
	if log && run.verdict.fate == fateRetry {
		b.logRetry(itemCall(f), err, run.verdict)
	}
}

// spare lets an event whose batch has failed as a whole run again, at once and
// alone, where the policy calls that final before its attempts are over: no event
// becomes a dead letter because of another one. What the handler itself calls
// permanent it says of them all.
func (run *run) spare() {
	if run.verdict.fate == fateDead && !IsPermanent(run.err) && run.attempt < run.l.retry.Attempts() {
		run.verdict = verdict{fate: fateRetry, alone: true}
	}
}
