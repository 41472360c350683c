package memory

import (
	"slices"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// topic is who reads one event name. The transport's lock guards it.
type topic struct {
	groups   map[string]*queue   // those that exist, or were written to
	joined   []*queue            // the groups that have been subscribed
	private  []*queue            // private readers of all sessions
	sessions map[string][]*queue // private readers of one session
}

func (t *Transport) topic(name string) *topic {
	tp := t.topics[name]
	if tp == nil {
		tp = &topic{groups: map[string]*queue{}, sessions: map[string][]*queue{}}
		t.topics[name] = tp
	}
	return tp
}

// group returns a group's queue. One that nobody has subscribed yet gets what
// is addressed to it, and no other event.
func (t *Transport) group(name, group string) *queue {
	tp := t.topic(name)
	q := tp.groups[group]
	if q == nil {
		q = newQueue(t, group)
		tp.groups[group] = q
	}
	return q
}

// route gives a stored event to its readers. It appends whom to wake to ws.
func (t *Transport) route(e *entry, ws []*waiter) []*waiter {
	to := &e.msg.To
	if to.Group != "" {
		ws = t.group(to.Name, to.Group).add(e, ws)
	} else if tp := t.topics[to.Name]; tp != nil {
		for _, q := range tp.joined {
			ws = q.add(e, ws)
		}
		for _, q := range tp.private {
			ws = q.add(e, ws)
		}
		if len(tp.sessions) > 0 {
			for _, q := range tp.sessions[to.Session] {
				ws = q.add(e, ws)
			}
		}
	}
	if e.refs == 0 {
		t.log.settle(e)
	}
	return ws
}

// join makes a group part of its topic, and gives it the history it starts at.
func (t *Transport) join(name string, q *queue, s transport.Start) {
	q.joined = true
	tp := t.topic(name)
	tp.joined = append(tp.joined, q)
	if !s.All && s.Since.IsZero() {
		return
	}
	since := time.Duration(0)
	if !s.All {
		since = s.Since.Sub(t.epoch)
	}
	for e := t.log.head; e != nil; e = e.next {
		if e.msg.To.Name == name && e.msg.To.Group == "" && e.at >= since {
			t.log.hold(e)
			q.fresh.push(copied{e, 1})
			q.unsettled++
		}
	}
}

// readPrivately adds a private reader.
func (tp *topic) readPrivately(q *queue, session string) {
	if session == "" {
		tp.private = append(tp.private, q)
	} else {
		tp.sessions[session] = append(tp.sessions[session], q)
	}
}

// forget removes a private reader.
func (tp *topic) forget(q *queue, session string) {
	is := func(x *queue) bool { return x == q }
	if session == "" {
		tp.private = slices.DeleteFunc(tp.private, is)
	} else if left := slices.DeleteFunc(tp.sessions[session], is); len(left) > 0 {
		tp.sessions[session] = left
	} else {
		delete(tp.sessions, session)
	}
}

// close stops the readers and appends whom to wake to ws.
func (tp *topic) close(ws []*waiter) []*waiter {
	stop := func(q *queue) {
		q.alarm.stop()
		q.endCatchUps()
		ws = q.waiting.takeAll(nil, ws...)
	}
	for _, q := range tp.groups {
		stop(q)
	}
	for _, q := range tp.private {
		stop(q)
	}
	for _, qs := range tp.sessions {
		for _, q := range qs {
			stop(q)
		}
	}
	return ws
}
