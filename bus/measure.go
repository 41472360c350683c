package bus

import (
	"slices"
	"time"
)

// HandlerKey tells the handlers apart that are counted and measured, as Group and
// Handler of Meta do: the handlers of sessions, and private listeners, of one name
// share a key. Beyond 1,000 keys further handlers share one for each message, with
// "other" as Group and Handler.
type HandlerKey struct {
	Kind                 Kind
	Name, Group, Handler string
}

// Meter measures how long things take, for histograms.
type Meter interface {
	// Handler returns what the times at the handlers of a key are told to. It is
	// called once for each key: when the meter is added, or before the first handler
	// of the key takes a message.
	Handler(HandlerKey) Timings
}

// Timings is what is told of times at one key's handlers. They are called for each
// message, concurrently and on the goroutine that handles it: they must be fast and
// must not block or call the bus. A panic of theirs is logged and nothing else. A
// nil one costs nothing.
type Timings struct {
	// Run is told how long each run took, with the receiving chain around it. A batch
	// is one run.
	Run func(time.Duration)
	// Lag is told of each event of a group how long after it was published, or was
	// due, this process took it. By the clocks of publisher or broker and of this
	// process, which may differ; it is not below 0. Only the first run of an event
	// counts.
	Lag func(time.Duration)
	// Dwell is told of each event of a group how long after that the handler was done
	// with it: it had succeeded, or the dead letter was stored. So it has the retries
	// in it, and by different clocks, as Lag. An event that was redriven does not
	// count.
	Dwell func(time.Duration)
}

// Measure adds a meter. As long as there is none, no clock is read for it. The meter
// is told of what begins after Measure has returned, until stop is called, which
// ends it; what is under way then may still be told.
func (b *Bus) Measure(m Meter) (stop func()) {
	ts := &b.tallies
	ts.mu.Lock()
	use := &meterUse{m: m}
	ts.meters = append(ts.meters, use)
	var keys []tallyKey
	for key, t := range ts.all {
		if t.opened {
			keys = append(keys, key)
		}
	}
	ts.mu.Unlock()
	for _, key := range keys {
		b.resolve(use, key)
	}
	return func() {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		use.stopped = true
		ts.meters = slices.DeleteFunc(ts.meters, func(u *meterUse) bool { return u == use })
		for _, t := range ts.all {
			t.drop(use)
		}
	}
}

// Meters returns the meters that Measure has added, the oldest first.
func (b *Bus) Meters() (all []Meter) {
	b.tallies.mu.Lock()
	defer b.tallies.mu.Unlock()
	for _, use := range b.tallies.meters {
		all = append(all, use.m)
	}
	return all
}

// meterUse is one call of Measure.
type meterUse struct {
	m       Meter
	stopped bool // guarded by tallies.mu
}

// metered is what the timings of one key are told to.
type metered struct {
	by *meterUse
	Timings
}

// resolve asks a meter for the timings of a key.
func (b *Bus) resolve(use *meterUse, key tallyKey) {
	timings := b.timings(use.m, key)
	b.tallies.mu.Lock()
	defer b.tallies.mu.Unlock()
	if use.stopped {
		return
	}
	t := b.tallies.all[key]
	var next []metered
	if old := t.metered.Load(); old != nil {
		next = slices.Clone(*old)
	}
	next = append(next, metered{use, timings})
	t.metered.Store(&next)
}

func (b *Bus) timings(m Meter, key tallyKey) (t Timings) {
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("meter panicked; the handler is not measured", "name", key.name, "handler", key.handler, "err", textOf(p))
		}
	}()
	return m.Handler(HandlerKey{Kind: key.kind, Name: key.name, Group: key.group, Handler: key.handler})
}

// meter makes the meters that there are know of the handlers of t, once.
func (b *Bus) meter(t *tally) {
	t = t.total()
	b.tallies.mu.Lock()
	first := !t.opened
	t.opened = true
	meters := slices.Clone(b.tallies.meters)
	b.tallies.mu.Unlock()
	if !first {
		return
	}
	for _, use := range meters {
		b.resolve(use, t.key)
	}
}

// drop takes out what a meter was told. tallies.mu is held.
func (t *tally) drop(use *meterUse) {
	old := t.metered.Load()
	if old == nil {
		return
	}
	next := slices.DeleteFunc(slices.Clone(*old), func(m metered) bool { return m.by == use })
	if len(next) == 0 {
		t.metered.Store(nil)
	} else {
		t.metered.Store(&next)
	}
}

// isMetered reports whether times are to be told.
func (t *tally) isMetered() bool { return t != nil && t.total().metered.Load() != nil }

// total is the tally of all handlers of t's key.
func (t *tally) total() *tally {
	if t.sum != nil {
		return t.sum
	}
	return t
}

// timing picks one of Timings.
type timing uint8

const (
	timingRun timing = iota
	timingLag
	timingDwell
)

// timed tells a time.
func (b *Bus) timed(t *tally, what timing, d time.Duration) {
	if t == nil {
		return
	}
	all := t.total().metered.Load()
	if all == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("meter panicked", "err", textOf(p))
		}
	}()
	for i := range *all {
		m := &(*all)[i]
		f := m.Run
		switch what {
		case timingLag:
			f = m.Lag
		case timingDwell:
			f = m.Dwell
		}
		if f != nil {
			f(max(d, 0))
		}
	}
}

// timeLag tells how long an event has waited for its first run.
func (f *flight) timeLag(run *run) {
	if f.r.key.group == "" || run.attempt != 1 || f.target != "" || f.held {
		return
	}
	if since, ok := f.availableFrom(); ok {
		f.r.b.timed(run.l.tally, timingLag, f.began.Sub(since))
	}
}

// timeDwell tells how long a handler has needed to be done with an event.
func (f *flight) timeDwell(run *run, now time.Time) {
	if f.r.key.group == "" || f.redriven() != "" {
		return
	}
	if since, ok := f.availableFrom(); ok {
		f.r.b.timed(run.l.tally, timingDwell, now.Sub(since))
	}
}

// availableFrom is when the event could be had first, if that is known.
func (f *flight) availableFrom() (time.Time, bool) {
	since := f.m.SentAt
	if f.m.DeliverAt.After(since) {
		since = f.m.DeliverAt
	}
	return since, !since.IsZero()
}
