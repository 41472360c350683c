package bustest

import (
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// question is a request from when it is sent to when its caller returns. One
// whose caller gave up before a server had taken it may still be on its way to
// one, and counts on until it is taken, or for as long as that may take.
type question struct {
	task          *task
	id            string
	taken, gaveUp bool
}

const onItsWay = time.Second

// isPublished follows the name of an event that is.
const isPublished = " is being published"

// ask enters a request that is about to be sent.
func (l *ledger) ask(m *transport.Message) *question {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := &question{task: l.run(m.To.Name + " is executed"), id: m.ID}
	l.questions[m.ID] = q
	return q
}

// answered strikes it out; lost says that its caller gave up.
func (l *ledger) answered(q *question, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lost && !q.taken {
		q.gaveUp = true
		time.AfterFunc(onItsWay, func() { l.answered(q, false) })
		return
	}
	if l.questions[q.id] == q {
		delete(l.questions, q.id)
	}
	l.finish(q.task)
}

// take counts a request that a server was given until end is called.
func (l *ledger) take(m *transport.Message) (end func()) {
	end = l.begin(m.To.Name + " is not answered")
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.questions[m.ID]; q != nil {
		q.taken = true
		if q.gaveUp {
			delete(l.questions, q.id)
			l.finish(q.task)
		}
	}
	return end
}

// send counts an event from when it enters the sending chain until the call that
// sent it is told of by sent, which for PublishAsync is when it has its result.
func (l *ledger) send(id, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sending[id] = append(l.sending[id], l.run(name+isPublished))
}

func (l *ledger) sent(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ts := l.sending[id]
	if len(ts) == 0 {
		return // refused before
	}
	l.finish(ts[0])
	if l.sending[id] = ts[1:]; len(ts) == 1 {
		delete(l.sending, id)
	}
}
