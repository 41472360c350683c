package bus

import (
	"sync"
	"sync/atomic"
)

// slots bounds what runs at once of a command, and knows what that is, so that a
// slow run is found without a clock, a lock or a timer of its own.
//
// A call that finds a free place takes it by writing itself there. Only while some
// wait are places handed on, in the order in which they came.
type slots struct {
	running []atomic.Pointer[call] // nil: free
	waiting atomic.Int32           // how many wait, or are about to
	handed  chan int32             // places for them, which are not free meanwhile
}

// resting stands in a place that is taken while nothing runs in it.
var resting = new(call)

func newSlots(n int) slots {
	return slots{running: make([]atomic.Pointer[call], n), handed: make(chan int32, n)}
}

// try takes a place for k if one is to be had at once.
func (s *slots) try(k *call) bool {
	if s.waiting.Load() == 0 && s.take(k) {
		return true
	}
	select {
	case i := <-s.handed: // for one who has given up meanwhile
		s.enter(k, i)
		return true
	default:
		return false
	}
}

// wait takes a place for k, or returns false when ended or late is closed first.
func (s *slots) wait(k *call, ended, late <-chan struct{}) bool {
	s.waiting.Add(1) // before the look, so that who frees a place after it hands it on
	defer s.waiting.Add(-1)
	if s.take(k) {
		return true
	}
	select {
	case i := <-s.handed:
		s.enter(k, i)
		return true
	case <-ended:
	case <-late:
	}
	return false
}

// take looks for a free place, first where this processor found its last one.
func (s *slots) take(k *call) bool {
	n := len(s.running)
	l := lanes.Get().(*lane)
	at := int(uint64(*l) * uint64(n) >> 32)
	lanes.Put(l)
	for range n {
		if s.running[at].Load() == nil && s.running[at].CompareAndSwap(nil, k) {
			k.place = int32(at)
			return true
		}
		if at++; at == n {
			at = 0
		}
	}
	return false
}

// enter notes that k runs in place i, which is taken.
func (s *slots) enter(k *call, i int32) {
	k.place = i
	s.running[i].Store(k)
}

// rest notes that nothing runs in k's place, which it keeps.
func (s *slots) rest(k *call) { s.running[k.place].Store(resting) }

// leave gives k's place back.
func (s *slots) leave(k *call) {
	i := k.place
	if s.waiting.Load() == 0 {
		s.running[i].Store(nil)
		if s.waiting.Load() == 0 || !s.running[i].CompareAndSwap(nil, resting) {
			return
		}
	} else {
		s.running[i].Store(resting)
	}
	s.handed <- i // there is room for all
}

func (s *slots) limit() int { return len(s.running) }

// taken is how many run.
func (s *slots) taken() int {
	n := 0
	for i := range s.running {
		if s.running[i].Load() != nil {
			n++
		}
	}
	return max(0, n-len(s.handed))
}

// each calls f with what runs.
func (s *slots) each(f func(*call)) {
	for i := range s.running {
		if k := s.running[i].Load(); k != nil && k != resting {
			f(k)
		}
	}
}

// lane is where a processor begins to look for a place, as a fraction of all: two at
// work at once would otherwise take the same cache line from each other.
type lane uint32

var (
	lanes = sync.Pool{New: func() any {
		l := lane(laneCount.Add(1) * 2_654_435_769) // by the golden ratio, so that any few lie apart
		return &l
	}}
	laneCount atomic.Uint32
)
