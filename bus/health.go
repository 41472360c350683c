package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// Condition is how well something is.
type Condition string

const (
	// OK: it works.
	OK Condition = "ok"
	// Degraded: it works, and somebody should look.
	Degraded Condition = "degraded"
	// Unavailable: it does not work, or is about to end.
	Unavailable Condition = "unavailable"
)

// Health is how a bus is, as Bus.Health tells. Its form as JSON is stable.
type Health struct {
	// Condition is the worst of the checks'.
	Condition Condition `json:"condition"`
	// Time is when the checks were made.
	Time   time.Time     `json:"time"`
	Checks []HealthCheck `json:"checks"`
}

// HealthCheck is one thing that is well or not.
type HealthCheck struct {
	// Name is "bus", "readers", "lease", "breakers" where there are circuit breakers, or
	// one of the transport's: "transport" of
	// transport/memory; "connection", "jetstream", "streams", "consumers" and
	// "durability" of transport/nats.
	Name      string    `json:"name"`
	Condition Condition `json:"condition"`
	// Text says why it is not OK, or what is worth knowing. It may name subjects,
	// streams and servers.
	Text string `json:"text,omitempty"`
}

// Ready reports whether the process should be sent work: nothing is Unavailable.
func (h Health) Ready() bool { return h.Condition != Unavailable }

// Err returns nil if the bus is ready, and else an *Error of CodeUnavailable with
// the checks that fail.
func (h Health) Err() error {
	if h.Ready() {
		return nil
	}
	var errs []error
	for _, c := range h.Checks {
		if c.Condition == Unavailable {
			errs = append(errs, errors.New(c.Name+": "+c.Text))
		}
	}
	return errorf(CodeUnavailable, "health", "", "%w", errors.Join(errs...))
}

// healthTimeout bounds a Health without a deadline.
const healthTimeout = 2 * time.Second

// Health looks how the bus is. It asks the broker, within ctx and at most 2 s, so it
// is for once in a while and for people; package health answers probes from what it
// said last. It works on a closed bus too, and never fails: what cannot be found out
// is a check that fails.
func (b *Bus) Health(ctx context.Context) Health {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	h := Health{Condition: OK, Checks: []HealthCheck{b.ownHealth(), b.readersHealth(), b.leaseHealth()}}
	if all := b.Breakers(); len(all) > 0 {
		h.Checks = append(h.Checks, breakersHealth(all))
	}
	if d, ok := b.tr.(transport.HealthChecker); ok {
		for _, c := range d.Health(ctx) {
			h.Checks = append(h.Checks, checkOf(c))
		}
	}
	for _, c := range h.Checks {
		h.Condition = worse(h.Condition, c.Condition)
	}
	h.Time = time.Now()
	return h
}

func checkOf(c transport.Check) HealthCheck {
	switch {
	case c.Err == nil:
		return HealthCheck{Name: c.Name, Condition: OK, Text: c.Note}
	case c.Usable:
		return HealthCheck{Name: c.Name, Condition: Degraded, Text: c.Err.Error()}
	default:
		return HealthCheck{Name: c.Name, Condition: Unavailable, Text: c.Err.Error()}
	}
}

func worse(a, b Condition) Condition {
	order := []Condition{OK, Degraded, Unavailable}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}

func (b *Bus) ownHealth() HealthCheck {
	c := HealthCheck{Name: "bus", Condition: Unavailable}
	switch {
	case isClosed(b.done):
		c.Text = "closed"
	case b.closed.Load():
		c.Text = "closing"
	case b.draining.Load():
		c.Text = "draining"
	default:
		c.Condition = OK
	}
	return c
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// readersHealth tells of sources that hand out errors instead of messages.
func (b *Bus) readersHealth() HealthCheck {
	c := HealthCheck{Name: "readers", Condition: OK}
	for _, s := range append(scopesOf(b.sessions.all()), b.root) {
		if name, err := s.failing(); err != nil {
			return HealthCheck{Name: c.Name, Condition: Degraded, Text: name + ": " + err.Error()}
		}
	}
	return c
}

// failing returns one of the scope's sources that hands out errors.
func (s *scope) failing() (string, error) {
	for _, h := range s.handlers() {
		if h.live.Load() {
			if err := h.pump.failing(); err != nil {
				return h.info.name, err
			}
		}
	}
	s.mu.Lock()
	readers := slices.AppendSeq(slices.Collect(maps.Values(s.readers)), maps.Keys(s.privates))
	s.mu.Unlock()
	for _, r := range readers {
		r.mu.Lock()
		open := r.opened && !r.closing
		r.mu.Unlock()
		if open {
			if err := r.pump.failing(); err != nil {
				return r.key.name, err
			}
		}
	}
	return "", nil
}

// breakersHealth is Degraded while a circuit is not closed: what it spares is ill, and
// this process would be no better elsewhere.
func breakersHealth(all []BreakerStats) HealthCheck {
	c := HealthCheck{Name: "breakers", Condition: OK}
	var texts []string
	for _, s := range all {
		switch {
		case s.State == resilience.BreakerClosed:
		case s.Kind == KindEvent:
			texts = append(texts, fmt.Sprintf("%s of group %s is %s: its events wait", s.Name, s.Group, s.State))
		default:
			texts = append(texts, fmt.Sprintf("%s is %s", s.Name, s.State))
		}
	}
	if len(texts) > 0 {
		c.Condition, c.Text = Degraded, strings.Join(texts, "; ")
	}
	return c
}

func (b *Bus) leaseHealth() HealthCheck {
	c := HealthCheck{Name: "lease", Condition: OK}
	if b.lease.held() && !b.lease.valid() {
		c.Condition, c.Text = Degraded, "the process's lease is not renewed: its sessions end, and others may take its commands"
	}
	return c
}

// Drain makes the bus say that it is about to close: Health is Unavailable from now
// on, and package health's readiness probe fails, while everything goes on as
// before. So whoever sends work here, such as a load balancer in front of the
// process, has time to stop before Close. Close drains first, and Run waits for
// Config.DrainDelay in between.
func (b *Bus) Drain() {
	if !b.draining.Swap(true) {
		b.log.Info("bus draining")
	}
}

// Draining reports whether Drain or Close was called. It costs next to nothing.
func (b *Bus) Draining() bool { return b.draining.Load() }
