package bustest

import (
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// Script says what is to go wrong with messages of type M. It begins at On, which
// means the first such message; Nth, Each and the filters choose others, and the
// last call says what happens:
//
//	bustest.On[OrderPlaced](h).Fail(errors.New("mail server down"))
//	bustest.On[OrderPlaced](h).Nth(3).InGroup("mailer").DropAck()
//	bustest.On[OrderPlaced](h).Where(isLarge).Each().Fail(bus.Permanent(errLarge))
//
// Messages are counted from when the script is made, those alone that pass its
// filters. What a script does is a failure that is meant, and so is that of a
// handler whose own messages it made fail. One with a number that is never reached
// fails the test when it ends.
type Script[M any] struct {
	h *Harness
	s script
}

// script is what is to go wrong, and how often it has.
type script struct {
	name           string // the wire name, "" for a type that has none
	is             func(value any) bool
	nth            int // 0: each
	group, handler *string

	action action
	err    error
	delay  time.Duration

	// Guarded by faults.mu.
	seen  map[string]int // by handler, group or for all: see action
	fired bool
}

// action is what a script does. Handlings are counted for each handler, acks for
// each group, and publications for all.
type action uint8

const (
	failHandling action = iota + 1
	dropAck
	duplicate
	delayPublish
	failPublish
)

func (a action) String() string {
	return [...]string{failHandling: "Fail", dropAck: "DropAck", duplicate: "Duplicate",
		delayPublish: "DelayPublish", failPublish: "FailPublish"}[a]
}

// On begins a script for the first message of type M: the first whose handling
// begins, which with several runs at once need not be the first that was sent.
// Choose a particular one with Where, or handle one at a time
// (bus.WithConcurrency(1)). It does nothing until an action ends it, such as Fail.
func On[M any](h *Harness) Script[M] {
	name, _ := bus.NameOf[M]() // a defined command is known by its type
	return Script[M]{h: h, s: script{name: name, nth: 1, is: func(v any) bool {
		_, ok, err := as[M](v, "")
		return ok && err == nil
	}}}
}

// Nth chooses the n-th message, from 1, counted as On does.
func (s Script[M]) Nth(n int) Script[M] {
	s.h.t.Helper()
	if n < 1 {
		s.h.t.Fatalf("bustest: Nth(%d): messages are counted from 1", n)
	}
	s.s.nth = n
	return s
}

// Each chooses every message.
func (s Script[M]) Each() Script[M] {
	s.s.nth = 0
	return s
}

// Where narrows the script to messages for which f is true.
func (s Script[M]) Where(f func(M) bool) Script[M] {
	was, name := s.s.is, s.s.name
	s.s.is = func(v any) bool {
		m, ok, err := as[M](v, name)
		return ok && err == nil && was(v) && f(m)
	}
	return s
}

// InGroup narrows Fail and DropAck to one group.
func (s Script[M]) InGroup(group string) Script[M] {
	s.s.group = &group
	return s
}

// ByHandler narrows Fail to handlers of one name, as Query.ByHandler does.
func (s Script[M]) ByHandler(name string) Script[M] {
	s.s.handler = &name
	return s
}

// Fail makes a handler fail with err instead of running; a batch handler fails for
// that event and runs with the others. The middleware of Config.Receiving sees the
// error, that of one handler does not. Each handler's runs are counted for
// themselves, retries too.
func (s Script[M]) Fail(err error) {
	s.h.t.Helper()
	if err == nil {
		s.h.t.Fatalf("bustest: Fail(nil): a handler that returns nil has not failed")
	}
	s.s.err = err
	s.add(failHandling)
}

// DropAck loses the acknowledgement of an event that was handled: the group gets
// it again when Config.AckWait has passed. Acknowledgements are counted for each
// group; private listeners have none to lose.
func (s Script[M]) DropAck() { s.add(dropAck) }

// Duplicate stores an event twice, so that each of its readers gets it twice, with
// the same id.
func (s Script[M]) Duplicate() { s.add(duplicate) }

// DelayPublish makes a Publish take d longer, before the event is stored.
func (s Script[M]) DelayPublish(d time.Duration) {
	s.s.delay = d
	s.add(delayPublish)
}

// FailPublish makes a Publish fail because of err, such as
// transport.ErrUnavailable; nothing of that call is stored.
func (s Script[M]) FailPublish(err error) {
	s.h.t.Helper()
	if err == nil {
		s.h.t.Fatalf("bustest: FailPublish(nil): a Publish that returns nil has not failed")
	}
	s.s.err = err
	s.add(failPublish)
}

func (s Script[M]) add(a action) {
	own := s.s
	own.action = a
	own.seen = map[string]int{}
	s.h.faults.add(&own)
}

// String is what people are told of a script.
func (s *script) String() string {
	which := "each"
	if s.nth > 0 {
		which = fmt.Sprintf("number %d", s.nth)
	}
	return fmt.Sprintf("%s of %s, %s", s.action, s.name, which)
}
