package bus

import (
	"fmt"
	"slices"

	"github.com/jitney-bus/jitney/session"
)

// Filter says which events go on. The stock ones and their compositions are in
// package filter; the fields are for your own.
//
// On the sending side (Config.PublishFilter) an event that does not pass is not
// stored, and Publish returns nil. On the receiving side (Config.ReceiveFilter,
// WithFilter) it is done for that listener: acknowledged if no other listener of
// the group needs it, never retried, never a dead letter. A group's filters run
// in the process that got the event; what the broker keeps for the group never
// depends on them, so that processes of one group may filter differently, as they
// do while a new version is rolled out. Both sides tell Config.Observers. The
// zero Filter lets everything pass.
type Filter struct {
	// Name is what Describe, errors and logs call it.
	Name string
	// Pass reports whether m goes on. It must be fast, safe for concurrent use,
	// and must not modify m. One that panics lets the event pass, which is
	// logged: a broken filter loses nothing. It is asked again when an event is
	// delivered again (m.Attempt is then above 1), so it should answer the same.
	// What is addressed to one listener alone, such as a retry that waited in the
	// broker or a redrive, has passed before and is not filtered.
	Pass func(m *Message) bool
	// Value says that Pass looks at m.Value. Others run before the event is
	// decoded, with a nil Value: what they stop may be undecodable.
	Value bool
	// Sessions, if not nil, says that Pass is true for messages of these
	// sessions only; "" is what belongs to none. A private subscription then
	// asks the transport for these alone, so that no other event crosses the
	// network for it: with up to 32 sessions, none of them "".
	Sessions []string
	// Err says why the filter cannot be used. New and Subscribe return it.
	Err error
}

// WithFilter lets only events that pass all the filters reach this listener,
// besides Config.ReceiveFilter. Given more than once, the filters add up.
func WithFilter(filters ...Filter) ListenOption {
	return listenOption(func(o *subscribeOptions) {
		for _, f := range filters {
			if f.isZero() {
				continue
			}
			if err := f.check(); err != nil {
				o.errs = append(o.errs, err)
			}
			o.filters = append(o.filters, f)
		}
	})
}

// check reports what is wrong with f, which is set somewhere.
func (f Filter) check() error {
	switch {
	case f.Err != nil:
		return fmt.Errorf("filter %s: %w", f.Name, f.Err)
	case f.Pass == nil:
		return fmt.Errorf("filter %s: it has no Pass", f.Name)
	}
	for _, id := range f.Sessions {
		if id == "" {
			continue
		}
		if err := session.Validate(id); err != nil {
			return fmt.Errorf("filter %s: %w", f.Name, err)
		}
	}
	return nil
}

func (f Filter) isZero() bool {
	return f.Name == "" && f.Pass == nil && !f.Value && f.Sessions == nil && f.Err == nil
}

// passes asks f, which is not the zero Filter.
func (b *Bus) passes(f Filter, m *Message) (pass bool) {
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("filter panicked and the event passes", "filter", f.Name,
				"name", m.Name, "id", m.ID, "err", textOf(p))
			pass = true
		}
	}()
	return f.Pass(m)
}

// publishes reports whether Config.PublishFilter lets an event pass.
func (b *Bus) publishes(m *Message) bool {
	f := b.cfg.PublishFilter
	return f.Pass == nil || b.passes(f, m)
}

// sieve is the filters of one listener.
type sieve struct {
	early []Filter // before the event is decoded
	late  []Filter
}

func newSieve(filters []Filter) (s sieve) {
	for _, f := range filters {
		if f.Value {
			s.late = append(s.late, f)
		} else {
			s.early = append(s.early, f)
		}
	}
	return s
}

// siftEarly spares the listeners whose filters stop the event, of those that need
// no value; siftLate asks the others.
func (f *flight) siftEarly() {
	if f.m.Malformed == nil { // else what it says of itself cannot be trusted
		f.sift(func(l *listener) []Filter { return l.sieve.early })
	}
}

func (f *flight) siftLate() {
	f.sift(func(l *listener) []Filter { return l.sieve.late })
}

func (f *flight) sift(filters func(*listener) []Filter) {
	if f.target != "" {
		return
	}
	f.runs = slices.DeleteFunc(f.runs, func(run *run) bool {
		if f.lets(run, filters(run.l)) {
			return false
		}
		f.spared = true
		f.observeRun(StageFiltered, run, 0)
		return true
	})
}

// lets reports whether the event passes all the filters on its way to a listener.
func (f *flight) lets(run *run, filters []Filter) bool {
	if len(filters) == 0 {
		return true
	}
	k := new(call)
	f.fill(k, run)
	m := k.message(f.value)
	for _, filter := range filters {
		if !f.r.b.passes(filter, m) {
			return false
		}
	}
	return true
}
