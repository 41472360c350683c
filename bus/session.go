package bus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/session"
	"github.com/jitney-bus/jitney/transport"
)

// Session is a scope that ends: handlers and listeners registered on it see the
// messages of this session only and go with it. Open one with Bus.Session, or
// with InSession, which closes it too. It is safe for concurrent use.
//
// A command sent in a session goes to the session's handler, in whichever process
// that is, and to the bus's if the session has none. An event sent in a session
// reaches the session's listeners and every group and private listener of the
// bus, which read the id with SessionFrom. What a handler sends belongs to the
// session of the message that it handles, unless it is sent on another Session.
//
// Its presence is a lease of its process (10 s): a session ends when its process
// dies or stands still for longer, and a process that finds out runs none of its
// handlers any more.
type Session struct {
	b       *Bus
	id      string
	opening string // tells this opening from every other
	opened  time.Time
	own     *scope
	made    bool // the record of this opening may be in the store
	// Of whoever buries it: nobody is to hear of the end any more; it failed once.
	told, left bool

	closed atomic.Bool
	reason EndReason // set before done is closed, with err and closeErr
	err    error
	// closeErr is what Close returns.
	closeErr error
	done     chan struct{}
}

func (s *Session) scope() *scope { return s.own }

// ID returns the session's id.
func (s *Session) ID() string { return s.id }

// Done is closed when the session has ended here: by Close, with its bus, or
// because its process had lost its lease.
func (s *Session) Done() <-chan struct{} { return s.done }

func (s *Session) isClosed() bool { return s.closed.Load() }

func (s *Session) isDone() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Session opens a session: any non-empty UTF-8 text of up to 128 bytes names one,
// such as a job's or a request's id. SessionStarted is published in it before
// Session returns. ctx bounds the opening only, and without a deadline
// Config.PublishTimeout does.
//
// A session may be open in several processes at once: each of its listeners hears
// each event, and its handlers of one command compete, if their processes are of
// one service. In one process it is open once: a second Session is refused with
// ErrSessionOpen until the first has closed; share the *Session instead. The other
// errors are CodeInvalid, CodeUnavailable and CodeClosed.
func (b *Bus) Session(ctx context.Context, id string) (*Session, error) {
	const op = "session"
	if err := session.Validate(id); err != nil {
		return nil, errorf(CodeInvalid, op, "", "%w", err)
	}
	s := &Session{b: b, id: id, opening: b.ids.next(), opened: time.Now(), done: make(chan struct{})}
	s.own = newScope(b, b.root.work, s)
	if err := b.sessions.add(s); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.PublishTimeout)
	defer cancel()
	if err := s.start(ctx); err != nil {
		s.abandon(ctx, err)
		return nil, fromTransport(op, "", "", err)
	}
	b.log.Debug("session opened", "session", id)
	return s, nil
}

// start makes the session known: it has a record below the lease of the process,
// and everybody who listens for SessionStarted hears of it.
func (s *Session) start(ctx context.Context) error {
	b := s.b
	if err := b.lease.open(ctx); err != nil {
		return err
	}
	s.made = true
	if err := s.enrol(ctx); err != nil {
		return err
	}
	if s.isClosed() { // it expired, or the bus has closed, meanwhile
		_ = s.strike(ctx) // who ended it does that too
		return s.own.gone("session", "")
	}
	return b.announce(ctx, s.id, digest("session started", s.opening), SessionStarted{
		ID: s.id, Opening: s.opening, Service: b.cfg.Service, Host: b.host, Time: s.opened,
	})
}

// abandon undoes an opening that failed.
func (s *Session) abandon(ctx context.Context, err error) {
	if s.closed.Swap(true) {
		return // whoever ends it does the rest
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if s.made {
		s.told = true // nobody heard of the beginning
		s.b.sessions.bury(ctx, s)
	}
	s.own.stop(err)
	s.b.sessions.remove(s)
	close(s.done)
}

// Close ends the session. First its listeners handle every event whose Publish in
// this session returned before, retries included; then it stops taking commands,
// waits for those that run, and SessionEnded is published. When ctx ends (or after
// Config.CloseTimeout, if it has no deadline) it goes on without waiting: what the
// listeners have not handled is dropped, which the error of CodeTimeout says, and
// handlers that still run are cancelled with ErrStopped; the error names those
// that ignore it.
//
// From when Close is called the session refuses registrations and messages with
// ErrSessionClosed, except for what its handlers send while they finish. A second
// Close waits for the first and returns its error. Called from a handler of the
// session it returns without waiting for that handler, and the session ends when
// the handler has returned.
func (s *Session) Close(ctx context.Context) error {
	return s.endWithin(ctx, EndClosed, nil)
}

// endWithin is end within CloseTimeout, if ctx has no deadline.
func (s *Session) endWithin(ctx context.Context, reason EndReason, cause error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.b.cfg.CloseTimeout)
		defer cancel()
	}
	return s.end(ctx, reason, cause)
}

// end ends the session once; every other call waits.
func (s *Session) end(ctx context.Context, reason EndReason, cause error) error {
	from := s.own.handling(ctx)
	if s.closed.Swap(true) {
		if from != nil {
			return nil // the first caller may wait for this handler
		}
		select {
		case <-s.done:
			return s.closeErr
		case <-ctx.Done():
			return errorf(CodeTimeout, "close", "", "session %q is still closing: %w", s.id, ctx.Err())
		}
	}
	s.reason, s.err = reason, cause
	s.own.stopRetries() // nothing that finishes is to wait for one
	if from == nil {
		s.finish(ctx, s.own.catchUp(ctx, nil))
		return s.closeErr
	}
	// The handler that called has to return first.
	behind := s.own.catchUp(ctx, from)
	go func() { // whoever waits for the session waits for done
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.b.cfg.CloseTimeout)
		defer cancel()
		s.finish(ctx, behind)
	}()
	return behind
}

// finish does what is left when the listeners have handled everything, or nobody
// waits for that any more.
func (s *Session) finish(ctx context.Context, behind error) {
	stuck := s.own.close(ctx, func(context.Context) error { return nil })
	s.closeErr = errors.Join(behind, stuck)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	s.b.sessions.bury(last, s)
	s.b.sessions.remove(s)
	s.b.log.Debug("session ended", "session", s.id, "reason", s.reason, "err", s.closeErr)
	close(s.done)
}

// bury takes the session out of the store and tells that it has ended, in an
// order that makes whoever finds the record of a dead process tell it again, with
// the same id. What failed is done by the next call.
func (s *Session) bury(ctx context.Context) error {
	if !s.b.sessions.reopened(s) {
		for _, at := range s.b.lease.ownedIn(s.id) {
			if err := s.b.lease.disown(ctx, at); err != nil {
				return err
			}
		}
	}
	if !s.told {
		if err := s.tell(ctx); err != nil {
			return err
		}
		s.told = true
	}
	return s.strike(ctx)
}

// tell publishes that the session has ended. If the lease may have ended meanwhile
// another process may have told it, which then took the record away: the same id
// is stored once only as long as the transport remembers it.
func (s *Session) tell(ctx context.Context) error {
	if s.reason == EndExpired || s.left {
		_, err := s.b.tr.Store().Get(ctx, s.key())
		if errors.Is(err, transport.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return s.b.announce(ctx, s.id, endedID(s.opening), s.ended())
}

func (s *Session) ended() SessionEnded {
	e := SessionEnded{
		ID: s.id, Opening: s.opening, Service: s.b.cfg.Service, Host: s.b.host,
		Reason: s.reason, Started: s.opened, Time: time.Now(),
	}
	if err := errors.Join(s.err, s.closeErr); err != nil {
		e.Err = err.Error()
	}
	return e
}

// announce publishes an event of the bus itself, past filters and middleware.
func (b *Bus) announce(ctx context.Context, session, id string, event any) error {
	a, err := b.announcement(session, id, event)
	if err != nil {
		return err
	}
	return b.publishAll(ctx, a)
}

// announcement is an event of the bus itself.
type announcement struct {
	event any
	m     *transport.Message
	sends *sendTally
}

func (b *Bus) announcement(session, id string, event any) (announcement, error) {
	info, err := b.typeOf(event, "")
	if err != nil {
		return announcement{}, err
	}
	m := &transport.Message{
		To: transport.Address{Session: session, Name: info.name}, Session: session,
		ID: id, CorrelationID: id,
	}
	return announcement{event, m, &info.sends}, b.encode("publish", info.name, event, m)
}

// publishAll stores announcements, at least one, and tells the observers.
func (b *Bus) publishAll(ctx context.Context, as ...announcement) error {
	ms := make([]*transport.Message, len(as))
	for i, a := range as {
		ms[i] = a.m
	}
	began := time.Now()
	err := b.tr.Publish(ctx, ms...)
	if err != nil {
		err = fmt.Errorf("publish %s: %w", ms[0].To.Name, err)
	}
	for _, a := range as {
		a.sends.count(err)
	}
	if b.observed() {
		for _, a := range as {
			b.observeSent(KindEvent, a.m, a.event, began, err)
		}
	}
	return err
}
