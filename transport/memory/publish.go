package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Publish stores events. When the log is full it waits for room until ctx ends.
func (t *Transport) Publish(ctx context.Context, ms ...*transport.Message) error {
	if err := ctx.Err(); err != nil {
		return refuseAll(ms, err)
	}
	if len(ms) == 1 {
		if o := t.publish(ctx, ms[0]); o.Err != nil {
			return &transport.PublishError{Outcomes: []transport.Outcome{o}}
		}
		return nil
	}
	outcomes, failed := make([]transport.Outcome, len(ms)), false
	for i, m := range ms {
		outcomes[i] = t.publish(ctx, m)
		failed = failed || outcomes[i].Err != nil
	}
	if failed {
		return &transport.PublishError{Outcomes: outcomes}
	}
	return nil
}

func refuse(err error) transport.Outcome {
	return transport.Outcome{Status: transport.Refused, Err: err}
}

func refuseAll(ms []*transport.Message, err error) error {
	outcomes := make([]transport.Outcome, max(1, len(ms)))
	for i := range outcomes {
		outcomes[i] = refuse(err)
	}
	return &transport.PublishError{Outcomes: outcomes}
}

// publish stores one event, or says why not.
func (t *Transport) publish(ctx context.Context, m *transport.Message) transport.Outcome {
	if err := t.checkEvent(m); err != nil {
		return refuse(err)
	}
	e := t.newEntry(m)
	var id fingerprint // the zero one is of an event that is not remembered
	if t.dedup.applies(m) {
		id = t.dedup.print(m)
	}
	var woken [8]*waiter
	t.mu.Lock()
	now := t.now()
	o, ok := t.admit(ctx, id, &now)
	ws := woken[:0]
	if ok {
		if id != (fingerprint{}) {
			t.dedup.remember(id, now)
		}
		t.log.reserve()
		if e.msg.SentAt.IsZero() {
			e.msg.SentAt = t.epoch.Add(now)
		}
		if wait := untilDue(m); wait > 0 {
			now = t.now() // read after wait: never early
			t.scheduled.add(after(now, wait), e)
			t.due.setFor(after(now, wait), now)
		} else {
			t.log.append(e, now)
			ws = t.route(e, ws)
		}
	}
	ws = t.wakeBlocked(ws)
	lapses := t.lapses
	t.lapses = 0
	t.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
	if lapses > 0 {
		t.warnLapses(ctx, m.To.Name, lapses)
	}
	return o
}

func (t *Transport) checkEvent(m *transport.Message) error {
	if m == nil {
		return fmt.Errorf("nil message: %w", transport.ErrInvalid)
	}
	if err := checkName(m.To.Name); err != nil {
		return err
	}
	if m.To.Group != "" {
		if err := checkGroup(m.To.Group); err != nil {
			return err
		}
	}
	return t.checkBody(m)
}

// admit waits until there is room for one more. It is false if the event is not
// to be stored, with the outcome.
func (t *Transport) admit(ctx context.Context, id fingerprint, now *time.Duration) (o transport.Outcome, ok bool) {
	for {
		switch {
		case t.closed:
			return refuse(transport.ErrClosed), false
		case id != (fingerprint{}) && t.dedup.known(id, *now):
			return transport.Outcome{Status: transport.Duplicate}, false
		case t.log.room():
			return transport.Outcome{Status: transport.Stored}, true
		case ctx.Err() != nil:
			return refuse(&transport.BacklogError{Group: t.slowest(), Limit: t.log.limit}), false
		}
		t.blocked.wait(ctx, &t.mu, nil)
		*now = t.now()
	}
}

// untilDue is how long m is still to wait, be it that it has waited for room.
func untilDue(m *transport.Message) time.Duration {
	if m.DeliverAt.IsZero() {
		return 0
	}
	return time.Until(m.DeliverAt)
}

// wakeBlocked wakes a publisher if there is room. Each that leaves wakes the
// next, since it may have used less room than it was woken for: none if it was a
// duplicate, or if nobody reads its event.
func (t *Transport) wakeBlocked(ws []*waiter) []*waiter {
	if t.blocked.head != nil && t.log.room() {
		ws = append(ws, t.blocked.take())
	}
	return ws
}

// slowest is the group that is furthest behind.
func (t *Transport) slowest() string {
	group, most := "", 0
	for _, tp := range t.topics {
		for _, q := range tp.groups {
			if q.unsettled > most {
				group, most = q.group, q.unsettled
			}
		}
	}
	return group
}

// deliverDue appends the delayed events whose time has come.
func (t *Transport) deliverDue() {
	t.mu.Lock()
	t.due.set = false
	if t.closed {
		t.mu.Unlock()
		return
	}
	now := t.now()
	var ws []*waiter
	for e, ok := t.scheduled.take(now); ok; e, ok = t.scheduled.take(now) {
		t.log.append(e, now)
		ws = t.route(e, ws)
	}
	if at, ok := t.scheduled.first(); ok {
		t.due.setFor(at, now)
	}
	ws = t.wakeBlocked(ws)
	lapses := t.lapses
	t.lapses = 0
	t.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
	if lapses > 0 {
		t.warnLapses(context.Background(), "", lapses)
	}
}

func (t *Transport) warnLapses(ctx context.Context, name string, readers int) {
	t.cfg.Logger.WarnContext(ctx, "private readers too slow, dropping their oldest events",
		"name", name, "readers", readers, "limit", t.cfg.MaxPrivate)
}
