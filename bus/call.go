package bus

import (
	"context"

	"github.com/jitney-bus/jitney/transport"
)

// call is one run of one handler: the context that the handler sees and the
// envelope of the message behind it. It lives as long as its scope, ends at its
// deadline, and carries none of the sender's values.
//
// One is made for every message, so it is small: what is the same for every run
// of a handler is in who, and what most messages do not have is in from.
type call struct {
	lazyContext

	who     *identity
	from    *transport.Message // the message as it came; nil if it has only an id
	msgID   string             // guarded by lazyContext.mu; "" until somebody asks
	attempt int32
	events  int32 // of a batch; 0 for one message
	missed  int32 // as in Meta
}

// identity is what a handler is known by.
type identity struct {
	ids                  *idSource
	kind                 Kind
	name, group, handler string
	private              string // tells a private listener from every other
}

// nothing is the envelope of a message that has only an id.
var nothing = new(transport.Message)

type callKey struct{}

// callFrom returns the call that ctx belongs to, or nil outside a handler.
func callFrom(ctx context.Context) *call {
	if c, ok := ctx.(*call); ok {
		return c
	}
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// Value implements context.Context.
func (c *call) Value(key any) any {
	switch key.(type) {
	case callKey, sessionKey:
		return c
	}
	return c.lazyContext.Value(key)
}

// id returns the message's id, made on first use for a message that never left
// the process.
func (c *call) id() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.msgID == "" {
		c.msgID = c.who.ids.next()
	}
	return c.msgID
}

// envelope is the message as it came. It is read-only.
func (c *call) envelope() *transport.Message {
	if c.from == nil {
		return nothing
	}
	return c.from
}

// correlationID is what messages sent from this call share with it.
func (c *call) correlationID() string {
	if id := c.envelope().CorrelationID; id != "" {
		return id
	}
	return c.id()
}

// causes makes m, which has begun a chain of its own, a consequence of what the
// call handles. A batch is no one message's cause, and has a correlation only if all
// of it does.
func (c *call) causes(m *transport.Message) {
	if c.events == 0 {
		m.CausationID, m.CorrelationID = c.id(), c.correlationID()
	} else if shared := c.envelope().CorrelationID; shared != "" {
		m.CorrelationID = shared
	}
}

// meta is the call's envelope for the user.
func (c *call) meta() Meta {
	m := c.envelope()
	return Meta{
		Kind: c.who.kind, Name: c.who.name, ID: c.id(), Session: m.Session,
		CorrelationID: c.correlationID(), CausationID: m.CausationID, Key: m.Key,
		Group: c.who.group, Handler: c.who.handler, Attempt: int(c.attempt),
		Generation: generation(c.who.kind, m), IdempotencyKey: idempotencyKey(c.who.kind, m),
		Missed: int(c.missed), SentAt: m.SentAt, header: visible(m.Header),
	}
}

// message is the call's envelope for the receiving chain.
func (c *call) message(value any) *Message {
	m := c.envelope()
	return &Message{
		Kind: c.who.kind, Name: c.who.name, ID: c.id(), Session: m.Session,
		CorrelationID: c.correlationID(), CausationID: m.CausationID, Key: m.Key,
		IdempotencyKey: idempotencyKey(c.who.kind, m),
		Value:          value, Header: visible(m.Header),
		Group: c.who.group, Handler: c.who.handler, Attempt: int(c.attempt),
	}
}

func idempotencyKey(kind Kind, m *transport.Message) string {
	if kind != KindCommand {
		return ""
	}
	return m.Header.Get(headerIdempotencyKey)
}
