package resilience

import (
	"context"
	"errors"
	"time"
)

// ErrLimited is what AIMD.Wait returns, joined with the context's error: the turn
// comes after the deadline, or the wait for it was cancelled.
var ErrLimited = errors.New("rate limited")

// makeUp is how much of a wait that lasted too long is made up for.
const makeUp = 10 * time.Millisecond

// makeDue is how far turns that are taken without waiting put off the others.
const makeDue = time.Second

// Wait waits for n turns, which come one after the other, and returns how long it
// had to. If they come after the deadline of ctx it returns ErrLimited at once and
// takes none.
func (l *AIMD) Wait(ctx context.Context, n int) (waited time.Duration, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp(now)
	wait := l.next.Sub(now)
	l.limited = l.limited || wait > 0
	if deadline, ok := ctx.Deadline(); ok && wait > 0 && deadline.Before(l.next) {
		return 0, errors.Join(ErrLimited, context.DeadlineExceeded)
	}
	l.next = l.next.Add(l.takes(n))
	if wait > 0 {
		l.waiting++
		l.mu.Unlock()
		err := pause(ctx, wait)
		l.mu.Lock()
		l.waiting--
		if err != nil {
			return wait, errors.Join(ErrLimited, err)
		}
	}
	l.total += float64(n)
	return max(wait, 0), nil
}

// Take takes n turns at once, for work that cannot wait. Those who wait come after
// it, up to a second later.
func (l *AIMD) Take(n int) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp(now)
	l.next = l.next.Add(min(l.takes(n), max(0, now.Add(makeDue).Sub(l.next))))
	l.total += float64(n)
}

// Waiting returns how many wait for their turns.
func (l *AIMD) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// catchUp leaves no more turns to be had at once than in makeUp.
func (l *AIMD) catchUp(now time.Time) {
	if earliest := now.Add(-makeUp); l.next.Before(earliest) {
		l.next = earliest
	}
}

// takes is how long n turns take.
func (l *AIMD) takes(n int) time.Duration {
	return time.Duration(float64(n) / l.rate * float64(time.Second))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// turns counts the turns that were given, and knows when.
type turns struct {
	next    time.Time // when the next one is due
	waiting int
	total   float64
	marks   int         // ever made
	past    [256]moment // the last of them, in a ring
}

// moment is how many turns had been given at a time.
type moment struct {
	at    time.Time
	turns float64
}

// mark notes how many turns were given until now.
func (t *turns) mark(now time.Time) moment {
	m := moment{now, t.total}
	t.past[t.marks%len(t.past)] = m
	t.marks++
	return m
}

// began is when the last mark was made.
func (t *turns) began() time.Time { return t.past[(t.marks-1)%len(t.past)].at }

// given is how many turns had been given at a time, as far back as is known. Between
// two marks they are taken to be even.
func (t *turns) given(at, now time.Time) moment {
	later := moment{now, t.total}
	for i := 1; i <= min(t.marks, len(t.past)); i++ {
		m := t.past[(t.marks-i)%len(t.past)]
		if !m.at.After(at) {
			share := at.Sub(m.at).Seconds() / max(later.at.Sub(m.at).Seconds(), 1e-9)
			return moment{at, m.turns + share*(later.turns-m.turns)}
		}
		later = m
	}
	return later
}
