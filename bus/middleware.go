package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"github.com/jitney-bus/jitney/transport"
)

// Message is a message on its way through a middleware chain. A middleware on
// the sending side may set headers on it; what else it changes has no effect on
// what is sent, except Value, which it may replace by another of the same type.
type Message struct {
	Kind Kind
	// Name is the wire name.
	Name string
	// ID, Session, CorrelationID, CausationID and Key are as in Meta.
	ID, Session, CorrelationID, CausationID, Key string
	// IdempotencyKey is as in Meta.
	IdempotencyKey string
	// Value is the command or event. A receiver must not modify it: other
	// handlers see the same one.
	Value any
	// Header is the user's headers. On the sending side it is never nil, and what
	// is set there follows the rules of WithHeader: an error of CodeInvalid tells
	// what does not, and the message is not sent.
	Header Header
	// Group, Handler and Attempt are as in Meta; empty on the sending side.
	Group, Handler string
	Attempt        int
	// Events are the events of a batch, when a batch handler is to run, and nil for
	// one message. Value is then the slice that the handler takes, in the same
	// order; ID is made anew for each run; Attempt is the highest of the events';
	// Session and CorrelationID are what all share.
	Events []*Message

	out outgoing
	ran *atomic.Bool // receiving a command: its handler has been called
	in  *batchCall   // receiving a batch

	refused bool // one of Events: the handler is not given it
	refusal error
}

// Queued reports, on the sending side, whether the rest of the chain only queues the
// event: that of PublishAll and PublishAsync, which is stored after the chain has
// returned.
func (m *Message) Queued() bool { return m.out.to != nil }

// Refuse takes one of a batch's Events out of it, before next is called: the handler
// is not given it, and err is its result, as if the handler had returned that for
// this event alone; nil is done.
func (m *Message) Refuse(err error) { m.refused, m.refusal = true, sane(err) }

// Refused reports whether one of a batch's Events was refused, and with which error.
func (m *Message) Refused() (refused bool, err error) { return m.refused, m.refusal }

// outgoing is what a message needs on the sending side only.
type outgoing struct {
	message *transport.Message       // what the chain's end sends, with the value still in it
	to      collector                // PublishAll, PublishAsync: takes it instead of the transport
	scope   *scope                   // execute
	result  func(reply) (any, error) // execute: decodes the result
	receipt *Receipt                 // execute: filled on success
	key     string                   // execute: of idempotency
	guard   *guard                   // execute: the command's circuit, nil for none
	seen    *passage                 // publish: for observers
}

// Func handles a message: the rest of a chain. On the receiving side it returns
// what the handler returned (nil for events), on the sending side of a command
// its result.
type Func func(ctx context.Context, m *Message) (any, error)

// Middleware wraps the rest of a chain. It is built as the bus is made and for
// each handler that it wraps, so building it has no effect of its own; what it
// builds must be safe for concurrent use, and returns what next returned, or its
// own error instead of calling next. It calls next with the message that it got, or
// a copy of it. Package middleware has the common ones.
//
// A command's caller sees the code of an error of its own: an *Error without Op. If
// the handler was not called, that may be CodeBusy or CodeUnavailable too, which
// tell the caller that nothing ran.
//
// One that cannot be built, such as for a bad setting, panics with an error that
// says why: New, Handle and Subscribe return it, of CodeInvalid.
type Middleware func(next Func) Func

// check reports why m cannot be used.
func (m Middleware) check() (err error) {
	if m == nil {
		return errors.New("is nil")
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case error:
			err = fmt.Errorf("cannot be built: %w", sane(r))
		default:
			err = fmt.Errorf("cannot be built: panic: %s", textOf(r))
		}
	}()
	if m(func(context.Context, *Message) (any, error) { return nil, nil }) == nil {
		return errors.New("returns nil instead of a Func")
	}
	return nil
}

// chain wraps f so that the first middleware is outermost.
func chain(ms []Middleware, f Func) Func {
	for i := len(ms) - 1; i >= 0; i-- {
		f = ms[i](f)
	}
	return f
}

// protect turns a panic of f into an error with its stack. It stands outermost,
// for the middleware: the handler itself is recovered from innermost, so that
// the chain around it sees an error.
func protect(f Func) Func {
	return func(ctx context.Context, m *Message) (v any, err error) {
		defer recovered(&err)
		return f(ctx, m)
	}
}

// recovered is deferred by whoever calls user code; what it leaves in err is sane.
// A handler that ends its goroutine with runtime.Goexit is not recovered from;
// who runs handlers on goroutines of their own treats a missing result as a
// panic.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = &panicError{value: r, stack: string(debug.Stack())}
	}
	*err = sane(*err)
}
