package memory

import "time"

// later holds values until their time, as a binary heap: the earliest first, in
// the order added where times are equal.
type later[T any] struct {
	items []timed[T]
	added uint64
}

type timed[T any] struct {
	at    time.Duration
	order uint64
	value T
}

func (x timed[T]) before(y timed[T]) bool {
	return x.at < y.at || x.at == y.at && x.order < y.order
}

func (l *later[T]) len() int { return len(l.items) }

func (l *later[T]) add(at time.Duration, v T) {
	l.added++
	l.items = append(l.items, timed[T]{at, l.added, v})
	for i := len(l.items) - 1; i > 0; {
		parent := (i - 1) / 2
		if !l.items[i].before(l.items[parent]) {
			break
		}
		l.items[i], l.items[parent] = l.items[parent], l.items[i]
		i = parent
	}
}

// first is the earliest time; ok is false if there is nothing.
func (l *later[T]) first() (at time.Duration, ok bool) {
	if len(l.items) == 0 {
		return 0, false
	}
	return l.items[0].at, true
}

// take removes the earliest value if it is due.
func (l *later[T]) take(now time.Duration) (v T, ok bool) {
	if len(l.items) == 0 || l.items[0].at > now {
		return v, false
	}
	v = l.items[0].value
	last := len(l.items) - 1
	l.items[0] = l.items[last]
	l.items[last] = timed[T]{}
	l.items = l.items[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < last; c++ {
			if l.items[c].before(l.items[least]) {
				least = c
			}
		}
		if least == i {
			return v, true
		}
		l.items[i], l.items[least] = l.items[least], l.items[i]
		i = least
	}
}
