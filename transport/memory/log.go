package memory

import (
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// entry is one event of the log. Its message does not change.
type entry struct {
	msg *transport.Message
	seq uint64
	at  time.Duration // when it was stored

	prev, next *entry // the log, in order of seq
	settled    *entry // the next in order of settling
	isSettled  bool   // it is in that list

	taken bool     // first is
	refs  int32    // groups that have not settled it
	first delivery // the first copy handed out, in the same piece of memory
}

// newEntry makes an entry of m. A Fresh message is its own, as the seam allows: its
// sender does not look at it again. Of another it has a copy.
func (t *Transport) newEntry(m *transport.Message) *entry {
	if m.Fresh && t.cfg.Codec == nil {
		return &entry{msg: m}
	}
	c := &struct { // one allocation for both
		entry
		copy transport.Message
	}{}
	c.msg = &c.copy
	t.carry(c.msg, m)
	return &c.entry
}

// log is the bounded list of events. An entry that no group is to settle is
// history: it makes room when room is needed.
type log struct {
	limit      int
	maxHistory int
	seq        uint64
	count      int // entries, and what is scheduled
	history    int // entries without refs
	head, tail *entry
	oldest     *entry // of the settled
	newest     *entry
}

// room reports whether one more event can be stored.
func (l *log) room() bool { return l.count < l.limit || l.history > 0 }

// reserve counts one more event, after making room for it if need be.
func (l *log) reserve() {
	for l.count >= l.limit {
		l.forget()
	}
	l.count++
}

// forget drops the longest settled entry.
func (l *log) forget() {
	e := l.oldest
	l.oldest = e.settled
	if l.oldest == nil {
		l.newest = nil
	}
	e.settled, e.isSettled = nil, false
	if e.refs == 0 { // not taken up again by a group that started late
		l.remove(e)
		l.history--
		l.count--
	}
}

// append puts a reserved event at the end.
func (l *log) append(e *entry, at time.Duration) {
	l.seq++
	e.seq, e.at, e.prev = l.seq, at, l.tail
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.next = e
	}
	l.tail = e
}

// settle makes e history.
func (l *log) settle(e *entry) {
	l.history++
	if !e.isSettled {
		e.isSettled = true
		if l.newest == nil {
			l.oldest = e
		} else {
			l.newest.settled = e
		}
		l.newest = e
	}
	for l.history > l.maxHistory {
		l.forget()
	}
}

// hold counts one more group that is to settle e, which is in the log.
func (l *log) hold(e *entry) {
	if e.refs == 0 {
		l.history--
	}
	e.refs++
}

func (l *log) remove(e *entry) {
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}
