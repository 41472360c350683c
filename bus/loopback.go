package bus

import (
	"context"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// loopback is a request of this process's own. While the bus or a session closes
// the transport takes no more for it, and a handler that finishes may still execute
// a command.
type loopback struct {
	m        *transport.Message
	deadline time.Time
	answer   chan *transport.Message // holds the one reply
}

// Message, Deadline and Reply implement transport.Request.
func (l *loopback) Message() *transport.Message { return l.m }
func (l *loopback) Deadline() time.Time         { return l.deadline }

func (l *loopback) Reply(_ context.Context, m *transport.Message) error {
	kept := *m
	l.answer <- &kept
	return nil
}

// finishing reports whether ctx is a handler's that may execute a command on what
// closes: the bus, or the session.
func (b *Bus) finishing(ctx context.Context, session string) bool {
	if b.closed.Load() {
		return true
	}
	if session == "" || callFrom(ctx) == nil {
		return false
	}
	s := b.sessions.scope(session)
	return s != nil && s.session.isClosed()
}

// handlerHere returns the live handler of this process for exactly that scope and
// command, or nil.
func (b *Bus) handlerHere(session, name string) *commandHandler {
	s := b.root
	if session != "" {
		if s = b.sessions.scope(session); s == nil {
			return nil
		}
	}
	if h := s.commands.Load().byName[name]; h != nil && h.live.Load() {
		return h
	}
	return nil
}

// loop runs the handler for m as if it had come over the transport.
func (h *commandHandler) loop(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	sent := *m // what runs may outlast the call that m is for
	req := &loopback{m: &sent, answer: make(chan *transport.Message, 1)}
	req.deadline, _ = ctx.Deadline() // there is one: Execute has bounded ctx
	k := h.call(req)
	if err := h.enter(ctx, k); err != nil {
		return nil, err
	}
	go h.serveOne(k, req) // Close waits for it by its slot
	select {
	case r := <-req.answer:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
