package bus

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// flight is one delivery on its way through the listeners of its group, from
// when it was taken to when it is settled.
type flight struct {
	r  *reader
	d  transport.Delivery
	m  *transport.Message
	id string // the event's, also on a copy with an id of its own

	value     any
	failed    int       // failed runs before this delivery: those of the copy it came from
	target    string    // only this listener
	search    int       // how often it was passed on because target was not there
	began     time.Time // of this dispatch; guarded by mu once shared
	runs      []*run    // to do now
	succeeded bool      // some listener is done with it: it must not run whole again
	buried    bool      // some listener's failure is a dead letter
	timer     *time.Timer
	due       time.Time

	// One listener that succeeds is the rule: it needs no allocations beside the
	// flight. fresh says that first has not been used.
	only  run
	slots [1]*run
	first call
	fresh bool
	alone [1]*call

	mu   sync.Mutex
	busy []*call // of the listeners that run it
	lost bool    // its lease ended: nothing may be said about it any more

	prev, next *flight // in keeper
	extended   time.Time
}

// run is what one listener has to do with a flight.
type run struct {
	l       *listener
	attempt int
	err     error
	verdict verdict
}

// handle takes a delivery through the group.
func (r *reader) handle(d transport.Delivery) {
	f := &flight{r: r, d: d, m: d.Message(), began: time.Now(), fresh: true}
	if f.id = f.m.ID; f.id == "" {
		f.id = f.nameless()
	}
	if f.m.To.Group != "" {
		f.readHeader()
	}
	r.keep.add(f)
	settled := false
	defer func() {
		if !settled { // a listener ended this goroutine
			f.settle()
		}
	}()
	f.plan()
	if len(f.runs) == 0 {
		f.nobody()
	} else if code, err := f.open(); err != nil {
		f.refuse(code, err)
	} else {
		f.dispatch()
		f.settle()
	}
	settled = true
}

// nameless is the id of an event that its publisher gave none, such as one sent by
// hand: its place in the log, so that it is the same at each delivery.
func (f *flight) nameless() string {
	if seq := f.d.Sequence(); seq > 0 {
		return "seq-" + strconv.FormatUint(seq, 10)
	}
	return f.r.b.ids.next()
}

// readHeader reads what the bus wrote on a copy meant for one group. On an event
// for everybody these headers are somebody else's and mean nothing.
func (f *flight) readHeader() {
	h := f.m.Header
	f.target = h.Get(headerHandler)
	f.failed = count(h.Get(headerAttempt))
	f.search = count(h.Get(headerSearch))
	if origin := h.Get(headerOrigin); origin != "" {
		f.id = origin
	}
}

// sequence is the event's place in the log, also for a copy of it, which has
// another; 0 if that is not known.
func (f *flight) sequence() uint64 {
	if f.m.To.Group == "" {
		return f.d.Sequence()
	}
	seq, err := strconv.ParseUint(f.m.Header.Get(headerSequence), 10, 64)
	if err != nil {
		return 0
	}
	return seq
}

// count reads a number that the bus wrote; what somebody else wrote is 0.
func count(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return min(max(n, 0), math.MaxInt32)
}

// plan finds out which listeners of this process are to handle the event.
func (f *flight) plan() {
	attempt := f.failed + f.d.Deliveries()
	tiers := *f.r.tiers.Load()
	if len(tiers) == 1 && len(tiers[0]) == 1 && f.target == "" {
		f.only = run{l: tiers[0][0], attempt: attempt}
		f.slots[0] = &f.only
		f.runs = f.slots[:]
		return
	}
	for _, tier := range tiers {
		for _, l := range tier {
			if f.target == "" || f.target == l.name {
				f.runs = append(f.runs, &run{l: l, attempt: attempt})
			}
		}
	}
}

// open decodes the event. An error is a message that no run can mend.
func (f *flight) open() (Code, error) {
	r := f.r
	if f.m.Malformed != nil {
		return CodeInvalid, fmt.Errorf("malformed message: %w", f.m.Malformed)
	}
	limit := 0
	for _, run := range f.runs {
		limit = max(limit, run.l.retry.Attempts())
	}
	if f.d.Deliveries()-crashSlack > limit {
		return CodeFailed, fmt.Errorf("delivered %d times without being settled: its handler may be ending the process", f.d.Deliveries())
	}
	f.value = f.m.Value
	if f.value == nil {
		v, err := r.b.decodeNew(r.info, f.m.ContentType, f.m.Body)
		if err != nil {
			return CodeInvalid, sane(err)
		}
		f.value = v
	}
	if err := r.info.validate("", f.value); err != nil {
		return CodeInvalid, err
	}
	return "", nil
}

// crashSlack is how many deliveries beyond the attempts are taken for crashes of
// a process, before the message itself is suspected.
const crashSlack = 2

// dispatch runs what is to be run: by priority, equal ones side by side.
func (f *flight) dispatch() {
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
		i = j
	}
}

// exec runs one listener once and judges the outcome.
func (f *flight) exec(run *run) {
	r := f.r
	waited := false
	select {
	case run.l.slots <- struct{}{}:
	default:
		waited = true
		select {
		case run.l.slots <- struct{}{}:
		case <-r.s.work.Done():
			run.verdict = verdict{fate: fateReturn}
			return
		}
	}
	defer func() { <-run.l.slots }()
	k := f.call(run)
	if !f.begin(k, waited) {
		run.verdict = verdict{fate: fateLost}
		return
	}
	run.err = errGoexit
	defer func() { // also when the listener ends this goroutine
		f.finish(k)
		run.verdict = judge(run.err, run.attempt, run.l.retry, k.aborted(), context.Cause(r.s.work) != nil)
		if run.err != nil && run.verdict.fate != fateReturn {
			r.b.logFailure(k, run.err)
		}
	}()
	run.err = sane(run.l.handle(k, f.value))
}

func (f *flight) call(run *run) *call {
	k := &f.first
	if !f.takeFirst() {
		k = new(call)
	}
	f.fill(k, run)
	return k
}

// takeFirst reports whether the flight's own call is still to be had.
func (f *flight) takeFirst() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := f.fresh
	f.fresh = false
	return fresh
}

func (f *flight) fill(k *call, run *run) {
	*k = call{
		lazyContext: lazyContext{parent: f.r.s.work},
		who:         run.l.who, from: f.m, msgID: f.id, attempt: run.attempt,
	}
}

// begin enters a call that the keeper may abort. It reports false if the
// delivery is no longer ours, which can only be when it waited for its turn.
func (f *flight) begin(k *call, waited bool) bool {
	expired := false
	if waited {
		lease := f.d.Lease()
		expired = !lease.IsZero() && time.Now().After(lease)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost || expired {
		f.lost = true
		return false
	}
	if f.busy == nil {
		f.busy = f.alone[:0]
	}
	f.busy = append(f.busy, k)
	return true
}

func (f *flight) finish(k *call) {
	f.mu.Lock()
	f.busy = slices.DeleteFunc(f.busy, func(o *call) bool { return o == k })
	f.mu.Unlock()
	k.end()
}

// abort cancels the listeners that run.
func (f *flight) abort(cause error) {
	f.mu.Lock()
	busy := append([]*call(nil), f.busy...)
	f.mu.Unlock()
	for _, k := range busy {
		k.abort(cause)
	}
}

// lose is called when the lease has ended.
func (f *flight) lose() {
	f.mu.Lock()
	f.lost = true
	f.mu.Unlock()
	f.abort(ErrLeaseLost)
}

func (f *flight) isLost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

// overran reports whether what runs has run for longer than limit.
func (f *flight) overran(now time.Time, limit time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.busy) > 0 && now.Sub(f.began) > limit
}
