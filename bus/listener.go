package bus

import (
	"context"
	"sync"

	"github.com/jitney-bus/jitney/resilience"
)

// listener is one handler of an event.
type listener struct {
	who      *identity
	tally    *tally
	name     string // within its group
	priority int
	retry    resilience.Retry
	inner    func(context.Context, any) error // a panic is an error
	sieve    sieve
	batch    *batching     // it handles batches: inner takes a slice
	run      Func          // the receiving chain around inner; nil if there is none
	slots    chan struct{} // bounds what runs at once

	gone    chan struct{} // closed when it is closed: no run begins
	drained chan struct{} // closed when, after that, none runs any more
	once    sync.Once     // closes drained

	reg registered // for Describe
}

// handle runs the listener. A panic is an error.
func (l *listener) handle(k *call, v any) (err error) {
	if l.run != nil {
		_, err = l.run(k, k.message(v))
		return err
	}
	return l.inner(k, v)
}

// leave gives back a slot.
func (l *listener) leave() {
	<-l.slots
	if l.isGone() {
		l.drain()
	}
}

// goAway is called once: no run begins any more.
func (l *listener) goAway() {
	close(l.gone)
	l.drain()
}

func (l *listener) isGone() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// drain notices that nothing runs. Who has a slot after gone was closed gives it
// back unused, and comes here too.
func (l *listener) drain() {
	if l.isIdle() {
		l.once.Do(func() { close(l.drained) })
	}
}

func (l *listener) isIdle() bool { return len(l.slots) == 0 }
