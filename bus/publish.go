package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Publish stores an event and returns once it is stored; every group that
// listens for it will get it at least once. Nobody needs to listen. Without a
// deadline in ctx it ends after Config.PublishTimeout (10 s).
//
// A failure is an *Error. CodeUnknown, CodeTimeout and CodeCancelled: it may be
// stored; publishing again WithID the same id within the dedup window stores it
// once. Every other code: it is not stored. A nil event, a command, an invalid
// option and a Validate error are of CodeInvalid, a body over the transport's
// limit of CodeTooLarge, a full log of CodeBacklog.
//
// In a process-local transport the value is shared with its listeners: it is
// read-only from then on.
func Publish(ctx context.Context, s Scope, event any, opts ...PublishOption) error {
	sc := s.scope()
	m := new(transport.Message)
	if !sc.bus.observed() {
		return sc.publishOne(ctx, m, event, opts, nil)
	}
	began, seen := sc.bus.now(), &passage{value: event}
	err := sc.publishOne(ctx, m, event, opts, seen)
	sc.bus.observePublished(m, seen, began, err)
	return err
}

// publishOne fills in m and sends it.
func (s *scope) publishOne(ctx context.Context, m *transport.Message, event any, opts []PublishOption, seen *passage) error {
	o := publishing(opts)
	sends, err := s.event(ctx, m, event, &o)
	if err != nil {
		sends.count(err)
		return err
	}
	if seen == nil && s.bus.withholds() {
		seen = new(passage)
	}
	if _, ok := ctx.Deadline(); !ok || o.timeout > 0 {
		bounded := &lazyContext{parent: ctx, timeout: cmp.Or(o.timeout, s.bus.cfg.PublishTimeout)}
		defer bounded.end()
		ctx = bounded
	}
	err = s.bus.sendEvent(ctx, m, nil, seen)
	sends.event(seen, err)
	return err
}

// withholds reports whether an event may be kept back without an error.
func (b *Bus) withholds() bool { return len(b.cfg.Sending) > 0 || b.cfg.PublishFilter.Pass != nil }

// publishing applies options. Without any it allocates nothing.
func publishing(opts []PublishOption) publishOptions {
	if len(opts) == 0 {
		return publishOptions{}
	}
	o := new(publishOptions)
	for _, opt := range opts {
		opt.publish(o)
	}
	return *o
}

// PublishAll stores several events with one call, in the order given where that
// matters (events of one key). Not all or nothing: when some are not stored the
// error is a *PublishError that tells which. An event that cannot be sent at all
// (nil, a command, invalid) keeps the others from being sent. The sending chain
// of each event runs before the first is stored.
func PublishAll(ctx context.Context, s Scope, events ...any) error {
	if len(events) == 0 {
		return nil
	}
	sc := s.scope()
	all := batch{events: len(events)}
	all.sends = make([]*sendTally, len(events))
	all.seen = make([]passage, len(events))
	if !sc.bus.observed() {
		err := sc.publishAll(ctx, &all, events)
		all.count(err)
		return err
	}
	began := sc.bus.now()
	all.sent = make([]*transport.Message, len(events))
	for i, e := range events {
		all.seen[i].value = e
	}
	err := sc.publishAll(ctx, &all, events)
	all.count(err)
	all.observe(sc.bus, began, err)
	return err
}

func (s *scope) publishAll(ctx context.Context, all *batch, events []any) error {
	var o publishOptions
	for i, e := range events {
		m := new(transport.Message)
		all.next = i
		if all.sent != nil {
			all.sent[i] = m
		}
		sends, err := s.event(ctx, m, e, &o)
		all.sends[i] = sends
		if err == nil {
			err = s.bus.sendEvent(ctx, m, all, &all.seen[i])
		}
		if err != nil {
			return fmt.Errorf("event %d of %d: %w", i+1, len(events), err)
		}
	}
	ctx, cancel := o.bound(ctx, s.bus.cfg.PublishTimeout)
	defer cancel()
	return all.publish(ctx, s.bus)
}

// batch is what a PublishAll has collected.
type batch struct {
	events   int // given to PublishAll
	next     int // the event whose sending chain runs
	messages []*transport.Message
	of       []int // of each message, the event

	// Of each event; nil where the call did not come to it.
	sends []*sendTally
	seen  []passage
	// For observers; nil without any.
	sent []*transport.Message
}

// collector takes messages that are ready, instead of the transport.
type collector interface{ add(m *transport.Message) }

// add takes the message of the event whose chain runs. A middleware may send it
// twice, or not at all.
func (l *batch) add(m *transport.Message) {
	if n := len(l.messages); n > 0 && l.messages[n-1] == m {
		return
	}
	l.messages, l.of = append(l.messages, m), append(l.of, l.next)
}

func (l *batch) publish(ctx context.Context, b *Bus) error {
	if len(l.messages) == 0 {
		return nil
	}
	var err error
	if r := b.pressure.rate; r == nil {
		err = b.tr.Publish(ctx, l.messages...)
	} else if refused := r.admit(ctx, "", "", len(l.messages)); refused != nil {
		return refused
	} else {
		err = r.store(ctx, b.tr, l.messages...)
	}
	var pe *transport.PublishError
	if !errors.As(err, &pe) || len(pe.Outcomes) != len(l.messages) {
		return fromTransport("publish", "", "", err)
	}
	all := &PublishError{Errors: make([]error, l.events)}
	for i, out := range pe.Outcomes {
		all.Errors[l.of[i]] = fromOutcome(l.messages[i], out)
	}
	return all
}

// count counts what became of each event that the call came to.
func (l *batch) count(err error) {
	own := ownErrors(err)
	for i, sends := range l.sends {
		if sends != nil {
			sends.event(&l.seen[i], own(i))
		}
	}
}

// observe tells what became of each event.
func (l *batch) observe(b *Bus, began time.Time, err error) {
	own := ownErrors(err)
	for i, m := range l.sent {
		if m == nil { // not looked at
			m = new(transport.Message)
		}
		b.observePublished(m, &l.seen[i], began, own(i))
	}
}

// ownErrors finds the error of each event. When one keeps the others from being
// sent, its error is theirs too.
func ownErrors(err error) func(i int) error {
	var each *PublishError
	if !errors.As(err, &each) {
		return func(int) error { return err }
	}
	return func(i int) error { return each.Errors[i] }
}

// PublishError says which events of a PublishAll were not stored. It unwraps to
// their errors.
type PublishError struct {
	// Errors has an entry for each event, in the order given: nil if it is
	// stored (or a middleware kept it from being sent without an error), else
	// what Publish would have returned.
	Errors []error
}

func (e *PublishError) Error() string {
	failed := e.Unwrap()
	if len(failed) == 0 {
		return "publish: all stored"
	}
	return fmt.Sprintf("publish: %d of %d events not stored; first: %v", len(failed), len(e.Errors), failed[0])
}

// Unwrap returns the errors of the events that were not stored.
func (e *PublishError) Unwrap() []error {
	var errs []error
	for _, err := range e.Errors {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// event fills in the message of an event that is about to be sent, except its
// body. It returns where to count what becomes of it, also with an error.
func (s *scope) event(ctx context.Context, m *transport.Message, v any, o *publishOptions) (*sendTally, error) {
	if isNil(v) {
		return s.bus.types.unnamed(KindEvent), errorf(CodeInvalid, "publish", "", "event is nil")
	}
	info, err := s.bus.typeOf(v, "")
	if err != nil {
		return s.bus.types.unnamed(KindEvent), withOp(err, "publish")
	}
	m.To.Name = info.name
	return &info.sends, s.fill(ctx, m, info, v, o)
}

// fill is event for an event of a known type.
func (s *scope) fill(ctx context.Context, m *transport.Message, info *typeInfo, v any, o *publishOptions) error {
	const op = "publish"
	b := s.bus
	if info.command {
		return errorf(CodeInvalid, op, info.name, "%T is a command: send it with Execute", v)
	}
	if err := invalidOptions(op, info.name, o.errs); err != nil {
		return err
	}
	if err := s.open(ctx, op, info.name); err != nil {
		return err
	}
	if err := info.validate(op, v); err != nil {
		return err
	}
	m.ID, m.Key, m.Value, m.Header = o.id, o.key, v, o.header
	if !o.at.IsZero() || o.delay > 0 {
		if err := o.due(m); err != nil {
			return errorf(CodeInvalid, op, info.name, "%w", err)
		}
	}
	if m.ID == "" {
		m.ID = b.ids.next()
		m.Fresh = len(b.cfg.Sending) == 0 // a middleware may send it twice
	}
	if err := s.inherit(ctx, m); err != nil {
		return errorf(CodeInvalid, op, info.name, "%w", err)
	}
	m.To.Session = m.Session
	return nil
}

// due sets when the event of a WithAt or WithDelay is delivered.
func (o *publishOptions) due(m *transport.Message) error {
	now := time.Now()
	at := o.at
	if at.IsZero() {
		at = now.Add(o.delay)
	}
	if at.Year() > lastYear {
		return fmt.Errorf("delivery in the year %d: no driver carries times after %d", at.Year(), lastYear)
	}
	m.SentAt = now // else it is about when the driver stores it, which is free
	if at.After(now) {
		m.DeliverAt = at
	}
	return nil
}

// lastYear is the last whole year of times in int64 nanoseconds.
const lastYear = 2261

// sendEvent sends an event through the sending chain and stores it, or gives it to
// a collector. seen, if not nil, learns what became of it.
func (b *Bus) sendEvent(ctx context.Context, m *transport.Message, to collector, seen *passage) error {
	if len(b.cfg.Sending) == 0 {
		if b.cfg.PublishFilter.Pass != nil && !b.publishes(newMessage(KindEvent, m, outgoing{})) {
			return nil
		}
		return b.store(ctx, m, to, seen)
	}
	_, err := b.send(ctx, newMessage(KindEvent, m, outgoing{message: m, to: to, seen: seen}))
	return fromChain("publish", m.To.Name, m.ID, err)
}

// store is the end of an event's way.
func (b *Bus) store(ctx context.Context, m *transport.Message, to collector, seen *passage) error {
	v := m.Value
	if seen != nil {
		seen.value, seen.passed, seen.queued = v, true, to != nil
	}
	m.Value = nil
	if err := b.encode("publish", m.To.Name, v, m); err != nil {
		return err
	}
	if to != nil {
		to.add(m)
		return nil
	}
	var err error
	if r := b.pressure.rate; r == nil {
		err = b.tr.Publish(ctx, m)
	} else if refused := r.admit(ctx, m.To.Name, m.ID, 1); refused != nil {
		return refused
	} else {
		err = r.store(ctx, b.tr, m)
	}
	if err == nil {
		return nil
	}
	var pe *transport.PublishError
	if errors.As(err, &pe) && len(pe.Outcomes) == 1 {
		return fromOutcome(m, pe.Outcomes[0])
	}
	return fromTransport("publish", m.To.Name, m.ID, err)
}
