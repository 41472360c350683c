package bus

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/resilience"
)

// circuit is a running resilience.Breaker. What passes a closed one costs a load of
// one word; only failures take the lock.
type circuit struct {
	resilience.Breaker
	// tell is told of each change, one at a time and in order, and never with a
	// lock held: it may ask the circuit.
	tell func(change)

	// word is the generation, which each change of state begins anew, with the
	// state in its last two bits.
	word    atomic.Uint64
	refused atomic.Int64 // in all

	mu        sync.Mutex
	failures  []mishap  // that count, the oldest first
	since     time.Time // of the state
	until     time.Time // how long it stays open
	opened    int64     // how often
	successes int       // of probes, since half-open
	probes    uint64    // that were let through, ever
	probe     uint64    // the one that the next waits for; 0 for none
	patience  time.Time // until when
	untold    []change
	telling   bool
}

// mishap is a failure that counts. of, if not "", is of what: that counts once.
type mishap struct {
	at time.Time
	of string
}

// change is one change of state.
type change struct {
	from, to resilience.BreakerState
	at       time.Time
	failures int       // that opened it
	until    time.Time // how long it stays open
}

// outcome is what became of something that passed a circuit.
type outcome uint8

const (
	// neutral says nothing of what is behind the circuit.
	neutral outcome = iota
	succeeded
	failed
)

// maxUntoldChanges bounds the changes that wait to be told, when telling takes long.
const maxUntoldChanges = 64

func newCircuit(b resilience.Breaker, tell func(change)) *circuit {
	return &circuit{Breaker: b.WithDefaults(), tell: tell, since: time.Now()}
}

// permit lets one thing pass. Who gets one calls done once.
type permit struct {
	c     *circuit
	word  uint64
	probe uint64 // 0 in a closed circuit
}

func stateOf(word uint64) resilience.BreakerState { return resilience.BreakerState(word & 3) }

// enter asks to pass. Refused, it tells for how long surely, 0 if that is not known:
// a probe is out.
func (c *circuit) enter() (p permit, wait time.Duration, ok bool) {
	if w := c.word.Load(); stateOf(w) == resilience.BreakerClosed {
		return permit{c: c, word: w}, 0, true
	}
	c.mu.Lock()
	defer c.unlock()
	now := time.Now()
	switch c.recover(now) {
	case resilience.BreakerOpen:
		c.refused.Add(1)
		return permit{}, c.until.Sub(now), false
	case resilience.BreakerHalfOpen:
		if c.probe != 0 && now.Before(c.patience) {
			c.refused.Add(1)
			return permit{}, 0, false
		}
		c.probes++
		c.probe, c.patience = c.probes, now.Add(c.ProbeTimeout)
	}
	return permit{c: c, word: c.word.Load(), probe: c.probe}, 0, true
}

// current reports whether the circuit has not changed since: what has not begun by
// then is not to begin.
func (p *permit) current() bool { return p.word == p.c.word.Load() }

// done tells what became of what passed. What passed in an earlier state counts no
// more. of says of what it was, if that is to count once.
func (p *permit) done(o outcome, of string) {
	c := p.c
	if p.probe == 0 && o != failed || c.FailureThreshold == resilience.NeverOpens {
		return
	}
	c.mu.Lock()
	defer c.unlock()
	if !p.current() {
		return
	}
	if p.probe == 0 {
		c.fail(of)
		return
	}
	if p.probe == c.probe {
		c.probe = 0
	}
	switch o {
	case failed:
		c.open(time.Now(), 1)
	case succeeded:
		if c.successes++; c.successes >= c.SuccessThreshold {
			c.enterState(resilience.BreakerClosed, time.Now(), change{})
		}
	}
}

// fail counts a failure of a closed circuit. c.mu is held.
func (c *circuit) fail(of string) {
	now := time.Now()
	c.failures = slices.DeleteFunc(c.failures, func(f mishap) bool {
		return now.Sub(f.at) >= c.Window || of != "" && f.of == of
	})
	c.failures = append(c.failures, mishap{now, of})
	if len(c.failures) >= c.FailureThreshold {
		c.open(now, len(c.failures))
	}
}

// open opens it. c.mu is held.
func (c *circuit) open(now time.Time, failures int) {
	c.until = now.Add(c.Recovery)
	c.opened++
	c.enterState(resilience.BreakerOpen, now, change{failures: failures, until: c.until})
}

// recover makes an open circuit half-open when its time has come, and returns the
// state. c.mu is held.
func (c *circuit) recover(now time.Time) resilience.BreakerState {
	state := stateOf(c.word.Load())
	if state == resilience.BreakerOpen && !now.Before(c.until) {
		c.enterState(resilience.BreakerHalfOpen, now, change{})
		return resilience.BreakerHalfOpen
	}
	return state
}

// enterState begins a state. c.mu is held.
func (c *circuit) enterState(to resilience.BreakerState, now time.Time, ch change) {
	w := c.word.Load()
	c.word.Store((w>>2+1)<<2 | uint64(to))
	c.failures, c.successes, c.probe, c.since = nil, 0, 0, now
	ch.from, ch.to, ch.at = stateOf(w), to, now
	if len(c.untold) == maxUntoldChanges {
		c.untold = c.untold[1:]
	}
	c.untold = append(c.untold, ch)
}

// unlock gives c.mu back and tells what has changed, unless somebody does already.
func (c *circuit) unlock() {
	defer c.mu.Unlock()
	if c.telling {
		return
	}
	c.telling = true
	for len(c.untold) > 0 {
		ch := c.untold[0]
		c.untold = c.untold[1:]
		c.mu.Unlock()
		c.tell(ch)
		c.mu.Lock()
	}
	c.telling = false
}

// state returns the state, and for how long it stays open.
func (c *circuit) state() (s resilience.BreakerState, remaining time.Duration) {
	if s = stateOf(c.word.Load()); s == resilience.BreakerClosed {
		return s, 0
	}
	c.mu.Lock()
	defer c.unlock()
	now := time.Now()
	if s = c.recover(now); s == resilience.BreakerOpen {
		remaining = c.until.Sub(now)
	}
	return s, remaining
}

// fill tells how it stands.
func (c *circuit) fill(s *BreakerStats) {
	c.mu.Lock()
	defer c.unlock()
	now := time.Now()
	s.State = c.recover(now)
	for _, f := range c.failures {
		if now.Sub(f.at) < c.Window {
			s.Failures++
		}
	}
	s.Successes, s.Opened, s.Refused, s.Since = c.successes, c.opened, c.refused.Load(), c.since
	if s.State == resilience.BreakerOpen {
		s.Remaining = c.until.Sub(now)
	}
}

// free reports whether a half-open circuit would let a probe through, and else for
// how long it surely waits for the one that is out.
func (c *circuit) free() (free bool, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait = time.Until(c.patience)
	return c.probe == 0 || wait <= 0, wait
}

// closedPermit lets one thing pass if the circuit is closed, and else nothing.
func (c *circuit) closedPermit() permit {
	if w := c.word.Load(); stateOf(w) == resilience.BreakerClosed {
		return permit{c: c, word: w}
	}
	return c.none()
}

// none is a permit that lets nothing pass.
func (c *circuit) none() permit { return permit{c: c, word: never} }

const never = ^uint64(0) // no generation gets so far
