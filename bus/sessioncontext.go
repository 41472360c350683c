package bus

import (
	"context"

	"github.com/jitney-bus/jitney/session"
	"github.com/jitney-bus/jitney/transport"
)

type sessionKey struct{}

// contextSession is a session that ContextWithSession put into a context.
type contextSession struct {
	id  string
	err error
}

// SessionFrom returns the id of the session that ctx belongs to: that of the
// message that is being handled, of InSession's function, or of
// ContextWithSession, whichever is nearest; "" outside a session.
func SessionFrom(ctx context.Context) string {
	id, _ := sessionOf(ctx)
	return id
}

// ContextWithSession returns a context in which messages sent on the bus belong
// to the session. It opens nothing: it is for a process that takes part in a
// session which is open in another. "" leaves the session that ctx belongs to. An
// id that breaks the rule of Bus.Session makes every send with it fail with
// CodeInvalid.
func ContextWithSession(ctx context.Context, id string) context.Context {
	cs := &contextSession{id: id}
	if id != "" {
		cs.err = session.Validate(id)
	}
	return context.WithValue(ctx, sessionKey{}, cs)
}

// sessionOf returns the session that ctx belongs to.
func sessionOf(ctx context.Context) (string, error) {
	if c, ok := ctx.(*call); ok {
		return c.envelope().Session, nil
	}
	switch v := ctx.Value(sessionKey{}).(type) {
	case *contextSession:
		return v.id, v.err
	case *call:
		return v.envelope().Session, nil
	}
	return "", nil
}

// inherit gives a message what it has from where it is sent: the session, and
// from a handler the correlation and the cause.
func (s *scope) inherit(ctx context.Context, m *transport.Message) error {
	m.CorrelationID = m.ID // the first of its chain, unless a handler sends it
	if c := callFrom(ctx); c != nil {
		c.causes(m)
	}
	if s.session != nil {
		m.Session = s.session.id
		return nil
	}
	var err error
	m.Session, err = sessionOf(ctx)
	return err
}
