package bus

import (
	"errors"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/resilience"
)

// A command is retried where it runs. Its caller waits for the answer, which a copy
// in the broker could not give. What waits for its retry keeps its place among those
// that the handler runs at once, so that what waits is bounded too.

// running is a command on its way through the runs of its handler.
type running struct {
	k      *call // of the last run
	result any
	err    error
	first  time.Time // the first failure; zero without a policy
	ending ending
	logged bool   // the log has err already
	late   func() // to be called after the answer, if there is anything left to do

	mu      sync.Mutex    // guards the change of k, for abort
	aborted chan struct{} // closed by abort; nil if nobody calls it
}

// ending is why a command that failed is not run again.
type ending uint8

const (
	endFinal   ending = iota // no retry mends it, or there is no policy
	endSpent                 // its attempts are over, or its time
	endStopped               // the bus or the session closes, or has lost its lease
)

// handleAll runs the handler until it succeeds or is not to be run again.
func (h *commandHandler) handleAll(r *running, v any) {
	for {
		r.err = errGoexit // unless the handler returns
		r.result, r.err = h.handle(r.k, v)
		if r.err == nil || h.retry == nil {
			return
		}
		delay, again := h.next(r)
		if !again {
			return
		}
		h.scope.bus.logRetry(r.k, r.err, verdict{delay: delay})
		h.step(StageRetrying, r, v, delay)
		r.k.end()
		h.slots.rest(r.k)
		if !h.pause(r, delay) {
			r.ending, r.logged = endStopped, true
			h.step(StageReturned, r, v, 0)
			return
		}
		r.mu.Lock()
		r.k = r.k.again()
		r.mu.Unlock()
		h.slots.enter(r.k, r.k.place)
	}
}

// abort cancels the run that is under way, and lets no other begin.
func (r *running) abort(cause error) {
	close(r.aborted)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.k.abort(cause)
}

func (r *running) isAborted() bool {
	select {
	case <-r.aborted:
		return true
	default:
		return false
	}
}

// next decides on another run, and how long it waits.
func (h *commandHandler) next(r *running) (delay time.Duration, again bool) {
	now := time.Now()
	if r.first.IsZero() {
		r.first = now
	}
	if !h.mendable(r.k, r.err) {
		r.ending = endFinal
		return 0, false
	}
	if h.isStopping() || r.isAborted() {
		r.ending = endStopped
		return 0, false
	}
	deadline, ok := r.k.Deadline()
	if !ok { // another program's caller, who waits for as long as ours do
		deadline = r.first.Add(h.scope.bus.cfg.ExecuteTimeout)
	}
	delay, again = retryDelay(r.err, int(r.k.attempt), h.retry, now.Sub(r.first))
	if !again || !now.Add(delay).Before(deadline) {
		r.ending = endSpent
		return 0, false
	}
	return delay, true
}

// mendable reports whether another run may mend a failure. What a handler means for
// its caller is an answer, and the end of the caller's time is no failure of it.
func (h *commandHandler) mendable(k *call, err error) bool {
	retry := h.retry
	if retry == nil {
		retry = &resilience.Retry{}
	}
	if IsPermanent(err) || retry.IsFinal(err) {
		return false
	}
	if panicked(err) != nil {
		return true
	}
	code := CodeOf(err)
	if refused(err) || code == CodeInvalid || code == CodeTimeout && k.expired() || h.scope.bus.registered(err) != "" {
		return false
	}
	var e *Error
	if !errors.As(err, &e) {
		return true
	}
	chosen := e.Op == "" && e.Code != CodeFailed && e.Code != CodePanic && e.Code.handlers()
	return !chosen && e.Wire == "" && !e.permanent
}

// pause waits before a run, and reports whether it may begin.
func (h *commandHandler) pause(r *running, d time.Duration) bool {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-h.stopping:
		case <-h.scope.work.Done():
		case <-r.aborted:
		}
	}
	return !h.isStopping() && !r.isAborted()
}

// stopRetries ends the waits for a retry, and lets none begin. It may be called again.
func (h *commandHandler) stopRetries() { h.stopOnce.Do(func() { close(h.stopping) }) }

// stopRetries ends the waits of every command of the scope.
func (s *scope) stopRetries() {
	for _, h := range s.handlers() {
		h.stopRetries()
	}
}

func (h *commandHandler) isStopping() bool {
	select {
	case <-h.stopping:
		return true
	default:
		return h.scope.work.Err() != nil || h.scope.expired("", "") != nil
	}
}

// step counts a step of a command outside its handler, and tells of it.
func (h *commandHandler) step(stage Stage, r *running, v any, delay time.Duration) {
	h.tally.step(stage, delay)
	if b := h.scope.bus; b.observed() {
		rec := r.k.record(stage, v, r.err)
		rec.Delay = delay
		b.observe(rec)
	}
}

// again is the call of the next run of the same message.
func (c *call) again() *call {
	return &call{
		lazyContext: lazyContext{parent: c.parent, deadline: c.deadline, caused: c.caused, place: c.place},
		who:         c.who, from: c.from, msgID: c.id(), attempt: c.attempt + 1,
	}
}
