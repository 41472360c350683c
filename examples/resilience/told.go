package main

import (
	"context"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
)

// step is an observer: the bus tells it each step of each message.
func (s *story) step(r bus.Record) {
	e, ok := order(r.Value())
	if !ok || r.Handler != "send" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Stage == bus.StageHandled && r.Err == nil:
		s.done++
		s.line("%s mailed, attempt %d", e.Order, r.Attempt)
	case r.Stage == bus.StageHandled:
		s.line("%s failed, attempt %d: %v", e.Order, r.Attempt, r.Err)
	case r.Stage == bus.StageRetrying:
		s.line("%s waits %v for its retry", e.Order, r.Delay.Round(time.Millisecond))
	}
}

// order is the event of a record, which comes as a value or, decoded, as a pointer.
func order(v any) (OrderShipped, bool) {
	switch e := v.(type) {
	case OrderShipped:
		return e, true
	case *OrderShipped:
		return *e, true
	}
	return OrderShipped{}, false
}

// alarm is a listener, of what a pager might want to know.
func (s *story) alarm(_ context.Context, e bus.DeadLettered) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alarms++
	s.line("alarm: %s failed for good at %s/%s, attempt %d: %s", e.Name, e.Group, e.Handler, e.Attempts, e.Err)
	return nil
}

// breakerChanged is told of each change of the breaker, in order.
func (s *story) breakerChanged(c bus.BreakerChanged) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c.To {
	case resilience.BreakerOpen:
		s.opened++
		s.line("breaker open: %s pauses %s", c.Group, c.Name)
	case resilience.BreakerHalfOpen:
		s.line("breaker half-open: one order is tried")
	case resilience.BreakerClosed:
		s.closed = true
		s.line("breaker closed: %s goes on", c.Group)
	}
}
