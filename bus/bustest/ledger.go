package bustest

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// ledger counts what is on its way among the processes of a harness: calls that
// have not returned, handlers that run, and the copies of events that some reader
// is still to settle. An event is entered before it is stored and crossed out when
// it is settled for good, so there is no moment in between at which a chain of
// messages looks finished. Where it cannot be known what a driver did, because a
// call failed halfway or a group was joined meanwhile, an event counts from when it
// is handed out: nothing is waited for that may never come.
type ledger struct {
	mu      sync.Mutex
	version uint64        // grows with each step
	moved   chan struct{} // closed by the next step; nil if nobody waits for it
	tasks   map[*task]struct{}
	topics  map[string]*topic
	open    int       // copies that are waited for
	delayed []*stored // by the user and not due yet, the first first

	questions map[string]*question // by the command's id
	sending   map[string][]*task   // by the event's id
}

// task is something that runs.
type task struct {
	what  string // for people
	began time.Time
}

func newLedger() *ledger {
	return &ledger{tasks: map[*task]struct{}{}, topics: map[string]*topic{}, questions: map[string]*question{}, sending: map[string][]*task{}}
}

// step is taken with each change. l.mu is held.
func (l *ledger) step() {
	l.version++
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}

// look reports whether something is on its way, and returns a channel that the next
// step closes.
func (l *ledger) look() (busy bool, moved <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ripen(time.Now())
	if l.moved == nil {
		l.moved = make(chan struct{})
	}
	return l.open > 0 || len(l.tasks) > 0, l.moved
}

// now returns the version.
func (l *ledger) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version
}

// begin counts something that runs until end is called; again is harmless.
func (l *ledger) begin(what string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.run(what)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.finish(t)
	}
}

// run and finish are begin and its end. l.mu is held.
func (l *ledger) run(what string) *task {
	t := &task{what: what, began: time.Now()}
	l.tasks[t] = struct{}{}
	l.step()
	return t
}

func (l *ledger) finish(t *task) {
	if _, ok := l.tasks[t]; ok {
		delete(l.tasks, t)
		l.step()
	}
}

// The drivers' dedup window. An event that comes again about when its id is
// forgotten may be stored or not, and counts from when it is handed out.
const (
	dedupWindow = 2 * time.Minute
	dedupSlack  = time.Second
)

// identity is what the drivers know duplicates by, within one name.
type identity struct{ session, group, id string }

// stored is an event that was published.
type stored struct {
	topic  *topic
	at     identity
	queues []*queue // that it was entered in

	began, ended time.Time // of the call
	done         uint64    // the version when it returned; 0 before
	due          time.Time // if it is or was delayed
	waiting      bool      // in ledger.delayed
	withdrawn    bool
}

// publication is a call of Publish.
type publication struct {
	l      *ledger
	task   *task
	events []*stored // of each message; nil for one that is stored already
}

// publish enters the messages that a driver is about to be given.
func (l *ledger) publish(ms []*transport.Message) *publication {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.ripen(now)
	p := &publication{l: l, events: make([]*stored, len(ms))}
	name := ""
	for i, m := range ms {
		if m != nil {
			name = m.To.Name
			p.events[i] = l.enter(m, now)
		}
	}
	p.task = l.run(name + isPublished)
	return p
}

// enter adds a message to the queues of its readers, unless it is a duplicate.
func (l *ledger) enter(m *transport.Message, now time.Time) *stored {
	t := l.topic(m.To.Name)
	e := &stored{topic: t, at: identity{m.To.Session, m.To.Group, m.ID}, began: now}
	if m.ID != "" {
		if was := t.ids[e.at]; was != nil && (was.done == 0 || now.Sub(was.ended) < dedupWindow+dedupSlack) {
			return nil
		}
		t.ids[e.at] = e
	}
	if m.To.Group == "" {
		t.stored = append(t.stored, e)
	}
	if m.DeliverAt.After(now) {
		e.due = m.DeliverAt
	}
	if m.To.Group != "" || e.due.IsZero() { // a copy for one group is a retry that waits
		l.route(e, now)
		return e
	}
	e.waiting = true
	i, _ := slices.BinarySearchFunc(l.delayed, e.due, func(o *stored, due time.Time) int {
		if o.due.After(due) {
			return 1
		}
		return -1
	})
	l.delayed = slices.Insert(l.delayed, i, e)
	return e
}

// done strikes out again what was not stored.
func (p *publication) done(err error) {
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	var pe *transport.PublishError
	known := errors.As(err, &pe) && len(pe.Outcomes) == len(p.events)
	now := time.Now()
	for i, e := range p.events {
		if e == nil {
			continue
		}
		if err == nil || known && pe.Outcomes[i].Status == transport.Stored {
			e.done, e.ended = l.version+1, now
		} else {
			l.withdraw(e)
		}
	}
	l.finish(p.task)
}

func (l *ledger) withdraw(e *stored) {
	e.withdrawn = true
	if e.topic.ids[e.at] == e {
		delete(e.topic.ids, e.at)
	}
	if e.waiting {
		l.delayed = slices.DeleteFunc(l.delayed, func(o *stored) bool { return o == e })
	}
	for _, q := range e.queues {
		l.change(q, e.key(), func(c *copies) {
			if c.n > len(c.out) { // else it came all the same
				c.n--
			}
		})
	}
}

// ripen enters the delayed events that are due. l.mu is held.
func (l *ledger) ripen(now time.Time) {
	for len(l.delayed) > 0 && !l.delayed[0].due.After(now) {
		e := l.delayed[0]
		l.delayed = l.delayed[1:]
		e.waiting = false
		l.route(e, e.due)
		l.step()
	}
}

// route enters e for those who read it, by when they had joined: surely before
// that moment, or else it counts when it is handed out.
func (l *ledger) route(e *stored, when time.Time) {
	add := func(q *queue) {
		if e.due.IsZero() || e.at.group != "" || q.joined.Before(when) {
			e.queues = append(e.queues, q)
			l.change(q, e.key(), func(c *copies) { c.n++ })
		}
	}
	t := e.topic
	if e.at.group != "" {
		add(t.group(e.at.group))
		return
	}
	for _, q := range t.groups {
		if !q.joined.IsZero() {
			add(q)
		}
	}
	for q := range t.private[""] {
		add(q)
	}
	if e.at.session != "" {
		for q := range t.private[e.at.session] {
			add(q)
		}
	}
}

func (e *stored) key() copyKey {
	return copyKey{session: e.at.session, id: e.at.id, addressed: e.at.group != ""}
}
