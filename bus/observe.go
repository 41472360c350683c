package bus

import (
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Stage is what has happened to a message.
type Stage uint8

// For one listener (Group and Handler) a delivery of an event ends in StageHandled
// without an error, StageFiltered or StageReturned, or in StageHandled with an
// error, followed by StageRetrying, StageReturned or StageDeadLettered.
const (
	// StageSent: a call of Publish or Execute has returned (for PublishAll: for
	// one event, after them all; for PublishAsync: when the event has its result).
	// Err is what it returned, Elapsed how long that took.
	StageSent Stage = iota + 1
	// StageHandled: a handler has run, with the receiving chain around it. Err is
	// what it returned, Elapsed how long it took. The event is not settled yet.
	StageHandled
	// StageRetrying: after a failed run the event waits for its next one, for
	// Delay, in this process or in the broker. A command waits where it runs. Err is
	// why.
	StageRetrying
	// StageReturned: a listener did not run, or was cut short by Close, or lost
	// the lease on its delivery. The event goes back to the group; what only a
	// private listener wanted ends with it. It also ends a wait in this process,
	// for a retry or for a listener of higher priority, when the reader closes; of a
	// command it only ends the wait for a retry, when the bus or its session closes.
	// Handler is "" if no listener was there.
	StageReturned
	// StageDeadLettered: the dead letter is stored. Err is why. Handler is "" for
	// an event that no listener could be given.
	StageDeadLettered
	// StageFiltered: a filter stopped it. On the sending side Handler is "", no
	// StageSent follows, and a middleware may have stopped it too: one that
	// returned nil without calling next. On the receiving side Err is nil for a
	// filter, and else the failure of a listener of higher priority that stopped
	// the event for good (StopPropagation).
	StageFiltered
)

// String returns the stage in lower case, such as "sent" or "dead-lettered".
func (s Stage) String() string {
	switch s {
	case StageSent:
		return "sent"
	case StageHandled:
		return "handled"
	case StageRetrying:
		return "retrying"
	case StageReturned:
		return "returned"
	case StageDeadLettered:
		return "dead-lettered"
	case StageFiltered:
		return "filtered"
	default:
		return "unknown"
	}
}

// MarshalText returns String, so that a stage is a word in JSON.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Stage) UnmarshalText(text []byte) error {
	for v := StageSent; v <= StageFiltered; v++ {
		if v.String() == string(text) {
			*s = v
			return nil
		}
	}
	return fmt.Errorf("unknown stage %q", text)
}

// Record is one step of one message, as an Observer is told of it.
type Record struct {
	Stage Stage
	Kind  Kind
	// Name is the wire name, Group and Handler who handles it; both are empty on
	// the sending side, Group also for commands and for private listeners.
	Name, Group, Handler string
	// Attempt is as in Meta; 0 on the sending side.
	Attempt int
	// Elapsed and Delay are as the stage says.
	Elapsed, Delay time.Duration
	// Queued is set on the sending side for an event of PublishAll or PublishAsync,
	// which has waited for others.
	Queued bool
	// Err is as the stage says.
	Err error

	of subject
}

// subject is the message behind a record. What most observers do not need is
// made when they ask.
type subject interface {
	meta() Meta
	body() any
}

// Meta returns the message's metadata. Its ID is "" for a message that was
// refused before it got one.
func (r Record) Meta() Meta {
	if r.of == nil {
		return Meta{Kind: r.Kind, Name: r.Name, Group: r.Group, Handler: r.Handler, Attempt: r.Attempt}
	}
	return r.of.meta()
}

// Value returns the command or event, and nil if it was never decoded. It is
// read-only.
func (r Record) Value() any {
	if r.of == nil {
		return nil
	}
	return r.of.body()
}

// Observer is told of each step of each message on this bus, on the goroutine
// that takes the step: it must be fast, must not block or call the bus, and is
// called concurrently. One that panics is logged and goes on being called. A
// Record may be kept; it then keeps its message.
type Observer func(Record)

// observed reports whether there are observers. A bus without any pays nothing:
// no clock is read and no record made.
func (b *Bus) observed() bool { return len(b.cfg.Observers) > 0 }

// observe tells the observers.
func (b *Bus) observe(r Record) {
	for _, o := range b.cfg.Observers {
		b.tell(o, r)
	}
}

func (b *Bus) tell(o Observer, r Record) {
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("observer panicked", "stage", r.Stage, "name", r.Name, "err", textOf(p))
		}
	}()
	o(r)
}

// outbound is a message on the sending side.
type outbound struct {
	kind  Kind
	m     *transport.Message
	value any
}

func (o outbound) meta() Meta {
	return Meta{
		Kind: o.kind, Name: o.m.To.Name, ID: o.m.ID, Session: o.m.Session,
		CorrelationID: o.m.CorrelationID, CausationID: o.m.CausationID, Key: o.m.Key,
		SentAt: o.m.SentAt, header: visible(o.m.Header),
	}
}

func (o outbound) body() any { return o.value }

// observeSent tells that a call which sent v, as m, has returned.
func (b *Bus) observeSent(kind Kind, m *transport.Message, v any, began time.Time, err error) {
	b.observe(Record{
		Stage: StageSent, Kind: kind, Name: m.To.Name,
		Elapsed: time.Since(began), Err: err, of: outbound{kind, m, v},
	})
}

// passage is what became of an event in the sending chain: whether it came to its
// end, and as what.
type passage struct {
	value  any
	passed bool
	queued bool
}

// observePublished tells of one event whose call has returned.
func (b *Bus) observePublished(m *transport.Message, p *passage, began time.Time, err error) {
	if p.passed || err != nil {
		b.observe(Record{
			Stage: StageSent, Kind: KindEvent, Name: m.To.Name, Queued: p.queued,
			Elapsed: time.Since(began), Err: err, of: outbound{KindEvent, m, p.value},
		})
		return
	}
	b.observe(Record{Stage: StageFiltered, Kind: KindEvent, Name: m.To.Name, of: outbound{KindEvent, m, p.value}})
}

// inbound is a message on the receiving side.
type inbound struct {
	*call
	value any
}

func (i inbound) body() any { return i.value }

// record starts the record of a step of k's message.
func (k *call) record(stage Stage, v any, err error) Record {
	return Record{
		Stage: stage, Kind: k.who.kind, Name: k.who.name, Group: k.who.group, Handler: k.who.handler,
		Attempt: int(k.attempt), Err: err, of: inbound{k, v},
	}
}

// observeHandled tells that a handler has run.
func (b *Bus) observeHandled(k *call, v any, took time.Duration, err error) {
	r := k.record(StageHandled, v, err)
	r.Elapsed = took
	b.observe(r)
}

// observeRun counts a step that a run takes outside its handler, and tells of it.
func (f *flight) observeRun(stage Stage, run *run, delay time.Duration) {
	run.l.tally.step(stage, delay)
	if !f.r.b.observed() {
		return
	}
	k := new(call)
	f.fill(k, run)
	r := k.record(stage, f.value, run.err)
	r.Delay = delay
	f.r.b.observe(r)
}

// observeSettle counts and tells of the runs that have to be made again. Those that wait in
// this delivery all wait for delay; a copy waits as long as its own run says.
func (f *flight) observeSettle(lost bool, delay time.Duration, copied bool) {
	for _, run := range f.runs {
		switch fate := run.verdict.fate; {
		case fate == fateDone || fate == fateDead || fate == fateWait && !lost:
		case lost || fate == fateReturn:
			f.observeRun(StageReturned, run, 0)
		case copied:
			f.observeRun(StageRetrying, run, run.verdict.delay)
		default:
			f.observeRun(StageRetrying, run, delay)
		}
	}
}

// observeDeadLetter counts and tells of a dead letter that is stored. Its code is
// that of the error.
func (f *flight) observeDeadLetter(d *transport.DeadLetter, cause error) {
	f.r.tally(d.Handler).step(StageDeadLettered, 0)
	if !f.r.b.observed() {
		return
	}
	f.observe(StageDeadLettered, d.Handler, d.Attempts, deadCause(d, cause))
}

// deadCause is why there is a dead letter, with its code.
func deadCause(d *transport.DeadLetter, cause error) error {
	code := Code(d.Code)
	if CodeOf(cause) == code {
		return cause
	}
	return &Error{Code: code, Op: "handle", Name: d.Message.To.Name, ID: d.Message.ID, Message: cause.Error(), Attempts: d.Attempts, cause: cause}
}

// observe tells of a step of the event for a handler, "" for none.
func (f *flight) observe(stage Stage, handler string, attempt int, err error) {
	if !f.r.b.observed() {
		return
	}
	k := &call{
		who:  &identity{ids: f.r.b.ids, kind: KindEvent, name: f.r.key.name, group: f.r.key.group, handler: handler},
		from: f.m, msgID: f.id, attempt: int32(attempt),
	}
	f.r.b.observe(k.record(stage, f.value, err))
}
