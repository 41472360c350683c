package bus

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// errGoexit is a handler that ended its goroutine instead of returning.
var errGoexit = &panicError{value: "handler called runtime.Goexit"}

// commandHandler is the one handler of a command in a scope.
type commandHandler struct {
	scope  *scope
	info   *typeInfo
	name   string // the defined name, "" for a type that names itself
	who    *identity
	goType reflect.Type                            // what fn takes
	typed  any                                     // func(context.Context, C) (R, error)
	inner  func(context.Context, any) (any, error) // typed, with its value unboxed; a panic is an error
	stored func(reply) (any, error)                // decodes a result that was kept
	run    Func                                    // the receiving chain around inner; nil if there is none
	own    []Middleware                            // the handler's own part of it
	retry  *resilience.Retry                       // nil: it is never run again
	// capture says which of its failures become dead letters.
	capture Capture
	tally   *tally

	// slots bounds what runs at once, whichever way it came, and holds one for
	// each that does.
	slots slots
	// attached bounds the calls that wait for another run of their idempotency key,
	// and holds one for each that does; closing ends their wait.
	attached chan struct{}
	closing  context.Context
	stop     context.CancelFunc

	live   atomic.Bool // takes calls of this process
	source transport.Source[transport.Request]
	// stopping is closed when no retry is to wait or begin any more.
	stopping chan struct{}
	stopOnce sync.Once
	pump     *pump[transport.Request]
}

// handle registers h. The order matters: the name is reserved here, then owned
// among services, then served, and only then is h live.
func (s *scope) handle(ctx context.Context, h *commandHandler, opts []HandleOption) error {
	const op = "handle"
	b := s.bus
	var err error
	if h.name != "" {
		h.info, err = b.types.define(h.goType, h.name)
	} else {
		h.info, err = b.types.lookup(h.goType)
	}
	if err != nil {
		return withOp(err, op)
	}
	var o handleOptions
	for _, opt := range opts {
		opt.handle(&o)
	}
	if err := invalidOptions(op, h.info.name, o.errs); err != nil {
		return err
	}
	if o.concurrency == 0 {
		o.concurrency = defaultCommandConcurrency
	}
	h.scope = s
	h.who = &identity{ids: b.ids, kind: KindCommand, name: h.info.name, handler: b.cfg.Service}
	h.tally = b.tallies.open(h.who, s.session == nil)
	h.slots, h.own = newSlots(o.concurrency), o.middleware
	h.attached = make(chan struct{}, attachedPerRun*o.concurrency)
	h.closing, h.stop = context.WithCancel(context.Background())
	h.retry, h.stopping = b.commandRetry(h.info.name, o.retry), make(chan struct{})
	h.capture = b.captureOf(o.capture)
	if len(b.cfg.Receiving)+len(o.middleware) > 0 {
		h.run = protect(chain(b.cfg.Receiving, chain(o.middleware, func(ctx context.Context, m *Message) (any, error) {
			if m.ran != nil {
				m.ran.Store(true)
			}
			return h.inner(ctx, m.Value)
		})))
	}
	if err := s.reserve(h); err != nil {
		return err
	}
	b.meter(h.tally)
	if err := h.serve(ctx, o.concurrency); err != nil {
		s.remove(h)
		return err
	}
	return nil
}

func (h *commandHandler) serve(ctx context.Context, concurrency int) error {
	b, name := h.scope.bus, h.info.name
	ctx, cancel := context.WithTimeout(ctx, b.cfg.PublishTimeout)
	defer cancel()
	at := h.scope.address(name)
	if err := b.lease.own(ctx, at); err != nil {
		return fromTransport("handle", name, "", err)
	}
	src, err := b.tr.Serve(ctx, transport.Endpoint{Address: at, Backlog: 4 * concurrency})
	if err != nil {
		b.lease.undo(ctx, at)
		return fromTransport("handle", name, "", err)
	}
	h.source = src
	h.pump = newPump(src, concurrency, b.log.With("name", name), h.answer)
	h.pump.start()
	h.live.Store(true)
	if err := h.scope.publish(h); err != nil {
		h.close(ctx)
		b.lease.undo(ctx, at)
		return err
	}
	b.slow.add(h)
	return nil
}

// close ends one handler of a scope that goes on, waiting for what runs until ctx
// ends.
func (h *commandHandler) close(ctx context.Context) {
	if !h.live.Swap(false) {
		return
	}
	h.scope.remove(h)
	h.stopIntake(ctx)
	quiet(ctx, []*commandHandler{h})
}

// stopIntake stops taking requests from the transport, has those answered that
// wait there or for another run of their key, and waits for those that were taken.
func (h *commandHandler) stopIntake(ctx context.Context) {
	h.stopRetries()
	if err := h.source.Close(ctx); err != nil {
		h.scope.bus.log.Warn("command source not closed", "name", h.info.name, "err", err)
	}
	h.stop()
	h.pump.wait(ctx)
	until(ctx, func() bool { return len(h.attached) == 0 })
}

// attachedPerRun is how many calls may wait for other runs for each that may run.
const attachedPerRun = 16

// enter takes a slot for k, waiting for one until k's deadline or ctx's end.
func (h *commandHandler) enter(ctx context.Context, k *call) error {
	if !h.slots.try(k) {
		if err := h.wait(ctx, k); err != nil {
			return err
		}
	}
	if !h.live.Load() {
		h.slots.leave(k)
		return h.scope.gone("execute", k.who.name)
	}
	if err := h.scope.expired("execute", k.who.name); err != nil {
		h.slots.leave(k)
		return err
	}
	return nil
}

func (h *commandHandler) wait(ctx context.Context, k *call) error {
	late := make(chan struct{})
	t := time.AfterFunc(time.Until(k.deadline), func() { close(late) })
	defer t.Stop()
	if h.slots.wait(k, ctx.Done(), late) {
		return nil
	}
	why := fmt.Errorf("all %d runs of the handler were busy", h.slots.limit())
	if ctx.Err() == context.Canceled {
		return untaken(k.who.name, k.id(), why)
	}
	return &Error{
		Code: CodeBusy, Op: "execute", Name: k.who.name, ID: k.id(),
		Message: why.Error() + " until the deadline; nothing ran", cause: context.DeadlineExceeded,
	}
}

// leave gives back what enter took.
func (h *commandHandler) leave(k *call) {
	k.end()
	h.slots.leave(k)
}

// conclude logs a failure, also when nobody waits for it any more, or makes a dead
// letter of it, and returns it as the caller may take it.
func (h *commandHandler) conclude(r *running, v any) error {
	if r.err == nil {
		return nil
	}
	err := r.err
	if r.k.attempt > 0 { // something ran
		err = r.k.outcome(err)
	}
	if h.captures(r) {
		return h.keep(r, v, err)
	}
	if !r.logged {
		h.scope.bus.logCommand(r.k, r.err)
	}
	return err
}

// ended is conclude for a caller of this process, who sees no more and no less of the
// error than one of another process.
func (h *commandHandler) ended(r *running, v any) error {
	err := h.conclude(r, v)
	if err == nil {
		return nil
	}
	b, k := h.scope.bus, r.k
	return b.fromWire(k.who.name, k.id(), b.toWire(err, int(k.attempt)))
}

// answered gives back what enter took and answers the caller. Where there is something
// to do after the answer, that still has its place.
func (h *commandHandler) answered(r *running, answer func()) {
	if r.late == nil {
		h.leave(r.k)
		answer()
		return
	}
	answer()
	r.late()
	h.leave(r.k)
}

// newDirectCall is the call of a command that never leaves the process.
func (s *scope) newDirectCall(ctx context.Context, h *commandHandler) *call {
	k := &call{lazyContext: lazyContext{parent: h.scope.work}, who: h.who, attempt: 1}
	if d, ok := ctx.Deadline(); ok {
		k.deadline = d
	} else {
		k.deadline = s.bus.now().Add(s.bus.cfg.ExecuteTimeout)
	}
	if c := callFrom(ctx); c != nil {
		k.from = &transport.Message{CausationID: c.id(), CorrelationID: c.correlationID(), Session: s.id()}
	} else if s.session != nil {
		k.from = &transport.Message{Session: s.session.id}
	}
	return k
}

// local runs the handler for a message of this process that had to take the
// sending chain, and returns when ctx ends at the latest.
func (h *commandHandler) local(ctx context.Context, m *transport.Message, out *outgoing) (any, error) {
	if isKeyed(m) {
		return h.localKeyed(ctx, m, out)
	}
	k := h.scope.newDirectCall(ctx, h)
	k.msgID, k.from = m.ID, m
	if err := h.enter(ctx, k); err != nil {
		return nil, err
	}
	run := &directRun[any]{done: make(chan struct{})}
	go func() {
		r := &running{k: k}
		defer func() { // also when the handler ends this goroutine
			run.r, run.err = r.result, h.ended(r, m.Value)
			h.answered(r, func() { close(run.done) })
		}()
		h.handleAll(r, m.Value)
	}()
	if err := awaitDirect(ctx, k, run.done); err != nil {
		return nil, fromTransport("execute", k.who.name, m.ID, err)
	}
	if run.err != nil {
		return nil, run.err
	}
	if out.receipt != nil {
		out.receipt.Service = h.scope.bus.cfg.Service
	}
	return out.result(reply{h.scope.bus, k.who.name, m.ID, &transport.Message{Value: run.r}})
}

// answer runs the handler for a request of the transport and replies.
func (h *commandHandler) answer(req transport.Request) {
	k := h.call(req)
	if !h.slots.try(k) {
		h.slots.wait(k, nil, nil) // direct calls take them too; bounded by their deadlines
	}
	h.serveOne(k, req)
}

// serveOne runs the handler for a request whose slot is taken, and replies.
func (h *commandHandler) serveOne(k *call, req transport.Request) {
	tm := req.Message()
	if isKeyed(tm) {
		h.serveKeyed(k, req)
		return
	}
	var v any
	var refused error
	r := &running{k: k}
	defer func() { // also when the handler ends this goroutine
		err := h.conclude(r, v)
		h.answered(r, func() { h.reply(r.k, req, r.result, err) })
	}()
	v, refused = h.open(k, tm)
	if refused != nil {
		k.attempt = 0 // nothing ran
		r.err = refused
		h.tally.refuse(refused)
		return
	}
	h.handleAll(r, v)
}

// open decodes the command of a request. Its error says why the handler is not
// to see it.
func (h *commandHandler) open(k *call, tm *transport.Message) (any, error) {
	if tm.Malformed != nil {
		return nil, errorf(CodeInvalid, "", "", "malformed request: %w", tm.Malformed)
	}
	if err := h.scope.expired("", ""); err != nil {
		return nil, err
	}
	if !k.deadline.IsZero() && !time.Now().Before(k.deadline) {
		return nil, errorf(CodeTimeout, "", "", "the deadline passed before the handler was free; nothing ran")
	}
	v := tm.Value
	if v == nil {
		var err error
		if v, err = h.scope.bus.decodeNew(h.info, tm.ContentType, tm.Body); err != nil {
			return nil, err
		}
	}
	return v, h.info.validate("", v)
}

// handle runs the handler in its chain. A panic is an error.
func (h *commandHandler) handle(k *call, v any) (result any, err error) {
	b := h.scope.bus
	var began time.Time
	if b.observed() || h.tally.isMetered() {
		began = b.now()
	}
	err = errGoexit
	defer func() { // also when the handler ends this goroutine
		h.tally.ran(err)
		if began.IsZero() {
			return
		}
		took := time.Since(began)
		b.timed(h.tally, timingRun, took)
		if b.observed() {
			b.observeHandled(k, v, took, err)
		}
	}()
	return h.chained(k, v)
}

func (h *commandHandler) chained(k *call, v any) (result any, err error) {
	if h.run == nil {
		return h.inner(k, v)
	}
	m := k.message(v)
	m.ran = new(atomic.Bool)
	result, err = h.run(k, m)
	if err != nil && !m.ran.Load() {
		err = &refusedError{err}
	}
	return result, err
}

func (h *commandHandler) call(req transport.Request) *call {
	m := req.Message()
	return &call{
		lazyContext: lazyContext{parent: h.scope.work, deadline: req.Deadline()},
		who:         h.who, from: m, msgID: m.ID, attempt: 1,
	}
}
