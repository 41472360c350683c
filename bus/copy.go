package bus

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// A copy of an event waits in the broker and is addressed to one listener of this
// group, or to one that has stopped the event and those that wait for it.

// copies returns what is to be sent for the listeners that are still to handle the
// event.
func (f *flight) copies(runs []*run, now time.Time) []*transport.Message {
	var all []*transport.Message
	add := func(run *run, delay time.Duration, then queued) {
		c := f.copyFor(run.l.name, run.failed(), run.first, then.String())
		if delay > 0 {
			c.DeliverAt = now.Add(delay)
		}
		all = append(all, c)
	}
	var first *run // it stopped the event, and what waits for it goes with it
	var then queued
	var delay time.Duration
	for _, run := range runs {
		stops := run.stops && waiting(runs)
		switch {
		case run.verdict.fate == fateWait, stops && first != nil:
			then = append(then, waiter{run.l.name, run.failed(), run.stops, run.first})
		case stops:
			first = run
		default:
			add(run, run.verdict.delay, nil)
		}
		if stops {
			delay = max(delay, run.verdict.delay)
		}
	}
	if first != nil {
		add(first, delay, then)
	}
	return all
}

// waiting reports whether some of runs wait for another.
func waiting(runs []*run) bool {
	for _, run := range runs {
		if run.verdict.fate == fateWait {
			return true
		}
	}
	return false
}

// firstFailure reports whether some of runs have just failed for the first time, and the
// broker has to know when. A nak keeps nothing, and what is held here dies with the
// process.
func firstFailure(runs []*run) bool {
	return slices.ContainsFunc(runs, func(r *run) bool { return r.untold })
}

// alone reports whether an event is to run again without the rest of its batch.
func alone(runs []*run) bool {
	return slices.ContainsFunc(runs, func(r *run) bool { return r.verdict.alone })
}

// failed is how often the listener has failed the event by now.
func (r *run) failed() int {
	if r.verdict.fate == fateRetry {
		return r.attempt
	}
	return r.attempt - 1 // it did not run, or not to its end
}

// copyFor returns a copy of the event for one listener of this group, which has
// failed it so many times, the first time then (zero for not known), and for those that
// wait for it.
func (f *flight) copyFor(listener string, failed int, first since, then string) *transport.Message {
	c := *f.m
	c.To.Group = f.r.key.group
	seq := strconv.FormatUint(f.sequence(), 10)
	c.ID = digest("retry", f.m.Session, f.id, seq, f.r.key.group, f.r.key.name, listener, strconv.Itoa(failed), f.redriven())
	c.Fresh = false
	c.DeliverAt = time.Time{}
	if c.Header = f.m.Header.Clone(); c.Header == nil {
		c.Header = Header{}
	}
	c.Header.Set(headerOrigin, f.id)
	c.Header.Set(headerSequence, seq)
	c.Header.Set(headerHandler, listener)
	c.Header.Set(headerAttempt, strconv.Itoa(failed))
	delete(c.Header, headerFirst)
	if first != 0 {
		c.Header.Set(headerFirst, first.String())
	}
	delete(c.Header, headerThen)
	if then != "" {
		c.Header.Set(headerThen, then)
	}
	delete(c.Header, headerSearch)
	if f.redriven() == "" { // on an event for everybody they are somebody else's
		for _, key := range redriveHeaders {
			delete(c.Header, key)
		}
		delete(c.Header, headerCopy)
	}
	return &c
}

// then is who waits for the listener that a copy is addressed to.
func (f *flight) then() queued {
	if f.target == "" {
		return nil
	}
	return parseQueued(f.m.Header.Get(headerThen))
}

// since is when the listener that a copy is addressed to first failed, if that limits
// its retries.
func (f *flight) since() since { return parseSince(f.m.Header.Get(headerFirst)) }

// planCopy finds the listeners that a copy is addressed to: first those that
// stopped the event, then those that wait for them.
func (f *flight) planCopy(here []*listener) {
	var waits []*run
	add := func(l *listener, failed int, stops bool, first since) {
		r := &run{l: l, attempt: failed + f.d.Deliveries(), stops: stops, first: first}
		if stops || l.name == f.target {
			f.runs = append(f.runs, r)
		} else {
			waits = append(waits, r)
		}
	}
	found := false
	then := f.then()
	missing := then.byName()
	for _, l := range here {
		w, ok := missing[l.name]
		switch {
		case l.name == f.target:
			found = true
			add(l, f.failed, len(then) > 0, f.since())
		case ok:
			delete(missing, l.name)
			add(l, w.failed, w.stops, w.first)
		}
	}
	if !found {
		f.runs = nil
		return
	}
	for _, w := range then {
		if _, ok := missing[w.name]; ok { // another process has it
			add(f.r.absent(w.name), w.failed, w.stops, w.first)
		}
	}
	f.runs = append(f.runs, waits...)
}

// absent stands for a listener that this process does not have. It is closed, so
// that what is meant for it goes back to the group.
func (r *reader) absent(name string) *listener {
	l := &listener{
		who:  &identity{ids: r.b.ids, kind: KindEvent, name: r.key.name, group: r.key.group, handler: name},
		name: name, priority: PriorityLowest - 1, retry: r.b.eventRetry(r.key.name),
		slots: make(chan struct{}, 1), gone: make(chan struct{}), drained: make(chan struct{}),
	}
	l.goAway()
	return l
}

// waiter is a listener that waits for the one that a copy is addressed to, or has
// stopped the event beside it, with how often it has failed, and since when.
type waiter struct {
	name   string
	failed int
	stops  bool
	first  since
}

// queued travels as "name=failed", with a "!" behind it for one that stops the
// event and an "@" with the time of its first failure, separated by commas.
type queued []waiter

func (q queued) String() string {
	var b strings.Builder
	for i, w := range q {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(w.name + "=" + strconv.Itoa(w.failed))
		if w.stops {
			b.WriteByte('!')
		}
		if w.first != 0 {
			b.WriteString("@" + w.first.String())
		}
	}
	return b.String()
}

// parseQueued reads what the bus wrote; of what somebody else wrote it takes what
// it understands.
func parseQueued(s string) (q queued) {
	for part := range strings.SplitSeq(s, ",") {
		name, failed, ok := strings.Cut(part, "=")
		if !ok || checkGroup(name) != nil {
			continue
		}
		failed, first, _ := strings.Cut(failed, "@")
		failed, stops := strings.CutSuffix(failed, "!")
		q = append(q, waiter{name, count(failed), stops, parseSince(first)})
	}
	return q
}

func (q queued) names() (names []string) {
	for _, w := range q {
		names = append(names, w.name)
	}
	return names
}

func (q queued) byName() map[string]waiter {
	m := make(map[string]waiter, len(q))
	for _, w := range q {
		m[w.name] = w
	}
	return m
}
