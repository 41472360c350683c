package bustest

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// journal keeps every step of every message, in the order told.
type journal struct {
	began time.Time

	mu      sync.Mutex
	last    uint64 // order of steps, by when they began as far as that is known
	entries []*entry
	running map[run]uint64      // the order in which runs began
	scripts []error             // that scripts have made handlers and publishes fail with
	allowed []func(*entry) bool // by Query.Allow
}

// entry is one step.
type entry struct {
	bus.Record
	meta  bus.Meta
	value any
	at    time.Duration // when the step began, since the harness did
	note  string        // instead of a step: what a script did to the message
	// The step began as order and was told as told. Handlers' runs know both.
	order, told uint64
	index       int  // in journal.entries
	scripted    bool // a script made it fail, with its error
	expected    bool // a failure that somebody accounts for; guarded by journal.mu
}

// run is what tells a handler's runs apart.
type run struct {
	id, group, handler string
	attempt            int
}

func newJournal(began time.Time) *journal {
	return &journal{began: began, running: map[run]uint64{}}
}

// begin notes that a handler begins to run.
func (j *journal) begin(m *bus.Message) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	if m.Events == nil {
		j.running[run{m.ID, m.Group, m.Handler, m.Attempt}] = j.last
	}
	for _, e := range m.Events { // of a batch
		j.running[run{e.ID, e.Group, e.Handler, e.Attempt}] = j.last
	}
}

// inject notes the error of a script that happens for the first time.
func (j *journal) inject(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.scripts = append(slices.Clip(j.scripts), err)
}

// isScripted reports whether err is what a script has made something fail with.
func (j *journal) isScripted(err error) bool {
	j.mu.Lock()
	scripts := j.scripts
	j.mu.Unlock()
	return slices.ContainsFunc(scripts, func(script error) bool { return errors.Is(err, script) })
}

// observe notes a step.
func (j *journal) observe(r bus.Record) *entry {
	e := &entry{
		Record: r, meta: r.Meta(), value: r.Value(), at: time.Since(j.began) - r.Elapsed,
		scripted: r.Stage == bus.StageHandled && j.isScripted(r.Err),
	}
	j.add(e)
	return e
}

// remark notes what a script did to a message, of one group or, with "", of all.
func (j *journal) remark(m *transport.Message, group, note string) {
	j.add(&entry{
		Record: bus.Record{Name: m.To.Name, Group: group}, note: note, scripted: true, at: time.Since(j.began),
		meta: bus.Meta{Name: m.To.Name, ID: m.ID, CausationID: m.CausationID, CorrelationID: m.CorrelationID, Session: m.Session},
	})
}

func (j *journal) add(e *entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.order, e.told = j.last, j.last
	if e.Stage == bus.StageHandled {
		key := run{e.meta.ID, e.Group, e.Handler, e.Attempt}
		if began, ok := j.running[key]; ok {
			delete(j.running, key)
			e.order = began
		}
	}
	e.index = len(j.entries)
	j.entries = append(j.entries, e)
}

// all returns the entries so far. Where a step was taken before the message was
// decoded, it is filled in from another step.
func (j *journal) all() []*entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	type message struct{ name, id string }
	known, lack := map[message]any{}, false
	for _, e := range j.entries {
		if e.value != nil && e.meta.ID != "" {
			known[message{e.Name, e.meta.ID}] = e.value
		}
		lack = lack || e.value == nil
	}
	all := append([]*entry(nil), j.entries...)
	if !lack {
		return all
	}
	for i, e := range all {
		if v := known[message{e.Name, e.meta.ID}]; e.value == nil && v != nil {
			c := *e
			c.value = v
			all[i] = &c
		}
	}
	return all
}

// expect accounts for failures: of the entries given, of the runs that led to the
// dead letters among them, and of the calls that failed with the runs of commands
// among them.
func (j *journal) expect(es []*entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range es {
		j.entries[e.index].expected = true
		dead := e.Stage == bus.StageDeadLettered
		if !dead && e.Kind != bus.KindCommand {
			continue
		}
		for _, o := range j.entries {
			if o.meta.ID == e.meta.ID && o.Name == e.Name && (!dead || o.Group == e.Group && o.Handler == e.Handler) {
				o.expected = true
			}
		}
	}
}

// allow accounts for failures that are like that, also those to come.
func (j *journal) allow(like func(*entry) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.allowed = append(j.allowed, like)
}

// failed reports whether e is a failure: an event handler's, a panic in a
// command's (its caller has the error, but a panic is no answer), or an event that
// no handler could be given.
func (e *entry) failed() bool {
	switch e.Stage {
	case bus.StageHandled:
		return e.Err != nil && e.Kind == bus.KindEvent
	case bus.StageSent:
		return e.Kind == bus.KindCommand && bus.CodeOf(e.Err) == bus.CodePanic
	case bus.StageDeadLettered:
		return e.Handler == ""
	default:
		return false
	}
}

// unexpected returns the failures that nobody accounts for.
func (j *journal) unexpected() []*entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	meant := j.scriptedIDs()
	var failed []*entry
	for _, e := range j.entries {
		if e.failed() && !e.expected && !e.scripted && !meant[e.meta.ID] && !j.isAllowed(e) {
			failed = append(failed, e)
		}
	}
	return failed
}

// scriptedIDs returns the messages whose handlers may fail because a script made a
// message fail that they sent, or one that this sent in turn.
func (j *journal) scriptedIDs() map[string]bool {
	cause := map[string]string{}
	var failed []string
	for _, e := range j.entries {
		if e.meta.CausationID != "" {
			cause[e.meta.ID] = e.meta.CausationID
		}
		if e.scripted {
			failed = append(failed, e.meta.ID)
		}
	}
	meant := map[string]bool{}
	for _, id := range failed {
		for id = cause[id]; id != "" && !meant[id]; id = cause[id] {
			meant[id] = true
		}
	}
	return meant
}

func (j *journal) isAllowed(e *entry) bool {
	for _, like := range j.allowed {
		if like(e) {
			return true
		}
	}
	return false
}

// typed returns the entry's message as an M, and false if it is none.
func typed[M any](e *entry) (m M, is bool, err error) {
	if e.note != "" {
		return m, false, nil
	}
	return as[M](e.value, e.Name)
}
