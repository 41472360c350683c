package bustest

import (
	"fmt"
	"time"
)

const (
	// realTimeout and fakeTimeout are the defaults of WithTimeout.
	realTimeout = time.Minute
	fakeTimeout = 24 * time.Hour
	// beforeDeadline is what is left of the time of go test -timeout, to say why.
	beforeDeadline = 5 * time.Second
)

// Wait waits until the harness is quiet: every event that was stored for a group
// or a private listener of the harness is settled for good, every one that
// PublishAsync has queued is stored or has failed, every command has its reply and its
// handler has returned, also if its caller gave up, and every Go has returned, with
// all that these have sent in turn. Retries count: their waits pass, which in a
// bubble of fake time costs nothing. It returns at once when there is nothing.
//
// It is not waited for events that nobody of the harness reads, for those that are
// delayed (WithDelay, WithAt) until they are due, and for goroutines other than
// those of handlers and of Go. If it takes longer than WithTimeout says, the test
// fails at once, with what is still on its way and the timeline: call it from the
// test's goroutine, and not from a handler.
func (h *Harness) Wait() {
	h.t.Helper()
	if err := h.settle(); err != nil {
		h.t.Fatalf("bustest: %v%s", err, h.report())
	}
}

// settle waits until the harness is quiet.
func (h *Harness) settle() error {
	limit := h.timeout()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		busy, moved := h.ledger.look()
		if !busy {
			return nil
		}
		select {
		case <-moved:
		case <-timeout.C:
			return fmt.Errorf("not quiet after %v", limit)
		}
	}
}

// timeout is how long settle may take now.
func (h *Harness) timeout() time.Duration {
	d := h.set.timeout
	switch {
	case d > 0:
	case h.bubble:
		d = fakeTimeout
	default:
		d = realTimeout
	}
	if t, ok := h.t.(interface{ Deadline() (time.Time, bool) }); ok && !h.bubble {
		if end, ok := t.Deadline(); ok {
			d = min(d, max(time.Until(end)-beforeDeadline, time.Second))
		}
	}
	return d
}

// Advance lets d of fake time pass, as all timers see it, and waits until what
// came due in it is handled. It needs a bubble: see Run.
func (h *Harness) Advance(d time.Duration) {
	h.t.Helper()
	if !h.bubble {
		h.t.Fatalf("bustest: Advance(%v) needs fake time: use Run instead of New", d)
	}
	time.Sleep(d)
	h.Wait()
}

// routine is a goroutine that was started with Go.
type routine struct{ where string }

// Go runs f on a goroutine that Wait waits for, and that must have returned when
// the test ends.
func (h *Harness) Go(f func()) {
	r := &routine{where: caller(2)}
	h.mu.Lock()
	h.routines[r] = struct{}{}
	h.mu.Unlock()
	end := h.ledger.begin("goroutine of " + r.where)
	go func() {
		defer func() {
			h.mu.Lock()
			delete(h.routines, r)
			h.mu.Unlock()
			end()
		}()
		f()
	}()
}
