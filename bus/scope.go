package bus

import (
	"context"
	"maps"
	"reflect"
	"sync"
	"sync/atomic"
)

// Scope is where handlers are registered and messages sent. *Bus is one; only
// this package implements it.
type Scope interface {
	scope() *scope
}

// scope owns handlers and subscriptions, which end with it.
type scope struct {
	bus *Bus

	// work is the lifetime of handlers: cancelled with ErrStopped when Close
	// stops waiting for them.
	work context.Context
	stop context.CancelCauseFunc

	mu       sync.Mutex // guards what follows; never held while calling out
	closing  bool
	readers  map[readerKey]*reader // durable ones
	privates map[*reader]struct{}  // private ones, and those that are closing
	// commands is replaced whole, so that a dispatch takes no lock.
	commands atomic.Pointer[commandTable]
}

type commandTable struct {
	byType map[reflect.Type]*commandHandler // the handler's own type
	byName map[string]*commandHandler
}

func newScope(b *Bus) *scope {
	s := &scope{
		bus:      b,
		readers:  map[readerKey]*reader{},
		privates: map[*reader]struct{}{},
	}
	s.work, s.stop = context.WithCancelCause(context.Background())
	s.commands.Store(&commandTable{})
	return s
}

// reserve enters h into the table under its name, so that a second handler
// fails at once. It is dispatched to from when it is live.
func (s *scope) reserve(h *commandHandler) error {
	return s.change(func(t *commandTable) error {
		if s.closing {
			return errorf(CodeClosed, "handle", h.info.name, "%w", ErrClosed)
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
			return errorf(CodeClosed, "handle", h.info.name, "%w", ErrClosed)
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

// direct returns the handler to call without a transport, or nil if the message
// has to take the long way: across processes, through a middleware, or to
// nobody.
func (s *scope) direct(t reflect.Type) *commandHandler {
	if !s.bus.short || s.bus.closed.Load() {
		return nil
	}
	if h := s.commands.Load().byType[t]; h != nil && h.run == nil && h.live.Load() {
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
