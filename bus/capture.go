package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Capture says which failed commands are kept as dead letters. Whichever it is, never
// kept are those that their handler answered by design (an error of Config.Errors,
// Permanent, what the retry policy calls final, CodeInvalid), those whose caller's time
// had ended, those that did not run, and those that the end of the bus or the session
// has cut short.
type Capture uint8

const (
	// CaptureExhausted, the default, keeps those whose handler panicked, and those that
	// their retry policy has not mended, be it that their attempts are over or the time
	// of their caller. Without a policy a failure is its caller's to deal with, who has
	// the command and knows its error.
	CaptureExhausted Capture = iota
	// CaptureFailures keeps those without a retry policy as well.
	CaptureFailures
	// CaptureNone keeps none.
	CaptureNone
)

// String returns "exhausted", "failures" or "none".
func (c Capture) String() string {
	switch c {
	case CaptureExhausted:
		return "exhausted"
	case CaptureFailures:
		return "failures"
	case CaptureNone:
		return "none"
	default:
		return fmt.Sprintf("Capture(%d)", uint8(c))
	}
}

func (c Capture) check() error {
	if c > CaptureNone {
		return fmt.Errorf("%v is no Capture; use CaptureExhausted, CaptureFailures or CaptureNone", c)
	}
	return nil
}

// WithCapture says which failures of this handler become dead letters, instead of
// Config.Capture.
func WithCapture(c Capture) HandleOption {
	return handleOption(func(o *handleOptions) {
		if err := c.check(); err != nil {
			o.errs = append(o.errs, err)
		}
		o.capture = &c
	})
}

// captureWait is how long the answer to a command waits at most for its dead letter;
// it never takes more than half of the time that its caller has left.
const captureWait = time.Second

// capturedError is the error of a command that is a dead letter.
type capturedError struct {
	err error
	id  string
}

func (e *capturedError) Error() string { return e.err.Error() }
func (e *capturedError) Unwrap() error { return e.err }

// captures reports whether a failed command becomes a dead letter.
func (h *commandHandler) captures(r *running) bool {
	k := r.k
	switch {
	case h.capture == CaptureNone, k.attempt == 0, refused(r.err), r.ending == endStopped, h.scope.work.Err() != nil:
		return false
	case k.envelope().Header.Get(headerRedriven) != "":
		return false // its dead letter is there, and who redrives it sees to that
	case panicked(r.err) != nil:
		return true
	}
	return (r.ending == endSpent || h.capture == CaptureFailures) && h.mendable(k, r.err)
}

// keep stores the dead letter of a failed command, and returns err as its caller is to
// see it. A store that is slow is left to r.late, which is for after the answer.
func (h *commandHandler) keep(r *running, v any, err error) error {
	b := h.scope.bus
	d := h.deadLetter(r, v)
	stored := context.DeadlineExceeded
	if wait := captureTime(r.k); wait > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		if stored = b.captured.room(ctx); stored == nil {
			stored = b.tr.DeadLetters().Add(ctx, d)
		}
		cancel()
	}
	switch {
	case stored == nil:
		h.kept(r, v, d)
		return &capturedError{err, d.ID}
	case errors.Is(stored, transport.ErrBacklog):
		h.unkept(r, stored)
	default:
		r.late = func() {
			ctx, cancel := context.WithTimeout(context.Background(), buryTimeout)
			defer cancel()
			err := b.captured.room(ctx)
			if err == nil {
				err = b.storeDead(ctx, d)
			}
			if err == nil {
				h.kept(r, v, d)
			} else {
				h.unkept(r, err)
			}
		}
	}
	return err
}

// captureTime is how long the answer to a command may wait; 0 if its caller has gone.
func captureTime(k *call) time.Duration {
	d, ok := k.Deadline()
	if !ok {
		return captureWait
	}
	return min(captureWait, max(time.Until(d)/2, 0))
}

// deadLetter is the record of a failed command. Its id is made once for the failure: a
// caller may use the id of a command again, for another body or after it has failed.
func (h *commandHandler) deadLetter(r *running, v any) *transport.DeadLetter {
	b, k := h.scope.bus, r.k
	m := *k.envelope()
	m.To = transport.Address{Session: h.scope.id(), Name: k.who.name}
	m.ID, m.CorrelationID, m.Session = k.id(), k.correlationID(), cmp.Or(m.Session, h.scope.id())
	m.Header = m.Header.Clone()
	delete(m.Header, headerReceipt)
	delete(m.Header, headerAsked)
	if b.inProcess {
		m.Value = v
	}
	now := time.Now()
	d := &transport.DeadLetter{
		ID:      digest("dead", KindCommand.String(), k.who.name, m.Session, m.ID, b.ids.next()),
		Message: &m, Kind: KindCommand.String(), Handler: k.who.handler,
		Code: string(CodeOf(k.outcome(r.err))), Error: r.err.Error(), Attempts: int(k.attempt),
		First: r.first, Last: now, Service: b.cfg.Service, Host: b.host,
	}
	if d.First.IsZero() {
		d.First = now
	}
	setPanic(d, r.err)
	return d
}

// kept counts and tells of a dead letter that is stored.
func (h *commandHandler) kept(r *running, v any, d *transport.DeadLetter) {
	b := h.scope.bus
	b.logFailure(failureLine{level: slog.LevelError, text: "command dead-lettered",
		attrs: r.k.attrs(), err: r.err, code: Code(d.Code), dead: d.ID})
	h.tally.step(StageDeadLettered, 0)
	if b.observed() {
		b.observe(r.k.record(StageDeadLettered, v, deadCause(d, r.err)))
	}
	b.teller.tell(d)
}

// unkept counts and tells of a dead letter that is refused.
func (h *commandHandler) unkept(r *running, why error) {
	b := h.scope.bus
	h.tally.unkept()
	b.logFailure(failureLine{level: slog.LevelError, text: "command failed, and its dead letter is not stored",
		attrs: append(r.k.attrs(), slog.Any("refused", why)), err: r.err})
}
