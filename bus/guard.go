package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/resilience"
)

// guardOf returns the circuit before a command, nil without Config.CommandBreaker.
func (b *Bus) guardOf(info *typeInfo) *guard {
	if !b.guards {
		return nil
	}
	if g := info.guard.Load(); g != nil {
		return g
	}
	return b.breakers.guardCommand(info)
}

// guardCommand makes the circuit before a command, on its first use.
func (bs *breakers) guardCommand(info *typeInfo) *guard {
	policy, ok := bs.b.cfg.CommandBreakers[info.name]
	if !ok {
		if bs.b.cfg.CommandBreaker == nil {
			return nil
		}
		policy = *bs.b.cfg.CommandBreaker
	}
	if policy.FailureThreshold == resilience.NeverOpens {
		return nil
	}
	g := &guard{kind: KindCommand, name: info.name}
	bs.making.Lock()
	defer bs.making.Unlock()
	if was := info.guard.Load(); was != nil {
		return was
	}
	bs.add(g, policy)
	info.guard.Store(g)
	return g
}

// sendCommand sends a command through its circuit, if it has one. Each run of a
// sending middleware that sends again comes here.
func (b *Bus) sendCommand(ctx context.Context, out *outgoing) (v any, err error) {
	g := out.guard
	if g == nil || ctx.Err() != nil { // the caller has given up, which tells nothing
		return b.deliver(ctx, out)
	}
	p, wait, ok := g.enter()
	if !ok {
		return nil, g.refuse(out.message.ID, wait)
	}
	o := failed // also when decoding the result ends this goroutine
	defer func() { p.done(o, "") }()
	v, err = b.deliver(ctx, out)
	o = said(err)
	return v, err
}

// callGuarded is callDirect through the command's circuit.
func callGuarded[C, R any](ctx context.Context, k *call, h *commandHandler, fn func(context.Context, C) (R, error), c C) (r R, err error) {
	g := h.scope.bus.guardOf(h.info)
	if g == nil || ctx.Err() != nil {
		return callDirect(ctx, k, h, fn, c)
	}
	p, wait, ok := g.enter()
	if !ok {
		return r, g.refuse(k.id(), wait)
	}
	o := failed // also when the handler ends this goroutine
	defer func() { p.done(o, "") }()
	r, err = callDirect(ctx, k, h, fn, c)
	o = said(err)
	return r, err
}

// refuse is the error of a command that an open circuit keeps back. An event handler
// that returns it runs again when the circuit may let it through.
func (g *guard) refuse(id string, wait time.Duration) error {
	e := &Error{Code: CodeOpen, Op: "execute", Name: g.name, ID: id, RetryIn: wait}
	if wait <= 0 {
		e.Message = "its circuit breaker is half-open and waits for the result of another command; nothing ran"
		return e
	}
	e.Message = fmt.Sprintf("its circuit breaker is open after too many failures, for %v more; nothing ran", wait.Round(time.Millisecond))
	e.cause = &retryAfterError{errors.New(e.Message), wait}
	return e
}

// said is what the result of a command says of who handles it. What the caller has
// done says nothing; an error that the handler answered with by design, one that is
// registered or a code of its own, says that it is well.
func said(err error) outcome {
	if err == nil {
		return succeeded
	}
	var e *Error
	if !errors.As(err, &e) {
		return neutral // not the bus's
	}
	switch e.Code {
	case CodeBusy, CodeUnavailable, CodeTimeout, CodeUnknown, CodePanic:
		if errors.Is(err, ErrClosed) || e.Details[detailExpired] != "" {
			return neutral // this bus, or the session
		}
		return failed
	case CodeFailed:
		switch {
		case e.Wire != "":
			return succeeded
		case e.permanent:
			return neutral
		}
		return failed
	case CodeInvalid, CodeNoHandler, CodeCancelled, CodeTooLarge, CodeBacklog, CodeConflict, CodeNotFound,
		CodePermission, CodeClosed, CodeOpen:
		return neutral
	default:
		return succeeded
	}
}

// checkBreakers reports what is wrong with the breakers of c.
func (c Config) checkBreakers(bad func(format string, args ...any)) {
	for name, b := range map[string]*resilience.Breaker{"CommandBreaker": c.CommandBreaker, "EventBreaker": c.EventBreaker} {
		if b == nil {
			continue
		}
		if err := b.Validate(); err != nil {
			bad("Config.%s: %w", name, err)
		}
	}
	for name, b := range c.CommandBreakers {
		if err := errors.Join(checkName(name), b.Validate()); err != nil {
			bad("Config.CommandBreakers: %q: %w", name, err)
		}
	}
}
