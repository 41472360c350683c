package bus

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// How often a dead letter is tried before its event is put back, and how long.
const (
	buryTries   = 3
	buryTimeout = 2 * time.Second
	buryWait    = 100 * time.Millisecond
	maxStack    = 16 << 10
)

// bury stores a dead letter of what one listener (or, with "", the group) could
// not handle, and returns once it is stored.
func (f *flight) bury(listener string, code Code, cause error, attempts int) error {
	r, b := f.r, f.r.b
	now := time.Now()
	d := &transport.DeadLetter{
		ID:      f.deadID(listener),
		Message: f.original(), Kind: KindEvent.String(),
		Group: r.key.group, Handler: listener,
		Code: string(code), Error: cause.Error(), Attempts: attempts,
		First: f.began, Last: now, Service: b.cfg.Service, Host: b.host,
		StreamSequence: f.sequence(),
	}
	if !f.m.SentAt.IsZero() && f.m.SentAt.Before(d.First) {
		d.First = f.m.SentAt
	}
	setPanic(d, cause)
	if err := b.storeDead(r.s.work, d); err != nil {
		return err
	}
	b.logFailure(failureLine{level: slog.LevelError, text: "event dead-lettered",
		attrs: f.attrs(listener, attempts), err: cause, code: Code(d.Code), dead: d.ID})
	f.observeDeadLetter(d, cause)
	b.teller.tell(d)
	return nil
}

// setPanic writes down a panic, if that is what failed.
func setPanic(d *transport.DeadLetter, cause error) {
	var p *panicError
	if !errors.As(cause, &p) {
		return
	}
	d.Code, d.Stack = string(CodePanic), p.stack
	if len(d.Stack) > maxStack {
		d.Stack = strings.ToValidUTF8(d.Stack[:maxStack], "")
	}
}

// storeDead stores a dead letter and returns once it is stored. It tries a few times,
// also when life, the scope's, has ended. What is stored is then for the log, for the
// observers and for teller.tell.
func (b *Bus) storeDead(life context.Context, d *transport.DeadLetter) (err error) {
	for try := range buryTries {
		if try > 0 {
			time.Sleep(buryWait << try)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(life), buryTimeout)
		err = b.tr.DeadLetters().Add(ctx, d)
		cancel()
		if err == nil {
			return nil
		}
		if errors.Is(err, transport.ErrBacklog) {
			break // full: trying at once does not make room
		}
	}
	return err
}

// deadID is made of what failed, so that the same failure, seen twice, is stored
// once. An id alone is not the event: another session, or a publisher some time
// later, may use it again; and one that was redriven may fail again.
func (f *flight) deadID(listener string) string {
	return digest("dead", KindEvent.String(), f.r.key.group, f.r.private, f.r.key.name, f.m.Session, f.id,
		strconv.FormatUint(f.sequence(), 10), listener, f.redriven())
}

// original is the event as it was published, without what the bus added to a
// copy of it, except what tells of redrives.
func (f *flight) original() *transport.Message {
	m := *f.m
	m.ID = f.id
	m.To.Group = ""
	m.DeliverAt = time.Time{}
	m.Header = m.Header.Clone()
	for _, key := range []string{headerOrigin, headerSequence, headerHandler, headerAttempt, headerFirst, headerThen, headerSearch, headerCopy} {
		delete(m.Header, key)
	}
	if f.redriven() == "" {
		for _, key := range redriveHeaders {
			delete(m.Header, key)
		}
	}
	return &m
}
