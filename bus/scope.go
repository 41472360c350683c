package bus

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jitney-bus/jitney/transport"
)

// Scope is where handlers are registered and messages sent: *Bus, or *Session for
// what ends with a session. Only this package implements it.
type Scope interface {
	scope() *scope
}

// scope owns handlers and subscriptions, which end with it.
type scope struct {
	bus *Bus
	// session is whose scope this is, nil for the bus's own.
	session *Session

	// work is the lifetime of handlers: cancelled with ErrStopped when Close
	// stops waiting for them.
	work context.Context
	stop context.CancelCauseFunc

	mu       sync.Mutex // guards what follows; never held while calling out
	closing  bool
	unnamed  int                   // listeners of a session that were given no name
	readers  map[readerKey]*reader // durable ones
	privates map[*reader]struct{}  // private ones, and those that are closing
	// commands is replaced whole, so that a dispatch takes no lock.
	commands atomic.Pointer[commandTable]
}

type commandTable struct {
	byType map[reflect.Type]*commandHandler // the handler's own type
	byName map[string]*commandHandler
}

func newScope(b *Bus, parent context.Context, session *Session) *scope {
	s := &scope{
		bus:      b,
		session:  session,
		readers:  map[readerKey]*reader{},
		privates: map[*reader]struct{}{},
	}
	s.work, s.stop = context.WithCancelCause(parent)
	s.commands.Store(&commandTable{})
	return s
}

// reserve enters h into the table under its name, so that a second handler
// fails at once. It is dispatched to from when it is live.
func (s *scope) reserve(h *commandHandler) error {
	return s.change(func(t *commandTable) error {
		if s.closing {
			return s.gone("handle", h.info.name)
		}
		if _, ok := t.byName[h.info.name]; ok {
			return errorf(CodeConflict, "handle", h.info.name,
				"%w in this scope already; a command has exactly one", ErrHandled)
		}
		t.byName[h.info.name] = h
		return nil
	})
}

// publish makes h the target of direct dispatch.
func (s *scope) publish(h *commandHandler) error {
	return s.change(func(t *commandTable) error {
		if s.closing {
			return s.gone("handle", h.info.name)
		}
		t.byType[h.goType] = h
		return nil
	})
}

// remove takes h out of the table.
func (s *scope) remove(h *commandHandler) {
	_ = s.change(func(t *commandTable) error {
		if t.byName[h.info.name] == h {
			delete(t.byName, h.info.name)
			delete(t.byType, h.goType)
		}
		return nil
	})
}

func (s *scope) change(f func(*commandTable) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.commands.Load()
	next := &commandTable{byType: maps.Clone(old.byType), byName: maps.Clone(old.byName)}
	if next.byName == nil {
		next.byType, next.byName = map[reflect.Type]*commandHandler{}, map[string]*commandHandler{}
	}
	if err := f(next); err != nil {
		return err
	}
	s.commands.Store(next)
	return nil
}

// id returns the session's id, "" for the bus's own scope.
func (s *scope) id() string {
	if s.session == nil {
		return ""
	}
	return s.session.id
}

// address is where this scope's handler of a command is served.
func (s *scope) address(name string) transport.Address {
	return transport.Address{Session: s.id(), Name: name}
}

// gone is the error of using a scope that has closed.
func (s *scope) gone(op, name string) error {
	if s.session != nil && !s.bus.closed.Load() {
		return errorf(CodeClosed, op, name, "session %q: %w", s.session.id, ErrSessionClosed)
	}
	return errorf(CodeClosed, op, name, "%w", ErrClosed)
}

// open reports whether ctx may send from this scope: always until it closes, and
// while Close waits inside handlers that are finishing.
func (s *scope) open(ctx context.Context, op, name string) error {
	if s.session != nil && s.session.isClosed() && (callFrom(ctx) == nil || s.session.isDone()) {
		return s.gone(op, name)
	}
	return s.bus.open(ctx, op, name)
}

// expired is the error of running something of a session whose lease is gone; nil
// for the bus's own scope. Nothing has run. Who notices first ends them all.
func (s *scope) expired(op, name string) error {
	if s.session == nil || s.bus.lease.valid() {
		return nil
	}
	s.bus.sessions.expire()
	e := errorf(CodeUnavailable, op, name, "session %q: %w", s.session.id, ErrSessionExpired)
	e.Details = map[string]string{detailExpired: s.session.id}
	return e
}

// detailExpired marks the error of a process that has just found its session gone:
// its caller asks again, and finds another process or the bus's handler.
const detailExpired = "expired_session"

// handling returns the call that ctx belongs to if it is of this scope, else nil.
func (s *scope) handling(ctx context.Context) *call {
	c := callFrom(ctx)
	if b := batchFrom(ctx); b != nil {
		c = &b.call // also with an ItemContext
	}
	if c != nil && c.parent == s.work {
		return c
	}
	return nil
}

// catchUp waits until the listeners have handled every event that was published
// before, and what they published meanwhile, except the one that from handles.
func (s *scope) catchUp(ctx context.Context, from *call) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.work, cancel)()
	for {
		if err := s.bus.sender.flushSessions(ctx); err != nil {
			return errorf(CodeTimeout, "close", "", "session %q closed before what is queued was sent: %w", s.id(), err)
		}
		s.mu.Lock()
		readers := slices.Collect(maps.Values(s.readers))
		s.mu.Unlock()
		before := taken(readers)
		behind := each(readers, func(r *reader) []string { return r.catchUp(ctx, from) })
		switch {
		case len(behind) > 0:
			slices.Sort(behind)
			return errorf(CodeTimeout, "close", "", "session %q closed before its listeners had handled every event of: %s",
				s.id(), strings.Join(behind, ", "))
		case taken(readers) == before && !s.bus.sender.hasSessions():
			return nil
		}
	}
}

func taken(readers []*reader) (n int64) {
	for _, r := range readers {
		n += r.taken.Load()
	}
	return n
}

// direct returns the handler to call without a transport, or nil if the message
// has to take the long way: across processes, through a middleware, to a
// session's handler or to nobody.
func (s *scope) direct(ctx context.Context, t reflect.Type) *commandHandler {
	if !s.bus.short || s.bus.closed.Load() {
		return nil
	}
	if s.session == nil {
		if id, err := sessionOf(ctx); id != "" || err != nil {
			return nil
		}
	} else if s.session.isClosed() {
		return nil
	}
	if h := s.commands.Load().byType[t]; h != nil && h.run == nil && h.retry == nil && h.live.Load() {
		return h
	}
	return nil
}

// handlers returns the command handlers that are registered.
func (s *scope) handlers() []*commandHandler {
	var hs []*commandHandler
	for _, h := range s.commands.Load().byName {
		hs = append(hs, h)
	}
	return hs
}
