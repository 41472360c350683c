package memory

import (
	"context"
	"sync"
)

// waiter is a goroutine that waits for a signal. It is off its list before it
// is signalled, so it is signalled once.
type waiter struct {
	c          chan struct{}
	owner      any
	prev, next *waiter
	listed     bool
}

// signal wakes w. Call it without the lock: w's goroutine wants it next.
func (w *waiter) signal() { w.c <- struct{}{} }

// waitList is who waits for one thing, first come first. Its owner's lock
// guards it.
type waitList struct {
	head, tail *waiter
	idle       *waiter // to be used again, linked by next
}

// wait waits for a signal or the end of ctx. mu is held before and after, not
// meanwhile. signalled is true also if ctx ended at the same time: then the
// signal was meant for whoever can use it.
func (l *waitList) wait(ctx context.Context, mu *sync.Mutex, owner any) (signalled bool) {
	w := l.idle
	if w == nil {
		w = &waiter{c: make(chan struct{}, 1)}
	} else {
		l.idle = w.next
	}
	w.owner = owner
	l.push(w)
	mu.Unlock()
	if done := ctx.Done(); done == nil {
		<-w.c
		signalled = true
	} else {
		select {
		case <-w.c:
			signalled = true
		case <-done:
		}
	}
	mu.Lock()
	if !signalled {
		if w.listed {
			l.remove(w)
		} else {
			<-w.c // on its way: who took w off the list needs no lock to send it
			signalled = true
		}
	}
	w.owner, w.prev, w.next = nil, nil, l.idle
	l.idle = w
	return signalled
}

// take takes the first waiter off the list; nil: there is none.
func (l *waitList) take() *waiter {
	w := l.head
	if w != nil {
		l.remove(w)
	}
	return w
}

// takeAll takes off all waiters of owner, or all for nil, and appends them to
// ws.
func (l *waitList) takeAll(owner any, ws ...*waiter) []*waiter {
	for w := l.head; w != nil; {
		next := w.next
		if owner == nil || w.owner == owner {
			l.remove(w)
			ws = append(ws, w)
		}
		w = next
	}
	return ws
}

func (l *waitList) push(w *waiter) {
	w.listed, w.prev, w.next = true, l.tail, nil
	if l.tail == nil {
		l.head = w
	} else {
		l.tail.next = w
	}
	l.tail = w
}

func (l *waitList) remove(w *waiter) {
	if w.prev == nil {
		l.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.listed, w.prev, w.next = false, nil, nil
}
