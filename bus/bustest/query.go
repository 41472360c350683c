package bustest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// Seen is one step of one message.
type Seen[M any] struct {
	// Message is the command or event; it is read-only, and the zero M for an
	// event that could not be decoded.
	Message M
	// Meta is the message's metadata. On the sending side Group, Handler and
	// Attempt are empty.
	Meta bus.Meta
	// Err is what the handler or the call returned; for a dead letter, why.
	Err error
	// Elapsed is how long the handler or the call took.
	Elapsed time.Duration
	// At is when it began, since New.
	At time.Duration
}

// Query is a question about the messages of type M that a harness has seen, of one
// step: Published, Handled and so on. Its filters narrow it and return a new Query;
// One, All, None and Count answer it. They first wait until the harness is quiet,
// so that nothing is on its way that could change the answer: a negative answer
// takes no longer than any other. They fail the test at once and belong on its
// goroutine.
//
// A failure that One, All or Count returned is one that the test knows of, and no
// longer fails it when it ends; with a dead letter go the failed runs that led to
// it.
type Query[M any] struct {
	h       *Harness
	what    string
	of      func(*entry) bool
	once    bool // a message counts once, however often it takes the step
	filters []filter[M]
}

type filter[M any] struct {
	what string
	pass func(M, *entry) bool
}

// Published asks for the events that were stored: the calls of Publish that
// succeeded. An event that is published again with its id, within the two minutes
// in which that is found out, is stored once and counts once.
func Published[E any](h *Harness) Query[E] {
	return Query[E]{h: h, what: "published", once: true, of: func(e *entry) bool {
		return e.Stage == bus.StageSent && e.Kind == bus.KindEvent && e.Err == nil
	}}
}

// Handled asks for the runs of handlers that succeeded, of an event or a command.
// An event with two handlers is handled twice.
func Handled[M any](h *Harness) Query[M] {
	return Query[M]{h: h, what: "handled", of: func(e *entry) bool {
		return e.Stage == bus.StageHandled && e.Err == nil
	}}
}

// Failed asks for the runs of handlers that returned an error or panicked, of an
// event or a command: each attempt is one.
func Failed[M any](h *Harness) Query[M] {
	return Query[M]{h: h, what: "failed", of: func(e *entry) bool {
		return e.Stage == bus.StageHandled && e.Err != nil
	}}
}

// DeadLettered asks for the events that became dead letters, one for each handler
// that gave up.
func DeadLettered[E any](h *Harness) Query[E] {
	return Query[E]{h: h, what: "dead-lettered", of: func(e *entry) bool {
		return e.Stage == bus.StageDeadLettered
	}}
}

// Filtered asks for the events that a filter stopped, when they were published or
// for one handler.
func Filtered[E any](h *Harness) Query[E] {
	return Query[E]{h: h, what: "filtered", once: true, of: func(e *entry) bool {
		return e.Stage == bus.StageFiltered
	}}
}

// Executed asks for the calls of Execute and Do, also of those that failed: Err
// says how each ended.
func Executed[C any](h *Harness) Query[C] {
	return Query[C]{h: h, what: "executed", of: func(e *entry) bool {
		return e.Stage == bus.StageSent && e.Kind == bus.KindCommand
	}}
}

// Where narrows the query to messages for which f is true.
func (q Query[M]) Where(f func(M) bool) Query[M] {
	return q.with("for which Where is true", func(m M, _ *entry) bool { return f(m) })
}

// WhereMeta narrows the query to messages for whose metadata f is true.
func (q Query[M]) WhereMeta(f func(bus.Meta) bool) Query[M] {
	return q.with("for which WhereMeta is true", func(_ M, e *entry) bool { return f(e.meta) })
}

// InSession narrows the query to messages of one session; "" is none.
func (q Query[M]) InSession(id string) Query[M] {
	what := "in no session"
	if id != "" {
		what = fmt.Sprintf("in session %q", id)
	}
	return q.with(what, func(_ M, e *entry) bool { return e.meta.Session == id })
}

// InGroup narrows the query to handlers of one group; "" is the private ones.
func (q Query[M]) InGroup(group string) Query[M] {
	return q.with(fmt.Sprintf("in group %q", group), func(_ M, e *entry) bool { return e.Group == group })
}

// ByHandler narrows the query to handlers of one name: that of bus.WithName, and
// the service of a command's handler.
func (q Query[M]) ByHandler(name string) Query[M] {
	return q.with(fmt.Sprintf("by handler %q", name), func(_ M, e *entry) bool { return e.Handler == name })
}

func (q Query[M]) with(what string, pass func(M, *entry) bool) Query[M] {
	q.filters = append(slices.Clip(q.filters), filter[M]{what, pass})
	return q
}

// One returns the one message there is. Any other number fails the test.
func (q Query[M]) One() Seen[M] {
	q.h.t.Helper()
	return q.want("one", func(n int) bool { return n == 1 })[0]
}

// All returns all messages there are, in the order in which their steps ended.
func (q Query[M]) All() []Seen[M] {
	q.h.t.Helper()
	return q.want("any", func(int) bool { return true })
}

// None fails the test if there is any.
func (q Query[M]) None() {
	q.h.t.Helper()
	q.want("no", func(n int) bool { return n == 0 })
}

// Count fails the test if there are not n, and returns them like All.
func (q Query[M]) Count(n int) []Seen[M] {
	q.h.t.Helper()
	return q.want(fmt.Sprint(n), func(got int) bool { return got == n })
}

// Allow says that handlers may fail messages that pass the filters, whatever the
// step that the query asks for: such failures, so far and to come, do not fail the
// test when it ends. It neither waits nor asks that there are any.
func (q Query[M]) Allow() {
	q.h.journal.allow(func(e *entry) bool {
		_, ok, err := q.match(e)
		return ok && err == nil
	})
}

// match returns e's message if it is an M that passes the filters.
func (q Query[M]) match(e *entry) (m M, ok bool, err error) {
	m, ok, err = typed[M](e)
	if !ok || err != nil {
		return m, ok, err
	}
	for _, f := range q.filters {
		if !f.pass(m, e) {
			return m, false, nil
		}
	}
	return m, true, nil
}

// want waits and returns the answer. An unwanted number of messages fails the
// test.
func (q Query[M]) want(number string, good func(int) bool) []Seen[M] {
	t := q.h.t
	t.Helper()
	q.h.Wait()
	var seen []Seen[M]
	var picked, others []*entry
	last := map[string]*entry{} // of each id, for once
	for _, e := range q.h.journal.all() {
		if !q.of(e) || e.note != "" {
			continue
		}
		m, ok, err := q.match(e)
		if err != nil {
			t.Fatalf("bustest: %v", err)
		}
		if !ok {
			if _, is, _ := typed[M](e); is {
				others = append(others, e)
			}
			continue
		}
		if q.once && e.meta.ID != "" {
			key := strings.Join([]string{e.meta.Session, e.meta.ID, e.Group, e.Handler}, "\x00")
			was := last[key]
			if was != nil && e.at-was.at < dedupWindow {
				continue
			}
			last[key] = e
		}
		picked = append(picked, e)
		seen = append(seen, Seen[M]{Message: m, Meta: e.meta, Err: e.Err, Elapsed: e.Elapsed, At: e.at})
	}
	if !good(len(seen)) {
		t.Fatalf("bustest: %s", q.complaint(number, picked, others))
	}
	q.h.journal.expect(picked)
	return seen
}

// complaint says what was wanted and what there is.
func (q Query[M]) complaint(number string, picked, others []*entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "want %s %s %s", number, q.what, nameFor[M]())
	for i, f := range q.filters {
		if i > 0 {
			b.WriteString(" and")
		}
		b.WriteString(" " + f.what)
	}
	fmt.Fprintf(&b, ", got %d", len(picked))
	list := func(es []*entry) {
		const most = 20
		for i, e := range es {
			if i == most {
				fmt.Fprintf(&b, "\n\tand %d more", len(es)-most)
				break
			}
			fmt.Fprintf(&b, "\n\t%s", e.line())
		}
	}
	if len(picked) > 0 {
		b.WriteString(":")
		list(picked)
	}
	if len(others) > 0 {
		fmt.Fprintf(&b, "\nthat the filters left out:")
		list(others)
	}
	b.WriteString(q.h.report())
	return b.String()
}

// nameFor is what people are told of an M: its wire name, or its type.
func nameFor[M any]() string {
	if name, err := bus.NameOf[M](); err == nil {
		return name
	}
	var m M
	return fmt.Sprintf("%T", m)
}
