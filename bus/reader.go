package bus

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// readerKey tells the readers of a scope apart. group is "" for a private one, and
// alone names the handler that a session's reader is for, if it is a batch handler or
// has a queue.
type readerKey struct{ group, name, alone string }

// reader reads one event for one group and dispatches it to the group's
// listeners in this process. A private listener has a reader of its own.
type reader struct {
	s    *scope
	b    *Bus
	key  readerKey
	info *typeInfo
	// private tells a private reader from every other.
	private string
	// batch is set if its one listener handles batches.
	batch *batching

	ready chan struct{} // closed when start or fail was called
	src   transport.Source[transport.Delivery]
	pump  intake
	keep  *keeper
	// valve is src if it has a circuit breaker, by this policy, else nil.
	valve   *valve
	breaker *resilience.Breaker

	// taken counts the deliveries of a session's reader; took says that a group's has
	// had one.
	taken atomic.Int64
	took  atomic.Bool

	once sync.Once // begins

	stopping chan struct{} // closed when the intake ends
	ended    chan struct{} // closed when, after that, nothing runs any more

	mu        sync.Mutex
	opened    bool
	closing   bool
	listeners []*listener // highest priority first
	leaving   []*listener // closed, and may still run
	held      map[*flight]struct{}
	resumed   sync.WaitGroup // runs that a timer started

	// tiers is listeners by priority, replaced whole.
	tiers atomic.Pointer[[][]*listener]
}

func newReader(s *scope, key readerKey, info *typeInfo, first *listener) *reader {
	r := &reader{
		s: s, b: s.bus, key: key, info: info, private: first.who.private, batch: first.batch,
		ready: make(chan struct{}), held: map[*flight]struct{}{},
		stopping: make(chan struct{}), ended: make(chan struct{}),
		listeners: []*listener{first},
	}
	r.retier()
	return r
}

// start begins to read.
func (r *reader) start(src transport.Source[transport.Delivery], concurrency int) {
	r.src = src
	r.valve, _ = src.(*valve)
	log := r.b.log.With("name", r.key.name, "group", r.key.group)
	r.keep = newKeeper(r)
	if r.batch != nil {
		r.pump = newPump(newGatherer(r, src), concurrency, log, r.handleBatch)
	} else {
		r.pump = newPump(src, concurrency, log, r.handle)
	}
	r.mu.Lock()
	r.opened = true
	r.mu.Unlock()
	r.b.gate.pass(r)
	close(r.ready)
}

// fail marks a reader that could not be opened.
func (r *reader) fail() { close(r.ready) }

// has reports whether a listener of that name is there.
func (r *reader) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.listeners, func(l *listener) bool { return l.name == name })
}

// add makes l a listener. It reports false if the reader cannot take it: not
// open, closing, or the name is taken.
func (r *reader) add(l *listener) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.opened || r.closing || len(r.listeners) == 0 ||
		slices.ContainsFunc(r.listeners, func(o *listener) bool { return o.name == l.name }) {
		return false
	}
	r.listeners = append(r.listeners, l)
	slices.SortStableFunc(r.listeners, func(a, b *listener) int { return cmp.Compare(b.priority, a.priority) })
	r.retier()
	r.pump.raise(cap(l.slots))
	return true
}

// remove takes l out, so that no run of it begins, and reports whether it was the
// last.
func (r *reader) remove(l *listener) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.listeners, l)
	if i < 0 {
		return false
	}
	r.listeners = slices.Delete(r.listeners, i, i+1)
	r.retier()
	l.goAway()
	r.leaving = append(slices.DeleteFunc(r.leaving, (*listener).isIdle), l)
	return len(r.listeners) == 0
}

// retier makes the dispatch order. r.mu is held, or r is not shared yet.
func (r *reader) retier() {
	var tiers [][]*listener
	for _, l := range r.listeners {
		if n := len(tiers); n > 0 && tiers[n-1][0].priority == l.priority {
			tiers[n-1] = append(tiers[n-1], l)
		} else {
			tiers = append(tiers, []*listener{l})
		}
	}
	r.tiers.Store(&tiers)
}

// stopIntake closes the source: what nobody started goes back to the group. It
// reports whether there was one.
func (r *reader) stopIntake(ctx context.Context) bool {
	if !awaitClosed(ctx, r.ready) {
		return false
	}
	r.mu.Lock()
	open, first := r.opened, r.opened && !r.closing
	r.closing = true
	if first {
		close(r.stopping)
	}
	r.mu.Unlock()
	if first {
		go r.finish()
		if err := r.src.Close(ctx); err != nil {
			r.b.log.Warn("event source not closed", "name", r.key.name, "group", r.key.group, "err", err)
		}
		r.begin()
	}
	return open
}

// catchUp waits until the reader has handled every event that was published
// before, except the one that from handles. It returns the reader's name if ctx
// ends first.
func (r *reader) catchUp(ctx context.Context, from *call) []string {
	if !awaitClosed(ctx, r.ready) {
		return []string{r.key.name}
	}
	src, ok := r.src.(transport.CatchUpper)
	if !ok {
		return nil // it could not be opened, or the driver cannot tell
	}
	left := 0
	if from != nil && r.runs(from) {
		left = max(1, int(from.events))
	}
	if err := src.CatchUp(ctx, left); err != nil && !errors.Is(err, transport.ErrClosed) {
		return []string{r.key.name}
	}
	return nil
}

// runs reports whether a call is of one of the reader's listeners.
func (r *reader) runs(k *call) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(slices.Concat(r.listeners, r.leaving), func(l *listener) bool { return l.who == k.who })
}

// tally returns that of a listener by name, also of one that is not here any more,
// and with "" that of events that no listener could be given.
func (r *reader) tally(name string) *tally {
	r.mu.Lock()
	for _, l := range slices.Concat(r.listeners, r.leaving) {
		if l.name == name {
			r.mu.Unlock()
			return l.tally
		}
	}
	r.mu.Unlock()
	return r.b.tallies.of(tallyKey{KindEvent, r.key.name, r.key.group, name})
}

func (r *reader) isStopping() bool {
	select {
	case <-r.stopping:
		return true
	default:
		return false
	}
}

// finish ends what a reader has, once nothing runs any more. Until then what runs
// is kept alive, even if nobody waits for it.
func (r *reader) finish() {
	<-r.pump.done()
	r.resumed.Wait()
	r.keep.close()
	r.s.dropReader(r)
	close(r.ended)
}

// close stops the intake, passes on what waits for a retry, and waits for what
// runs. It returns the names of the listeners that still run when ctx ends.
func (r *reader) close(ctx context.Context) []string {
	if !r.stopIntake(ctx) {
		return nil
	}
	r.releaseHeld(ctx)
	if awaitClosed(ctx, r.ended) {
		return nil
	}
	if r.s.work.Err() != nil { // the bus gives up: no broker to extend anything
		r.keep.stop()
	}
	return r.running()
}

// running names the listeners that run something.
func (r *reader) running() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, l := range slices.Concat(r.listeners, r.leaving) {
		if !l.isIdle() {
			names = append(names, r.key.name+"/"+cmp.Or(r.key.group, "private")+"/"+l.name)
		}
	}
	return names
}
