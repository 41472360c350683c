package memory

import (
	"context"
	"fmt"
	"slices"

	"github.com/jitney-bus/jitney/transport"
)

var _ interface {
	transport.GroupLister
	transport.GroupRetirer
} = (*Transport)(nil)

// Groups implements transport.GroupLister.
func (t *Transport) Groups(ctx context.Context) ([]transport.GroupState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, transport.ErrClosed
	}
	var all []transport.GroupState
	for name, tp := range t.topics {
		for _, q := range tp.joined {
			all = append(all, q.state(name))
		}
	}
	return all, nil
}

func (q *queue) state(name string) transport.GroupState {
	s := transport.GroupState{
		Name: name, Group: q.group, Pending: q.fresh.n,
		Unsettled: q.again.n + q.delayed.len() + q.out.n,
	}
	for d := q.out.head; d != nil; d = d.next {
		if d.n > 1 {
			s.Redelivered++
		}
	}
	for i := range q.again.n {
		if q.again.items[(q.again.first+i)&(len(q.again.items)-1)].n > 2 {
			s.Redelivered++
		}
	}
	for _, c := range q.delayed.items {
		if c.value.n > 2 {
			s.Redelivered++
		}
	}
	return s
}

// RetireGroup implements transport.GroupRetirer. What is handed out and not settled
// has lost its lease.
func (t *Transport) RetireGroup(ctx context.Context, name, group string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return transport.ErrClosed
	}
	tp := t.topics[name]
	if tp == nil || tp.groups[group] == nil || !tp.groups[group].joined {
		t.mu.Unlock()
		return fmt.Errorf("group %q of %q: %w", group, name, transport.ErrNotFound)
	}
	q := tp.groups[group]
	if q.readers > 0 {
		t.mu.Unlock()
		return fmt.Errorf("group %q of %q is being read: %w", group, name, transport.ErrConflict)
	}
	delete(tp.groups, group)
	tp.joined = slices.DeleteFunc(tp.joined, func(o *queue) bool { return o == q })
	ws := q.retire()
	t.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
	return nil
}

// retire ends every event for the group. It returns whom to wake.
func (q *queue) retire() (ws []*waiter) {
	q.alarm.stop()
	for q.fresh.n > 0 {
		ws = q.settled(q.fresh.pop().e, ws)
	}
	for q.again.n > 0 {
		ws = q.settled(q.again.pop().e, ws)
	}
	for c, ok := q.delayed.take(never); ok; c, ok = q.delayed.take(never) {
		ws = q.settled(c.e, ws)
	}
	for d := q.out.head; d != nil; d = q.out.head {
		q.out.remove(d)
		d.state = lost
		ws = q.settled(d.e, ws)
	}
	return ws
}
