package resilience

import (
	"sync"
	"time"
)

const (
	firstRate, leastRate, mostRate = 100.0, 10.0, 1e7 // a second
	// seenLeast is how many observations make a period.
	seenLeast = 8
)

// AIMD is a rate limiter that finds its rate: as fast as whoever does the work keeps
// up with. It is told of lags, which are how long work waited until it was begun.
// It knows how many turns it gave meanwhile, so a lag tells what is queued, and two
// of them what was done in between; from that it knows how long work will wait that
// is let in now, and need not wait itself until that shows.
//
// It decides once in a period, which is as long as the target, and longer when
// little happens. Above the target the rate becomes nine tenths of what is done,
// above twice the target eight, and so on down to a half; back below it, what is
// done. From a quarter of the target on a fiftieth is added in each period, and below
// that a fiftieth, two, four and so on up to a half, as long as somebody has to wait
// for the limiter. It begins with 100 turns a second and stays between 10 and 10
// million.
//
// Make one with NewAIMD. It is safe for concurrent use.
type AIMD struct {
	target time.Duration

	mu   sync.Mutex
	rate float64
	step float64 // what is added
	done float64 // a second, while there was always something to do
	over bool    // the lag is above the target
	turns
	work   moment    // when the work was let in that was looked at last
	workAt time.Time // and when it was begun

	// Of this period.
	lag              time.Duration // the longest
	lagAt            time.Time
	seen             int
	refused, limited bool
}

// NewAIMD returns a limiter that keeps the lag near the target, which must be
// positive: several times as long as one piece of work takes where one is done after
// the other, and no less than the pauses that are normal.
func NewAIMD(target time.Duration) *AIMD {
	l := &AIMD{target: target, rate: firstRate, step: firstRate / 2}
	l.work = l.mark(time.Now())
	l.workAt = l.work.at
	return l
}

// Rate returns how many turns a second there are now.
func (l *AIMD) Rate() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rate
}

// Observe takes the lag of work that has just begun.
func (l *AIMD) Observe(lag time.Duration) { l.note(lag, false) }

// Refuse notes that work was refused because there is too much of it: the rate
// becomes seven tenths, once in a period.
func (l *AIMD) Refuse() { l.note(0, true) }

func (l *AIMD) note(lag time.Duration, refused bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen++
	l.refused = l.refused || refused
	if lag >= l.lag {
		l.lag, l.lagAt = lag, now
	}
	lasted := now.Sub(l.began())
	if lasted < l.target || l.seen < seenLeast && lasted < 10*l.target {
		return
	}
	work := l.given(l.lagAt.Add(-l.lag), now)
	span := l.lagAt.Sub(l.workAt)
	done := (work.turns - l.work.turns) / max(span.Seconds(), 1e-9)
	switch {
	case l.lag < l.target/4, span < lasted/2 && l.done > 0:
		// There is not always something to do, or this is too short to tell.
	case done < l.done/2 || done > l.done*2: // it is not what it was
		l.done = done
	default:
		l.done += (done - l.done) / 4 // what is done in one period varies
	}
	ahead := time.Duration((l.total - work.turns) / max(l.done, 1) * float64(time.Second))
	if l.lag < l.target/4 {
		ahead = l.lag
	}
	switch {
	case l.refused:
		l.rate *= 0.7
	case ahead > l.target:
		l.rate = l.done * max(0.5, 1-0.1*float64(ahead/l.target))
		l.over = true
	case l.over:
		l.rate, l.step, l.over = l.done, l.done/50, false
	case !l.limited:
	case ahead > l.target/4:
		l.step = l.rate / 50
		l.rate += l.step
	default:
		l.rate += l.step
		l.step = min(2*l.step, l.rate/2)
	}
	l.rate = min(max(l.rate, leastRate), mostRate)
	l.mark(now)
	l.work, l.workAt = work, l.lagAt
	l.lag, l.seen, l.refused, l.limited = 0, 0, false, false
}
