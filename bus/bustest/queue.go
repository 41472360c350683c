package bustest

import (
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// topic is who reads one event name.
type topic struct {
	name    string
	groups  map[string]*queue
	private map[string]map[*queue]struct{} // by session; "" reads them all
	ids     map[identity]*stored
	stored  []*stored // for groups that begin with what is there
}

// queue is what one group, or one private reader, is still to settle. ledger.mu
// guards it.
type queue struct {
	topic          *topic
	group, session string
	private        bool
	joined         time.Time // when it was first subscribed; zero for a group that never was
	readers        int       // sources that are open

	copies map[copyKey]*copies
	total  int // of all copies
	inHand int // those of them that were handed out
	counts int // its part of ledger.open
}

// copyKey is what an event is known by when it is handed out. What is addressed to
// one group may have the id of an event for all.
type copyKey struct {
	session, id string
	addressed   bool
}

// copies is how often an event is still to be settled: more than once if it has no
// id, or if its id was used again after the dedup window.
type copies struct {
	n   int
	out map[*delivery]struct{} // handed out and not settled
}

// topic returns the topic of a name. l.mu is held.
func (l *ledger) topic(name string) *topic {
	t := l.topics[name]
	if t == nil {
		t = &topic{name: name, groups: map[string]*queue{}, private: map[string]map[*queue]struct{}{}, ids: map[identity]*stored{}}
		l.topics[name] = t
	}
	return t
}

func (t *topic) group(group string) *queue {
	q := t.groups[group]
	if q == nil {
		q = &queue{topic: t, group: group, copies: map[copyKey]*copies{}}
		t.groups[group] = q
	}
	return q
}

// join enters a reader that a driver has opened; before is the version when it was
// asked to.
func (l *ledger) join(s transport.Subscription, before uint64) *queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.ripen(now)
	t := l.topic(s.Name)
	if s.Group == "" {
		q := &queue{topic: t, private: true, session: s.Session, joined: now, readers: 1, copies: map[copyKey]*copies{}}
		if t.private[s.Session] == nil {
			t.private[s.Session] = map[*queue]struct{}{}
		}
		t.private[s.Session][q] = struct{}{}
		l.step()
		return q
	}
	q := t.group(s.Group)
	q.readers++
	if q.joined.IsZero() {
		q.joined = now
		l.catchUp(q, s.Start, before)
	}
	l.weigh(q)
	return q
}

// catchUp enters the events that a new group begins with.
func (l *ledger) catchUp(q *queue, start transport.Start, before uint64) {
	if !start.All && start.Since.IsZero() {
		return
	}
	for _, e := range q.topic.stored {
		from := e.began
		if !e.due.IsZero() {
			from = e.due
		}
		if e.withdrawn || e.waiting || e.done == 0 || e.done > before || !start.All && from.Before(start.Since) {
			continue
		}
		l.change(q, e.key(), func(c *copies) { c.n++ })
	}
}

// leave removes a reader whose source has closed. A private one takes with it what
// it had not settled.
func (l *ledger) leave(q *queue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q.readers--
	if q.private {
		delete(q.topic.private[q.session], q)
		if len(q.topic.private[q.session]) == 0 {
			delete(q.topic.private, q.session)
		}
		q.total, q.inHand = 0, 0
		clear(q.copies)
	}
	l.weigh(q)
}

// handOut enters a delivery that a reader was given.
func (l *ledger) handOut(d *delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ripen(time.Now())
	if d.queue.gone() {
		return
	}
	l.change(d.queue, d.key, func(c *copies) {
		for o := range c.out {
			if d.Sequence() == o.Sequence() && d.Deliveries() > o.Deliveries() {
				delete(c.out, o) // its lease has ended
			}
		}
		c.n = max(c.n, len(c.out)+1)
		if c.out == nil {
			c.out = map[*delivery]struct{}{}
		}
		c.out[d] = struct{}{}
	})
}

// settle strikes out a delivery that is settled for good.
func (l *ledger) settle(d *delivery) { l.takeBack(d, 1) }

// giveBack notes that a delivery will come again.
func (l *ledger) giveBack(d *delivery) { l.takeBack(d, 0) }

func (l *ledger) takeBack(d *delivery, settled int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.queue.gone() {
		return
	}
	l.change(d.queue, d.key, func(c *copies) {
		if _, ok := c.out[d]; ok { // else its group has it again
			delete(c.out, d)
			c.n -= settled
		}
	})
}

// gone reports whether q is a private reader that has closed.
func (q *queue) gone() bool { return q.private && q.readers == 0 }

// change changes the copies of one event. l.mu is held.
func (l *ledger) change(q *queue, key copyKey, f func(*copies)) {
	c := q.copies[key]
	if c == nil {
		c = &copies{}
		q.copies[key] = c
	}
	q.total -= c.n
	q.inHand -= c.handedOut()
	f(c)
	q.total += c.n
	q.inHand += c.handedOut()
	if c.n == 0 {
		delete(q.copies, key)
	}
	l.weigh(q)
}

func (c *copies) handedOut() int { return min(c.n, len(c.out)) }

// weigh takes q's part of what is waited for anew: all of it while somebody reads
// it, else what is still in somebody's hands. l.mu is held.
func (l *ledger) weigh(q *queue) {
	counts := q.inHand
	if q.readers > 0 {
		counts = q.total
	}
	l.open += counts - q.counts
	q.counts = counts
	l.step()
}
