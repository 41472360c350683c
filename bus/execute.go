package bus

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// reply is a command's answer before it is decoded.
type reply struct {
	b    *Bus
	name string
	m    *transport.Message
}

// execute is the untyped Execute. wireName is "" for a type that names itself;
// decode turns the reply into the result.
func (s *scope) execute(ctx context.Context, c any, wireName string, decode func(reply) (any, error), opts []ExecuteOption) (any, error) {
	const op = "execute"
	b := s.bus
	if isNil(c) {
		return nil, errorf(CodeInvalid, op, wireName, "command is nil")
	}
	info, err := b.typeOf(c, wireName)
	if err != nil {
		return nil, withOp(err, op)
	}
	var o executeOptions
	for _, opt := range opts {
		opt.execute(&o)
	}
	if err := invalidOptions(op, info.name, o.errs); err != nil {
		return nil, err
	}
	if err := b.open(ctx, op, info.name); err != nil {
		return nil, err
	}
	if err := info.validate(op, c); err != nil {
		return nil, err
	}
	ctx, cancel := o.bound(ctx, b.cfg.ExecuteTimeout)
	defer cancel()
	m := &Message{
		Kind: KindCommand, Name: info.name, ID: o.id, Value: c, Header: o.header,
		out: outgoing{scope: s, result: decode, receipt: o.receipt},
	}
	if m.ID == "" {
		m.ID = b.ids.next()
	}
	if m.Header == nil {
		m.Header = Header{}
	}
	m.inherit(ctx)
	began := time.Now()
	v, err := b.send(ctx, m)
	if err != nil {
		return nil, fromTransport(op, info.name, m.ID, err)
	}
	if o.receipt != nil {
		o.receipt.ID, o.receipt.Elapsed = m.ID, time.Since(began)
	}
	return v, nil
}

// bound limits ctx to the option's timeout, or to def if nothing else does.
func (o *sendOptions) bound(ctx context.Context, def time.Duration) (context.Context, context.CancelFunc) {
	if o.timeout > 0 {
		return context.WithTimeout(ctx, o.timeout)
	}
	if _, ok := ctx.Deadline(); !ok {
		return context.WithTimeout(ctx, def)
	}
	return ctx, func() {}
}

// typeOf returns what is known of v's type, under its own name or a defined one.
func (b *Bus) typeOf(v any, wireName string) (*typeInfo, error) {
	if wireName != "" {
		return b.types.define(reflect.TypeOf(v), wireName)
	}
	return b.types.lookup(reflect.TypeOf(v))
}

// withOp names the operation in an error that has none.
func withOp(err error, op string) error {
	var e *Error
	if errors.As(err, &e) && e.Op == "" {
		e.Op = op
	}
	return err
}

// dispatch is the end of the sending chain.
func (b *Bus) dispatch(ctx context.Context, m *Message) (any, error) {
	if m.Kind == KindCommand {
		return b.sendCommand(ctx, m)
	}
	e := m.out.event[0]
	e.Value = m.Value
	if len(m.Header) > 0 {
		e.Header = m.Header
	}
	return nil, b.store(ctx, m.out.event, m.out.batch)
}

func (b *Bus) sendCommand(ctx context.Context, m *Message) (any, error) {
	if b.inProcess {
		if h := m.out.scope.commands.Load().byName[m.Name]; h != nil && h.live.Load() {
			return h.local(ctx, m)
		}
	}
	tm := &transport.Message{
		To: transport.Address{Name: m.Name}, ID: m.ID, Session: m.Session,
		CorrelationID: m.CorrelationID, CausationID: m.CausationID,
	}
	if len(m.Header) > 0 {
		tm.Header = m.Header
	}
	if m.out.receipt != nil {
		tm.Header = m.Header.Clone()
		tm.Header.Set(headerReceipt, "1")
	}
	if err := b.encode("execute", m.Name, m.Value, tm); err != nil {
		return nil, err
	}
	r, err := b.request(ctx, tm)
	if err != nil {
		return nil, err
	}
	if r.Header.Get(headerError) != "" {
		return nil, b.replyError(m, r)
	}
	if m.out.receipt != nil {
		m.out.receipt.Service = r.Header.Get(headerService)
	}
	return m.out.result(reply{b, m.Name, r})
}

// How long request waits before it asks again.
const (
	firstReask = 2 * time.Millisecond
	lastReask  = 250 * time.Millisecond
)

// request asks until somebody takes the message. It asks again only where it is
// sure that nothing ran.
func (b *Bus) request(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	for wait := firstReask; ; wait = min(2*wait, lastReask) {
		r, err := b.tr.Request(ctx, m)
		if err == nil || !nothingRan(err) {
			return r, err
		}
		b.log.Debug("command not taken, asking again", "name", m.To.Name, "id", m.ID, "err", err)
		if !sleep(ctx, wait/2+rand.N(wait)) {
			return nil, err // what kept it from running, not the deadline
		}
	}
}

func nothingRan(err error) bool {
	return errors.Is(err, transport.ErrBusy) || errors.Is(err, transport.ErrStopping) ||
		errors.Is(err, transport.ErrUnavailable)
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// replyError reads an error reply.
func (b *Bus) replyError(m *Message, r *transport.Message) error {
	w, ok := r.Value.(wireError)
	if !ok {
		if err := json.Unmarshal(r.Body, &w); err != nil {
			w = wireError{Message: "the handler failed and its error cannot be read"}
		}
		w.Code = Code(r.Header.Get(headerError))
	}
	return b.fromWire(m.Name, m.ID, w)
}
