package bus

import (
	"slices"
	"sync"
	"time"
)

// dispatch runs what is to be run: by priority, equal ones side by side, until
// one stops those of lower priority.
func (f *flight) dispatch() {
	if f.r.batch != nil && len(f.runs) > 0 { // held for a retry: it comes alone
		f.r.runBatch([]*flight{f})
		return
	}
	if len(f.runs) == 1 {
		f.exec(f.runs[0])
		return
	}
	for i := 0; i < len(f.runs); {
		j := i + 1
		for j < len(f.runs) && f.runs[j].l.priority == f.runs[i].l.priority {
			j++
		}
		// All on goroutines of their own: one that ends its goroutine then takes
		// nothing else with it.
		var wg sync.WaitGroup
		for _, run := range f.runs[i:j] {
			wg.Go(func() { f.exec(run) })
		}
		wg.Wait()
		f.late = true
		if stopped(f.runs[i:j]) {
			for _, run := range f.runs[j:] {
				run.verdict = verdict{fate: fateWait}
			}
			return
		}
		i = j
	}
}

// exec runs one listener once and judges the outcome.
func (f *flight) exec(run *run) {
	r := f.r
	waited, entered := f.enter(run.l)
	if entered && r.s.expired("", "") != nil {
		run.l.leave()
		entered = false
	}
	if !entered {
		run.verdict = verdict{fate: fateReturn}
		return
	}
	defer run.l.leave()
	if p := r.b.pressure.rate; p != nil && r.key.group != "" && !f.late {
		p.handled(f.d, f.m)
	}
	k := f.call(run)
	if !f.begin(k, waited || f.late) {
		run.verdict = verdict{fate: fateLost}
		return
	}
	if !f.held && f.d.Deliveries() > 1 {
		run.l.tally.redeliver()
	}
	var began time.Time
	if r.b.observed() || run.l.tally.isMetered() {
		f.timeLag(run)
		began = r.b.now()
	}
	run.err = errGoexit
	defer func() { // also when the listener ends this goroutine
		f.finish(k)
		run.judge(k.aborted(), r.s.work.Err() != nil)
		if r.valve != nil && run.outcome() == failed {
			f.report(failed) // before it leaves its slot to a run that may not begin any more
		}
		if run.verdict.fate != fateReturn || !run.stops { // what was cut short decides nothing
			run.stops = stops(run.err)
		}
		if run.verdict.fate == fateReturn {
			return
		}
		run.l.tally.ran(run.err)
		if !began.IsZero() {
			now := time.Now()
			r.b.timed(run.l.tally, timingRun, now.Sub(began))
			if run.verdict.fate == fateDone {
				f.timeDwell(run, now)
			}
			if r.b.observed() {
				r.b.observeHandled(k, f.value, now.Sub(began), run.err)
			}
		}
		if run.verdict.fate == fateRetry {
			r.b.logRetry(k, run.err, run.verdict)
		}
	}()
	run.err = sane(run.l.handle(k, f.value))
}

// enter takes a slot of l, and reports whether it had to wait for one. It takes
// none of a listener that is closed. A reader that closes lets nothing wait for
// its turn and starts nothing new, nor does one whose circuit has opened; what
// another listener has begun goes on.
func (f *flight) enter(l *listener) (waited, entered bool) {
	select {
	case l.slots <- struct{}{}:
	default:
		waited = true
		select {
		case l.slots <- struct{}{}:
		case <-f.r.stopping:
			return waited, false
		case <-l.gone:
			return waited, false
		}
	}
	if l.isGone() || (f.r.isStopping() || f.isBarred()) && !f.hasBegun() {
		l.leave()
		return waited, false
	}
	return waited, true
}

func (f *flight) call(run *run) *call {
	k := &f.first
	if f.used.Swap(true) {
		k = new(call)
	}
	f.fill(k, run)
	return k
}

func (f *flight) fill(k *call, run *run) {
	*k = call{
		lazyContext: lazyContext{parent: f.r.s.work},
		who:         run.l.who, from: f.m, msgID: f.id, attempt: int32(run.attempt), missed: f.missed,
	}
}

// begin enters a call that the keeper may abort. It reports false if the
// delivery is no longer ours, which can only be when the run is late.
func (f *flight) begin(k *call, late bool) bool {
	expired := false
	var start time.Duration // what is not late starts as it is taken
	if late {
		now, lease := time.Now(), f.d.Lease()
		expired = !lease.IsZero() && now.After(lease)
		start = now.Sub(f.began)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isLost() || expired {
		f.lost.Store(true)
		return false
	}
	f.begun = true
	if f.busy == nil {
		f.busy = f.alone[:0]
	}
	f.busy = append(f.busy, busyCall{k, start})
	return true
}

func (f *flight) finish(k *call) {
	f.mu.Lock()
	f.busy = slices.DeleteFunc(f.busy, func(o busyCall) bool { return o.call == k })
	f.mu.Unlock()
	k.end()
}

// lose is called when the lease has ended: it cancels the listeners that run.
func (f *flight) lose() {
	f.mu.Lock()
	f.lost.Store(true)
	busy := append([]busyCall(nil), f.busy...)
	f.mu.Unlock()
	for _, k := range busy {
		k.abort(ErrLeaseLost)
	}
}

func (f *flight) hasBegun() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.begun
}

func (f *flight) isLost() bool { return f.lost.Load() }

// abortOverrun cancels the listeners that have run for longer than limit. It
// reports whether none of those that run is within it: such a delivery may as
// well go to another process.
func (f *flight) abortOverrun(now time.Time, limit time.Duration) bool {
	f.mu.Lock()
	var over []busyCall
	for _, k := range f.busy {
		if now.Sub(f.began)-k.start > limit {
			over = append(over, k)
		}
	}
	all := len(over) > 0 && len(over) == len(f.busy)
	f.mu.Unlock()
	for _, k := range over {
		k.abort(ErrMaxRun)
	}
	return all
}

// tellSlow tells of the listeners that have run for limit; of a batch, by one of its
// events.
func (f *flight) tellSlow(now time.Time, limit time.Duration) {
	f.mu.Lock()
	var slow []busyCall
	for _, k := range f.busy {
		if now.Sub(f.began)-k.start >= limit {
			slow = append(slow, k)
		}
	}
	f.mu.Unlock()
	for _, k := range slow {
		f.r.b.logSlow(k.call, f.attrs(k.who.handler, int(k.attempt)), now.Sub(f.began)-k.start)
	}
}
