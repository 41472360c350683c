package bus

import (
	"context"
	"sync"
	"sync/atomic"
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
	noted bool // by note
	// place is a call's: of a command, among those that run. Here it takes no room.
	place int32

	// Nearly every context ends without anybody having asked for Done, so ending
	// one takes no lock: it stores ended before it looks for real, and who makes
	// real stores that before it looks for ended. One of them sees the other.
	ended atomic.Bool
	real  atomic.Pointer[realContext] // nil until somebody asks for Done; mu is held to make it
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
	if r := c.real.Load(); r != nil {
		return r.Err()
	}
	if c.ended.Load() {
		return context.Canceled
	}
	if err := c.parent.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	deadline := c.deadline
	c.mu.Unlock()
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. Once Done was asked for, the real context
// answers, so that a child of this one hooks into it without a goroutine.
func (c *lazyContext) Value(key any) any {
	if r := c.real.Load(); r != nil {
		return r.Value(key)
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
	if r := c.real.Load(); r != nil {
		return r
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
	c.real.Store(r)
	if c.ended.Load() {
		r.end(nil)
	}
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
	r := c.real.Load()
	if r == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.cause
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
	c.ended.Store(true)
	if r := c.real.Load(); r != nil {
		r.end(nil)
	}
}
