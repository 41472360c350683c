package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// reply is a command's answer before it is decoded.
type reply struct {
	b        *Bus
	name, id string
	m        *transport.Message
}

// unusable is the error of a result that its caller cannot have. The handler ran.
func (r reply) unusable(err error) error {
	if err == nil {
		return nil
	}
	return &Error{
		Code: CodeFailed, Op: "execute", Name: r.name, ID: r.id, Attempts: 1,
		Message: "the handler ran, but its result cannot be used: " + err.Error(), cause: err,
	}
}

// execute is the untyped Execute. wireName is "" for a type that names itself;
// decode turns the reply into the result.
func (s *scope) execute(ctx context.Context, c any, wireName string, decode func(reply) (any, error), opts []ExecuteOption) (any, error) {
	b := s.bus
	if !b.observed() {
		m := b.spare.message()
		v, err := s.executeAs(ctx, m, c, wireName, decode, opts)
		if !b.inProcess && len(b.cfg.Sending) == 0 { // else somebody may hold it
			b.spare.done(m)
		}
		return v, err
	}
	m := new(transport.Message)
	began := b.now()
	v, err := s.executeAs(ctx, m, c, wireName, decode, opts)
	b.observeSent(KindCommand, m, c, began, err)
	return v, err
}

// executeAs fills in m and sends it.
func (s *scope) executeAs(ctx context.Context, m *transport.Message, c any, wireName string, decode func(reply) (any, error), opts []ExecuteOption) (any, error) {
	const op = "execute"
	b := s.bus
	if isNil(c) {
		err := errorf(CodeInvalid, op, wireName, "command is nil")
		b.types.unnamed(KindCommand).count(err)
		return nil, err
	}
	info, err := b.typeOf(c, wireName)
	if err != nil {
		b.types.unnamed(KindCommand).count(err)
		return nil, withOp(err, op)
	}
	m.To.Name = info.name
	v, err := s.executeTyped(ctx, m, info, c, decode, opts)
	info.sends.count(err)
	return v, err
}

// executeTyped sends m, whose command is of a known type.
func (s *scope) executeTyped(ctx context.Context, m *transport.Message, info *typeInfo, c any, decode func(reply) (any, error), opts []ExecuteOption) (any, error) {
	const op = "execute"
	b := s.bus
	o := executing(opts)
	if err := invalidOptions(op, info.name, o.errs); err != nil {
		return nil, err
	}
	if err := s.open(ctx, op, info.name); err != nil {
		return nil, err
	}
	if err := info.validate(op, c); err != nil {
		return nil, err
	}
	ctx, cancel := o.bound(ctx, b.cfg.ExecuteTimeout)
	defer cancel()
	m.ID, m.Value, m.Header = o.id, c, o.header
	if m.ID == "" {
		m.ID = b.ids.next()
	}
	if err := s.inherit(ctx, m); err != nil {
		return nil, errorf(CodeInvalid, op, info.name, "%w", err)
	}
	if o.idempotent && o.key == "" {
		o.key = m.ID
	}
	var began time.Time
	if o.receipt != nil {
		began = time.Now()
	}
	v, err := b.sendChain(ctx, m, outgoing{message: m, scope: s, result: decode, receipt: o.receipt, key: o.key, guard: b.guardOf(info)})
	if err != nil {
		return nil, fromChain(op, info.name, m.ID, err)
	}
	if o.receipt != nil {
		o.receipt.ID, o.receipt.Elapsed = m.ID, time.Since(began)
	}
	return v, nil
}

// executing applies options. Without any it allocates nothing.
func executing(opts []ExecuteOption) executeOptions {
	if len(opts) == 0 {
		return executeOptions{}
	}
	o := new(executeOptions)
	for _, opt := range opts {
		opt.execute(o)
	}
	return *o
}

// sendChain sends a command through the sending chain, if there is one.
func (b *Bus) sendChain(ctx context.Context, m *transport.Message, out outgoing) (any, error) {
	if len(b.cfg.Sending) == 0 {
		return b.sendCommand(ctx, &out)
	}
	return b.send(ctx, newMessage(KindCommand, m, out))
}

// newMessage is m for the sending chain.
func newMessage(kind Kind, m *transport.Message, out outgoing) *Message {
	h := m.Header
	if h == nil {
		h = Header{} // the chain may set headers
	}
	return &Message{
		Kind: kind, Name: m.To.Name, ID: m.ID, Session: m.Session, Key: m.Key,
		CorrelationID: m.CorrelationID, CausationID: m.CausationID, IdempotencyKey: out.key,
		Value: m.Value, Header: h, out: out,
	}
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
	out := &m.out
	out.message.Value, out.message.Header = m.Value, nil
	if len(m.Header) > 0 {
		if err := checkHeaders(m.Header); err != nil {
			op := "execute"
			if m.Kind == KindEvent {
				op = "publish"
			}
			return nil, errorf(CodeInvalid, op, out.message.To.Name, "%w", err)
		}
		out.message.Header = m.Header
	}
	if m.Kind == KindCommand {
		return b.sendCommand(ctx, out)
	}
	if !b.publishes(m) {
		return nil, nil
	}
	return nil, b.store(ctx, out.message, out.to, out.seen)
}

// deliver takes a command to its handler, here or over the transport.
func (b *Bus) deliver(ctx context.Context, out *outgoing) (any, error) {
	m := out.message
	if out.key != "" {
		if m.Header = m.Header.Clone(); m.Header == nil {
			m.Header = Header{}
		}
		m.Header.Set(headerIdempotencyKey, out.key)
	}
	if b.inProcess {
		if h := b.handlerHere(m.Session, m.To.Name); h != nil {
			m.To.Session = m.Session
			return h.local(ctx, m, out)
		}
	}
	if out.receipt != nil {
		if m.Header = m.Header.Clone(); m.Header == nil {
			m.Header = Header{}
		}
		m.Header.Set(headerReceipt, "1")
	}
	if v := m.Value; v != nil { // a redrive has a body
		m.Value = nil
		if err := b.encode("execute", m.To.Name, v, m); err != nil {
			return nil, err
		}
	}
	r, err := b.request(ctx, m)
	if err != nil {
		return nil, fromTransport("execute", m.To.Name, m.ID, err)
	}
	if r.Header.Get(headerError) != "" {
		return nil, b.replyError(m, r)
	}
	if out.receipt != nil {
		out.receipt.Service, out.receipt.Repeated = r.Header.Get(headerService), r.Header.Get(headerRepeated) != ""
	}
	return out.result(reply{b, m.To.Name, m.ID, r})
}

// How long request waits before it asks again.
const (
	firstReask = 2 * time.Millisecond
	lastReask  = 250 * time.Millisecond
)

// request asks until somebody takes the message. It asks again only where it is
// sure that nothing ran, or where the message has an idempotency key.
func (b *Bus) request(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	if isKeyed(m) {
		return b.requestKeyed(ctx, m)
	}
	return b.requestOnce(ctx, m)
}

// requestOnce is request for a command that must not run twice.
func (b *Bus) requestOnce(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	for wait := firstReask; ; wait = min(2*wait, lastReask) {
		r, err := b.ask(ctx, m)
		if err == nil || !nothingRan(err) {
			return r, err
		}
		b.log.Debug("command not taken, asking again", "name", m.To.Name, "id", m.ID, "err", err)
		if !sleep(ctx, wait/2+rand.N(wait)) {
			if ctx.Err() == context.Canceled {
				return nil, untaken(m.To.Name, m.ID, err)
			}
			return nil, err // what kept it from running, not the deadline
		}
	}
}

// ask asks once: the session's handler if the message belongs to a session, and
// the bus's if the session has none. That the session's handler cannot be reached
// is not that there is none: its record tells, and another handler would not do.
func (b *Bus) ask(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	if m.Session != "" {
		m.To.Session = m.Session
		r, err := b.askAt(ctx, m)
		if err == nil {
			return r, b.expiredReply(m, r)
		} else if !errors.Is(err, transport.ErrNoHandler) {
			return nil, err
		}
		if err := b.lease.unserved(ctx, m.To); err != nil {
			return nil, err
		}
		m.To.Session = ""
	}
	return b.askAt(ctx, m)
}

// expiredReply is ErrStopping for the reply of a process whose session has ended:
// nothing ran there.
func (b *Bus) expiredReply(m, r *transport.Message) error {
	if Code(r.Header.Get(headerError)) != CodeUnavailable {
		return nil
	}
	var e *Error
	if err := b.replyError(m, r); errors.As(err, &e) && e.Attempts == 0 && e.Details[detailExpired] == m.Session {
		return fmt.Errorf("%w: %w", transport.ErrStopping, err)
	}
	return nil
}

func (b *Bus) askAt(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	if b.finishing(ctx, m.To.Session) { // the transport takes no more for this process's handlers
		if h := b.handlerHere(m.To.Session, m.To.Name); h != nil {
			return h.loop(ctx, m)
		}
	}
	return b.tr.Request(ctx, m)
}

// untaken is a caller that cancelled while nobody had taken its command yet,
// because of why.
func untaken(name, id string, why error) error {
	return &Error{
		Code: CodeCancelled, Op: "execute", Name: name, ID: id,
		Message: "cancelled before a handler took it; nothing ran: " + why.Error(),
		cause:   errors.Join(context.Canceled, why),
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
func (b *Bus) replyError(m, r *transport.Message) error {
	w, ok := r.Value.(wireError)
	if !ok {
		if err := json.Unmarshal(r.Body, &w); err != nil {
			w = wireError{Message: "the handler failed and its error cannot be read"}
		}
		if w.Code = Code(r.Header.Get(headerError)); checkName(string(w.Code)) != nil {
			w.Code = CodeFailed // no code, but it is an error
		}
	}
	return b.fromWire(m.To.Name, m.ID, w)
}
