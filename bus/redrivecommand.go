package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// A redrive of a command waits for its handler, which makes no dead letter of it if it
// fails, as it would of another command: the one that is there stays until the command
// has succeeded, or is replaced by one that says how it failed now.

// executeAgain executes a command again, and removes its dead letter if it succeeds.
// Its result is nobody's.
func (r *redriver) executeAgain(ctx context.Context, d DeadLetter, m *transport.Message) (repeated bool, err error) {
	repeated, err = r.execute(ctx, *m)
	after := context.WithoutCancel(ctx)
	var e *Error
	switch {
	case err == nil:
		if err := r.d.remove(after, r.op, d.ID); err != nil {
			return repeated, r.failed(d, fmt.Errorf("the command has succeeded, but its dead letter is not removed; discard it: %w", err))
		}
		return repeated, nil
	case !errors.As(err, &e) || e.Attempts == 0: // nothing ran, or nobody knows
		return false, r.failed(d, err)
	}
	b := r.d.b
	next := *d.rec
	next.ID = digest("dead", KindCommand.String(), d.ID)
	next.Message = m
	next.Code, next.Error, next.Stack = string(e.Code), e.text(), ""
	next.Attempts, next.Last, next.Service, next.Host = e.Attempts, time.Now(), b.cfg.Service, b.host
	if err := b.storeDead(after, &next); err != nil {
		return false, r.failed(d, errors.Join(e, fmt.Errorf("the dead letter of the earlier failure stays: %w", err)))
	}
	b.teller.tell(&next)
	if err := r.d.remove(after, r.op, d.ID); err != nil {
		b.log.Warn("dead letter of a command not removed that has failed again; there are two of it",
			"dead_letter", d.ID, "other", next.ID, "name", d.Name, "id", d.MessageID, "err", err)
	}
	failed := r.failed(d, fmt.Errorf("it failed again, and is dead letter %s now: %w", next.ID, err))
	failed.DeadLetter = next.ID
	return false, failed
}

// commandCopy is the command that goes back to its handler.
func (r *redriver) commandCopy(d DeadLetter) *transport.Message {
	m := *d.rec.Message
	m.To.Session, m.To.Group, m.Session = "", "", d.Session
	m.DeliverAt = time.Time{}
	if m.Header = m.Header.Clone(); m.Header == nil {
		m.Header = Header{}
	}
	delete(m.Header, headerReceipt)
	delete(m.Header, headerAsked) // it is a call of its own
	return &m
}

// execute executes a command as it is, past the sending chain and the breaker.
// repeated: it had succeeded before, under its idempotency key.
func (r *redriver) execute(ctx context.Context, m transport.Message) (repeated bool, err error) {
	b := r.d.b
	if _, ok := ctx.Deadline(); !ok || r.many {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.cfg.ExecuteTimeout)
		defer cancel()
	}
	if b.inProcess {
		if err := b.readBody(&m); err != nil {
			return false, err
		}
	}
	var receipt Receipt
	_, err = b.deliver(ctx, &outgoing{
		message: &m, key: m.Header.Get(headerIdempotencyKey), receipt: &receipt, result: discard,
	})
	return receipt.Repeated, err
}

// discard is for a result that nobody wants.
func discard(reply) (any, error) { return nil, nil }

// readBody decodes a command whose body was edited, for a handler that is called
// without a transport.
func (b *Bus) readBody(m *transport.Message) error {
	info := b.types.named(m.To.Name)
	if m.Value != nil || info == nil {
		return nil
	}
	v, err := b.decodeNew(info, m.ContentType, m.Body)
	m.Value = v
	return err
}
