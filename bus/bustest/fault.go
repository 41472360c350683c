package bustest

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// faults makes go wrong what the scripts say.
type faults struct {
	journal *journal
	codecs  codec.Set

	mu      sync.Mutex
	scripts []*script
	twins   map[string]string // the id of a copy made by Duplicate, to the event's
}

func newFaults(j *journal, codecs codec.Set) *faults {
	return &faults{journal: j, codecs: codecs, twins: map[string]string{}}
}

func (f *faults) add(s *script) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scripts = append(f.scripts, s)
}

// of returns the scripts with that action for a message.
func (f *faults) of(a action, name string) []*script {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*script
	for _, s := range f.scripts {
		if s.action == a && (s.name == name || a == failHandling) {
			all = append(all, s)
		}
	}
	return all
}

// count counts a message of s for whom it concerns, and reports whether it is the
// one.
func (f *faults) count(s *script, whom string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.seen[whom]++
	hit := s.nth == 0 || s.seen[whom] == s.nth
	if hit && !s.fired && s.err != nil {
		f.journal.inject(s.err)
	}
	s.fired = s.fired || hit
	return hit
}

// unused returns the scripts whose number never came.
func (f *faults) unused() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, s := range f.scripts {
		if !s.fired && s.nth > 0 {
			names = append(names, s.String())
		}
	}
	return names
}

// handling is the innermost of the bus's middleware.
func (f *faults) handling(next bus.Func) bus.Func {
	return func(ctx context.Context, m *bus.Message) (any, error) {
		if m.Events == nil {
			if err := f.failure(m); err != nil {
				return nil, err
			}
		}
		for _, e := range m.Events { // of a batch
			if err := f.failure(e); err != nil {
				e.Refuse(err)
			}
		}
		return next(ctx, m)
	}
}

// failure returns the error of which a message is not to be handled, or nil.
func (f *faults) failure(m *bus.Message) error {
	for _, s := range f.of(failHandling, m.Name) {
		if s.group != nil && *s.group != m.Group || s.handler != nil && *s.handler != m.Handler || !s.is(m.Value) {
			continue
		}
		if f.count(s, m.Group+"/"+m.Handler) {
			return s.err
		}
	}
	return nil
}

// publishing is called before ms are stored. It returns what is to be stored
// besides, and an error instead of storing anything.
func (f *faults) publishing(ctx context.Context, l *ledger, ms []*transport.Message) (again []*transport.Message, err error) {
	for _, m := range ms {
		if m == nil || m.To.Group != "" { // a retry is no publication
			continue
		}
		for _, s := range f.of(delayPublish, m.To.Name) {
			if f.isOne(s, m, "") {
				f.journal.remark(m, "", "publish delayed by "+s.delay.String()+" (scripted)")
				if err := pause(ctx, l, m, s.delay); err != nil {
					return nil, refused(ms, err)
				}
			}
		}
		for _, s := range f.of(failPublish, m.To.Name) {
			if f.isOne(s, m, "") {
				f.journal.remark(m, "", "publish failed (scripted): "+oneLine(s.err))
				return nil, refused(ms, s.err)
			}
		}
		for _, s := range f.of(duplicate, m.To.Name) {
			if f.isOne(s, m, "") {
				f.journal.remark(m, "", "stored twice (scripted)")
				again = append(again, f.twin(m))
			}
		}
	}
	return again, nil
}

// dropAck reports whether the acknowledgement of d gets lost.
func (f *faults) dropAck(d *delivery) bool {
	if d.queue.private {
		return false
	}
	for _, s := range f.of(dropAck, d.m.To.Name) {
		if (s.group == nil || *s.group == d.queue.group) && f.isOne(s, d.m, d.queue.group) {
			f.journal.remark(d.m, d.queue.group, "ack of "+d.queue.group+" dropped (scripted)")
			return true
		}
	}
	return false
}

func (f *faults) isOne(s *script, m *transport.Message, whom string) bool {
	return s.is(f.value(m)) && f.count(s, whom)
}

// value returns what a message carries: a Go value, or its body for as to decode.
func (f *faults) value(m *transport.Message) any {
	if m.Value != nil {
		return m.Value
	}
	c, err := f.codecs.Lookup(m.ContentType)
	if err != nil {
		return nil
	}
	return encoded{c, m.Body}
}

func pause(ctx context.Context, l *ledger, m *transport.Message, d time.Duration) error {
	defer l.begin(m.To.Name + isPublished)()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func refused(ms []*transport.Message, err error) error {
	all := make([]transport.Outcome, len(ms))
	for i := range all {
		all[i] = transport.Outcome{Status: transport.Refused, Err: err}
	}
	return &transport.PublishError{Outcomes: all}
}

// twin returns a copy of an event that the drivers do not take for a duplicate.
func (f *faults) twin(m *transport.Message) *transport.Message {
	c := *m
	c.Header = m.Header.Clone()
	if m.ID != "" {
		c.ID = "twin-" + rand.Text()
		f.mu.Lock()
		f.twins[c.ID] = m.ID
		f.mu.Unlock()
	}
	return &c
}

// restore gives a twin that is handed out the id of its event.
func (f *faults) restore(m *transport.Message) *transport.Message {
	f.mu.Lock()
	id, ok := f.twins[m.ID]
	f.mu.Unlock()
	if !ok {
		return m
	}
	c := *m
	c.ID = id
	return &c
}
