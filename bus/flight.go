package bus

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
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
	target    string    // only this listener, and those that wait for it
	began     time.Time // when it was taken
	runs      []*run    // to do now
	succeeded bool      // some listener is done with it: it must not run whole again
	buried    bool      // some listener's failure is a dead letter
	spared    bool      // some listener's filters stopped it: it is done with it
	held      bool      // it has waited in this process: the broker does not know its attempts
	missed    int32     // as in Meta
	// late says that time has passed since it was taken: it waited for its retry,
	// or for the listeners of a higher priority.
	late   bool
	begun  bool  // some listener has run it; guarded by mu
	search uint8 // how often it was passed on because target was not there, up to maxSearch
	timer  *time.Timer
	trial  *trial // of a suspect, while it runs
	due    time.Time

	// One listener that succeeds is the rule: it needs no allocations beside the
	// flight.
	only  run
	slots [1]*run
	first call
	alone [1]busyCall

	used atomic.Bool            // first has been used
	lost atomic.Bool            // its lease ended: nothing may be said about it any more; set with mu held
	pass atomic.Pointer[permit] // of the reader's circuit; nil without one, or once it knows the outcome

	mu   sync.Mutex
	busy []busyCall // of the listeners that run it

	prev, next *flight       // in keeper
	extended   time.Duration // since began
}

// busyCall is a call that runs.
type busyCall struct {
	*call
	start time.Duration // since the flight began
}

// run is what one listener has to do with a flight.
type run struct {
	l       *listener
	attempt int
	err     error
	verdict verdict
	stops   bool  // it failed last with StopPropagation
	untold  bool  // the broker does not know of first yet
	first   since // when it first failed, if its retries have a limit of time
}

// newFlight begins to keep a delivery that was taken.
func (r *reader) newFlight(d transport.Delivery) *flight {
	var pass *permit
	if r.valve != nil {
		d, pass = r.valve.admit(d)
	}
	f := &flight{r: r, d: d, m: d.Message(), began: time.Now()}
	if pass != nil {
		f.pass.Store(pass)
	}
	if r.s.session != nil {
		r.taken.Add(1)
	} else if !r.took.Load() {
		r.took.Store(true)
	}
	if r.key.group == "" {
		f.missed = int32(min(missedBefore(d), math.MaxInt32))
	}
	if f.id = f.m.ID; f.id == "" {
		f.id = f.nameless()
	}
	if f.m.To.Group != "" {
		f.readHeader()
	}
	r.keep.add(f)
	return f
}

// handle takes a delivery through the group.
func (r *reader) handle(d transport.Delivery) {
	f := r.newFlight(d)
	settled := false
	defer func() {
		if !settled { // a listener ended this goroutine
			f.settle()
		}
	}()
	if !f.surplus() {
		f.plan()
		if len(f.runs) == 0 {
			f.nobody()
		} else {
			f.take()
		}
	}
	settled = true
}

// take takes the event through the listeners whose filters let it pass.
func (f *flight) take() {
	if f.isSuspect() {
		defer f.absolve()
		if !f.isolate() {
			f.settle() // unrun
			return
		}
		if err := f.accuse(); err != nil {
			f.refuse(CodeFailed, err)
			return
		}
	}
	if f.siftEarly(); len(f.runs) > 0 {
		if code, err := f.open(); err != nil {
			f.refuse(code, err)
			return
		}
		f.siftLate()
		f.dispatch()
	}
	f.settle()
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
	f.search = uint8(min(count(h.Get(headerSearch)), maxSearch))
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
	tiers := *f.r.tiers.Load()
	if f.target != "" {
		f.planCopy(slices.Concat(tiers...))
		return
	}
	attempt := f.failed + f.d.Deliveries()
	if len(tiers) == 1 && len(tiers[0]) == 1 {
		f.only = run{l: tiers[0][0], attempt: attempt}
		f.slots[0] = &f.only
		f.runs = f.slots[:]
		return
	}
	for _, tier := range tiers {
		for _, l := range tier {
			f.runs = append(f.runs, &run{l: l, attempt: attempt})
		}
	}
}

// open decodes the event. An error is a message that no run can mend.
func (f *flight) open() (Code, error) {
	r := f.r
	if f.m.Malformed != nil {
		return CodeInvalid, fmt.Errorf("malformed message: %w", f.m.Malformed)
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
