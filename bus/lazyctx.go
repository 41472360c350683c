package bus

import (
	"context"
	"sync"
	"time"
)

// lazyContext is a context with a deadline whose timer and channel are made when
// somebody asks for Done. Making them costs more than dispatching a message
// inside one process, and most handlers never ask.
type lazyContext struct {
	parent   context.Context
	deadline time.Time     // zero: the parent's
	timeout  time.Duration // sets deadline, counted from when it is first asked for
	caused   bool          // abort tells its cause although there is a deadline

	mu    sync.Mutex
	ended bool
	noted bool // by note
	// place is a call's: of a command, among those that run. Here it takes no room.
	place int32
	real  *realContext // nil until somebody asks for Done
}

// realContext is the context behind Done.
type realContext struct {
	context.Context
	cancel context.CancelCauseFunc // without a deadline, or if the cause is to be told
	stop   context.CancelFunc      // with one
	cause  error                   // what abort was given
}

// end cancels the context. With a deadline it tells no cause unless that was asked
// for: most of what has one, a command's call or a publish, is never aborted.
func (r *realContext) end(cause error) {
	if r.cancel != nil {
		r.cancel(cause)
	}
	if r.stop != nil {
		r.stop()
	}
}

// Deadline implements context.Context.
func (c *lazyContext) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin()
	d, ok := c.parent.Deadline()
	if c.deadline.IsZero() || ok && d.Before(c.deadline) {
		return d, ok
	}
	return c.deadline, true
}

// Done implements context.Context.
func (c *lazyContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.context().Done()
}

// Err implements context.Context.
func (c *lazyContext) Err() error {
	c.mu.Lock()
	inner, ended, deadline := c.real, c.ended, c.deadline
	c.mu.Unlock()
	switch {
	case inner != nil:
		return inner.Err()
	case ended:
		return context.Canceled
	case c.parent.Err() != nil:
		return c.parent.Err()
	case !deadline.IsZero() && !time.Now().Before(deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. Once Done was asked for, the real context
// answers, so that a child of this one hooks into it without a goroutine.
func (c *lazyContext) Value(key any) any {
	c.mu.Lock()
	inner := c.real
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.parent.Value(key)
}

// begin starts the timeout. c.mu is held.
func (c *lazyContext) begin() {
	if c.timeout > 0 {
		c.deadline, c.timeout = time.Now().Add(c.timeout), 0
	}
}

// context makes the real context. c.mu is held.
func (c *lazyContext) context() *realContext {
	if c.real != nil {
		return c.real
	}
	c.begin()
	r := new(realContext)
	parent := c.parent
	if c.caused || c.deadline.IsZero() {
		r.Context, r.cancel = context.WithCancelCause(parent)
		parent = r.Context
	}
	if !c.deadline.IsZero() {
		r.Context, r.stop = context.WithDeadline(parent, c.deadline)
	}
	if c.ended {
		r.end(nil)
	}
	c.real = r
	return r
}

// abort cancels with a cause; the first cause stays.
func (c *lazyContext) abort(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.context()
	if r.cause == nil {
		r.cause = cause
	}
	r.end(cause)
}

// aborted returns the cause given to abort, or nil.
func (c *lazyContext) aborted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		return nil
	}
	return c.real.cause
}

// note reports whether it is called for the first time.
func (c *lazyContext) note() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !c.noted
	c.noted = true
	return first
}

// end frees what the context holds.
func (c *lazyContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.real != nil {
		c.real.end(nil)
	}
}
