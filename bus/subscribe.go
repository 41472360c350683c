package bus

import (
	"context"
	"fmt"
	"reflect"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// Subscribe registers fn as a listener for event E in scope s. It is live when
// Subscribe returns, and lives as long as the scope or until the subscription is
// closed. fn runs up to 16 times at once (WithConcurrency).
//
// By default the listener joins the durable group of its service: each event is
// handled by one process of the group, also when all were away when it was
// published. WithGroup names another group, WithPrivate gives every process its
// own copy. Handlers of one event in one group are one dispatch, in the order
// of WithPriority. One that joins a group which is being read here already gets
// what is read from then on: subscribe those that belong together in Bus.Together.
//
// A listener of a session is in no group: it hears the session's events while the
// session is open here, in the order of WithPriority, and ends with it.
//
// What fn returns decides: nil, the event is done; an error, fn runs again after
// the retry policy's delay, and after the last attempt the event becomes a dead
// letter; Permanent(err), a dead letter at once; RetryAfter(d, err), a delay of
// its own. A panic is an error. Delivery is at least once: fn may see an event
// again after a crash and must be idempotent.
//
// An event is read-only: fn of a pointer type shares the one decoded value with
// the other listeners of its group in this process and with its own retries, and
// on a transport that keeps values in the process with everybody.
//
// ctx bounds the registration only. The error is an *Error: CodeInvalid (a
// command, an invalid option, no group), CodeConflict (a second handler without
// WithName; an existing group of another make), CodeUnavailable, CodeClosed.
func Subscribe[E any](ctx context.Context, s Scope, fn func(context.Context, E) error, opts ...SubscribeOption) (*Subscription, error) {
	if fn == nil {
		return nil, errorf(CodeInvalid, "subscribe", "", "handler of %v is nil", reflect.TypeFor[E]())
	}
	return s.scope().subscribe(ctx, reflect.TypeFor[E](), func(ctx context.Context, v any) (err error) {
		defer recovered(&err)
		e, err := convert[E](v)
		if err != nil {
			return err
		}
		return fn(ctx, e)
	}, opts)
}

// Subscription is a listener that was registered. Most callers drop it.
type Subscription struct {
	s *scope
	r *reader
	l *listener
}

// Close ends the listener: no run of it begins any more, and what it is handling
// is waited for until ctx ends (or Config.CloseTimeout, if it has no deadline),
// when the error is of CodeTimeout and names it; its context stays alive, its
// event stays its own, and Close of the bus waits for it again. With the last
// listener of a group the events not yet started go back to the group, which
// itself stays. What other listeners of the group have handled and this one has
// not, such as a retry, is passed on to another process that has a listener of
// this name; if none takes it within about a minute it is a dead letter of
// CodeNoHandler. A second Close waits too and returns nil once nothing runs.
// Called from the listener itself it waits in vain.
func (sub *Subscription) Close(ctx context.Context) error {
	return sub.s.unsubscribe(ctx, sub.r, sub.l)
}

const defaultListener = "default"

func (s *scope) subscribe(ctx context.Context, t reflect.Type, inner func(context.Context, any) error, opts []SubscribeOption) (*Subscription, error) {
	const op = "subscribe"
	b := s.bus
	info, err := b.types.lookup(t)
	if err != nil {
		return nil, withOp(err, op)
	}
	if info.command {
		return nil, errorf(CodeInvalid, op, info.name, "%v is a command: give it a handler with Handle", t)
	}
	o := subscribeOptions{name: defaultListener, priority: PriorityNormal, group: b.cfg.Service}
	o.concurrency = defaultEventConcurrency
	for _, opt := range opts {
		opt.subscribe(&o)
	}
	o.check(s)
	if err := invalidOptions(op, info.name, o.errs); err != nil {
		return nil, err
	}
	reg := registered{goType: t, middleware: o.middleware, filters: o.filters}
	if !b.cfg.ReceiveFilter.isZero() {
		o.filters = append([]Filter{b.cfg.ReceiveFilter}, o.filters...)
	}
	l := &listener{
		who:  &identity{ids: b.ids, kind: KindEvent, name: info.name, group: o.group, handler: o.name},
		name: o.name, priority: o.priority, retry: b.eventRetry(info.name),
		sieve: newSieve(o.filters), inner: inner, batch: o.batch, slots: make(chan struct{}, o.concurrency),
		gone: make(chan struct{}), drained: make(chan struct{}), reg: reg,
	}
	if o.private {
		l.who.private = b.ids.next()
	}
	if len(b.cfg.Receiving)+len(o.middleware) > 0 {
		l.run = protect(chain(b.cfg.Receiving, chain(o.middleware, func(ctx context.Context, m *Message) (any, error) {
			if m.in != nil {
				return nil, m.in.handle(ctx)
			}
			return nil, inner(ctx, m.Value)
		})))
	}
	if o.retry != nil {
		l.retry = *o.retry
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.PublishTimeout)
	defer cancel()
	if info.name == (SessionEnded{}).MessageName() {
		b.reaper.start() // so that there is one to see to it
	}
	r, err := s.attach(ctx, info, l, &o)
	if err != nil {
		return nil, fromTransport(op, info.name, "", err)
	}
	return &Subscription{s, r, l}, nil
}

// ahead is how many deliveries may wait in the transport.
func (o *subscribeOptions) ahead() int {
	switch {
	case o.prefetch != 0:
		return o.prefetch
	case o.batch != nil:
		return min(o.batch.size*o.concurrency, maxBatchSize)
	}
	return 2 * o.concurrency
}

// check finds what no single option can see.
func (o *subscribeOptions) check(s *scope) {
	o.checkBatch(s.bus)
	groupGiven := o.group != s.bus.cfg.Service
	if s.session != nil {
		if groupGiven {
			o.bad("a session's listeners are in no group: they end with it")
		}
		o.private, groupGiven = true, false
	}
	switch {
	case !o.private && o.breaker == nil:
		o.breaker = s.bus.cfg.EventBreaker
	case o.private && o.breaker != nil:
		o.bad("WithBreaker is for groups, whose events wait while it is open: those of a private or session listener would be lost to it")
	}
	if o.queue != nil && !o.private {
		o.bad("WithQueue is for private and session listeners: a durable group loses nothing, what it has not handled waits in the log")
	}
	if o.breaker != nil && o.breaker.FailureThreshold == resilience.NeverOpens {
		o.breaker = nil
	}
	if o.prefetch != 0 && o.private {
		o.bad("WithPrefetch is for groups: a private or session listener has its events to itself")
	}
	switch {
	case o.private && groupGiven:
		o.bad("WithPrivate and WithGroup exclude each other")
	case o.private && o.start != (transport.Start{}):
		o.bad("a private subscription starts now; WithStart is for groups")
	case o.private:
		o.group = ""
	case o.group == "" && len(o.errs) == 0:
		o.bad("no group: set Config.Service, or use WithGroup for a durable group or WithPrivate for a listener of this process alone")
	}
}

// attach adds l to the reader of its group, opening the reader for the first.
func (s *scope) attach(ctx context.Context, info *typeInfo, l *listener, o *subscribeOptions) (*reader, error) {
	key := readerKey{group: o.group, name: info.name}
	for {
		r, first, err := s.claimReader(key, info, l, o)
		if err != nil {
			return nil, err
		}
		s.bus.meter(l.tally)
		if first {
			return r, s.openReader(ctx, r, o)
		}
		select { // another Subscribe is opening it
		case <-r.ready:
			if r.add(l) {
				r.missed(l)
				return r, nil
			}
			// It failed or has closed since: start over.
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// claimReader returns the reader for key, making it if there is none.
func (s *scope) claimReader(key readerKey, info *typeInfo, l *listener, o *subscribeOptions) (r *reader, first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { // its name is known, and nobody has seen it yet
		if err == nil && l.tally == nil {
			l.tally = s.bus.tallies.open(l.who, !o.private)
		}
	}()
	if s.closing {
		return nil, false, s.gone("subscribe", info.name)
	}
	if s.session != nil && l.name == defaultListener {
		s.unnamed++
		l.name = fmt.Sprintf("listener-%d", s.unnamed)
		l.who.handler = l.name
	}
	if s.session != nil && (o.batch != nil || o.queue != nil) {
		key.alone = l.name
	}
	l.reg.breaker, l.reg.queue = o.breaker, o.queue
	if o.private && s.session == nil {
		r = newReader(s, key, info, l)
		s.privates[r] = struct{}{}
		return r, true, nil
	}
	if r = s.readers[key]; r == nil {
		r = newReader(s, key, info, l)
		r.breaker = o.breaker
		s.readers[key] = r
		return r, true, nil
	}
	if !o.sameBreaker(r.breaker) {
		return nil, false, errorf(CodeConflict, "subscribe", info.name,
			"group %q has one circuit breaker for it, %s: give every handler the same WithBreaker", key.group, breakerText(r.breaker))
	}
	if s.session == nil && (r.batch != nil || o.batch != nil) {
		return nil, false, errorf(CodeConflict, "subscribe", info.name,
			"group %q has a handler for it already, and a batch handler has its group alone: give it a WithGroup", key.group)
	}
	if r.has(l.name) {
		where := fmt.Sprintf("group %q", key.group)
		if s.session != nil {
			where = fmt.Sprintf("session %q", s.session.id)
		}
		return nil, false, errorf(CodeConflict, "subscribe", info.name,
			"%s has a handler %q for it already: give each a WithName", where, l.name)
	}
	if o.start != (transport.Start{}) {
		return nil, false, errorf(CodeConflict, "subscribe", info.name,
			"group %q is being read already: WithStart is for its first handler", key.group)
	}
	if o.prefetch != 0 {
		return nil, false, errorf(CodeConflict, "subscribe", info.name,
			"group %q is being read already: WithPrefetch is for its first handler", key.group)
	}
	return r, false, nil
}

// openReader subscribes r at the transport.
func (s *scope) openReader(ctx context.Context, r *reader, o *subscribeOptions) error {
	subscribe := func(ctx context.Context, prefetch int) (deliverySource, error) {
		return s.read(ctx, transport.Subscription{
			Name: r.key.name, Group: r.key.group, Session: s.id(), Start: o.start,
			AckWait: s.bus.cfg.AckWait, MaxAckPending: s.bus.cfg.MaxAckPending,
			Prefetch: prefetch,
		}, o.filters)
	}
	src, err := subscribe(ctx, o.ahead())
	if err != nil {
		s.dropReader(r)
		r.fail()
		return err
	}
	if r.breaker != nil {
		src = newValve(r, *r.breaker, src, o.ahead(), subscribe)
	}
	if o.queue != nil {
		src = newInbox(s.bus, *o.queue, r.key.name+"/"+r.listeners[0].name, s.id(), src)
	}
	r.start(src, o.concurrency)
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing { // Close did not see the source yet
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		r.close(ctx)
		return s.gone("subscribe", r.key.name)
	}
	return nil
}

func (s *scope) dropReader(r *reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers[r.key] == r {
		delete(s.readers, r.key)
	}
	delete(s.privates, r)
}

// unsubscribe takes l from r, and ends r with its last listener.
func (s *scope) unsubscribe(ctx context.Context, r *reader, l *listener) error {
	s.mu.Lock()
	last := r.remove(l)
	if last {
		if s.readers[r.key] == r {
			delete(s.readers, r.key)
		}
		s.privates[r] = struct{}{} // until nothing runs any more: Close waits for that
	}
	s.mu.Unlock()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.bus.cfg.CloseTimeout)
		defer cancel()
	}
	if last {
		r.close(ctx)
	}
	if !awaitClosed(ctx, l.drained) {
		return errorf(CodeTimeout, "close", r.key.name, "handler %q still runs: %w", l.name, ctx.Err())
	}
	return nil
}
