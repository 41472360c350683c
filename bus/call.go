package bus

import (
	"context"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// call is one run of one handler: the context that the handler sees and the
// envelope of the message behind it. It lives as long as its scope, ends at its
// deadline, and carries none of the sender's values.
type call struct {
	lazyContext

	ids         *idSource
	msgID       string // guarded by lazyContext.mu; "" until somebody asks
	kind        Kind
	attempt     int32 // beside kind: a call then fits the size class of 288 bytes
	name        string
	group       string
	handler     string
	session     string
	correlation string
	causation   string
	key         string
	sentAt      time.Time
	header      transport.Header
}

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
	if _, ok := key.(callKey); ok {
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
		c.msgID = c.ids.next()
	}
	return c.msgID
}

// correlationID is what messages sent from this call share with it.
func (c *call) correlationID() string {
	if c.correlation != "" {
		return c.correlation
	}
	return c.id()
}

// meta is the call's envelope for the user.
func (c *call) meta() Meta {
	return Meta{
		Kind: c.kind, Name: c.name, ID: c.id(), Session: c.session,
		CorrelationID: c.correlationID(), CausationID: c.causation, Key: c.key,
		Group: c.group, Handler: c.handler, Attempt: int(c.attempt),
		SentAt: c.sentAt, header: c.header,
	}
}

// message is the call's envelope for the receiving chain.
func (c *call) message(value any) *Message {
	return &Message{
		Kind: c.kind, Name: c.name, ID: c.id(), Session: c.session,
		CorrelationID: c.correlationID(), CausationID: c.causation, Key: c.key,
		Value: value, Header: c.header,
		Group: c.group, Handler: c.handler, Attempt: int(c.attempt),
	}
}
