package bus

import (
	"context"
	"reflect"
	"runtime"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Command, embedded in a struct, makes it a command whose result is an R. Put
// it first: it takes no room there and adds nothing to the encoded message.
//
// A package that must not import bus writes the method itself instead:
//
//	func (CreateUser) Returns(UserID) {}
type Command[R any] struct{}

// Returns ties the command to its result. It is never called.
func (Command[R]) Returns(R) {}

// Returning is what a command with the result R implements.
type Returning[R any] interface{ Returns(R) }

// None is the result of a command that has none. Such a command embeds
// Command[None], is handled with HandleNone and sent with Do.
type None struct{}

// Handle registers fn as the one handler of command C in scope s. It is live
// when Handle returns, and lives as long as the scope. fn runs up to 64 times at
// once (WithConcurrency), under a context that ends with the caller's deadline
// and with the scope; a panic of fn is an error to the caller.
//
// A failure is the caller's to deal with, unless the handler has a retry policy
// (WithRetry, Config.Retries, Config.CommandRetry). Then fn runs again here, while its
// caller waits and within its deadline: a retry that would begin after that is not made,
// and the caller has the last error at once, with the number of runs in Error.Attempts.
// Never followed by a retry are Permanent, what the policy calls final, the errors of
// Config.Errors, CodeInvalid, what a middleware returned without calling fn, and the end
// of the caller's time. What waits keeps its place in WithConcurrency; Close ends the
// wait, and the caller has the last error. Only fn's author knows whether it may run
// twice.
//
// Processes of one service (Config.Service) share a command and compete for
// it. ErrHandled: this scope has a handler for it. ErrOwned: another live
// service handles it. CodeInvalid: C or an option breaks a rule.
// CodeUnavailable: the broker cannot confirm that nobody else owns it. ctx
// bounds the registration only.
func Handle[C Returning[R], R any](ctx context.Context, s Scope, fn func(context.Context, C) (R, error), opts ...HandleOption) error {
	if fn == nil {
		return errorf(CodeInvalid, "handle", "", "handler of %v is nil", reflect.TypeFor[C]())
	}
	return s.scope().handle(ctx, newCommandHandler(fn), opts)
}

// HandleNone is Handle for a command without a result.
func HandleNone[C Returning[None]](ctx context.Context, s Scope, fn func(context.Context, C) error, opts ...HandleOption) error {
	if fn == nil {
		return errorf(CodeInvalid, "handle", "", "handler of %v is nil", reflect.TypeFor[C]())
	}
	return Handle(ctx, s, func(ctx context.Context, c C) (None, error) { return None{}, fn(ctx, c) }, opts...)
}

// Execute sends command c and returns the result of its handler. R is inferred
// from C. Without a deadline in ctx it ends after Config.ExecuteTimeout (30 s).
//
// A failure is an *Error: CodeNoHandler, CodeBusy and CodeUnavailable mean that
// nothing ran (Execute asks again by itself, within the deadline, where that is
// sure); CodeFailed and CodePanic come from the handler; CodeTimeout,
// CodeCancelled and CodeUnknown mean that the handler may have run. With
// WithIdempotencyKey the command can be sent again all the same.
//
// With Config.CommandBreaker, or one for this command, CodeOpen comes at once while
// its circuit breaker is open in this process: nothing ran, and Error.RetryIn tells
// for how long. What counts as a failure is that of a handler (CodeFailed without a
// registered error, CodePanic) and no answer in time (CodeBusy, CodeUnavailable,
// CodeTimeout, CodeUnknown). A registered error, and a code of the handler's own, is
// an answer. Everything else, such as what the caller did wrong (CodeInvalid,
// CodeCancelled) or CodeNoHandler, counts neither way. Half-open, it lets one command
// through at a time.
//
// CodeNoHandler comes at once, within tens of milliseconds, whatever the
// deadline: a caller that starts before any handler does gets it, and asks again
// itself if it wants to wait. What the handler's own calls of the bus return is
// CodeFailed to the caller, with their message, details and registered error.
//
// The handler does not see ctx's values. It sees its deadline, and goes on when
// ctx is cancelled.
//
// A command becomes a dead letter if its handler panicked, or if its retry policy has
// not mended its failure (Config.Capture, WithCapture): Error.DeadLetter names it, and
// DeadLetters can redrive it. It is stored before the caller is answered, unless the
// store is slow: the answer waits for at most a second and half of the time that is
// left, and then comes without the id. While the dead letters are half full, or the
// store refuses them, no command becomes one: the rest is for events. That is logged,
// and the caller has the error all the same.
//
// With a transport in this process and a ctx that cannot be cancelled (its Done is
// nil, as of context.Background) a handler without middleware and retries runs on the
// caller's own goroutine:
// Execute then returns when the handler does, which sees Config.ExecuteTimeout as
// its deadline and may ignore it.
func Execute[C Returning[R], R any](ctx context.Context, s Scope, c C, opts ...ExecuteOption) (R, error) {
	sc := s.scope()
	if len(opts) == 0 {
		if h := sc.direct(ctx, reflect.TypeFor[C]()); h != nil {
			if fn, ok := h.typed.(func(context.Context, C) (R, error)); ok {
				return runDirect(ctx, sc, h, fn, c)
			}
		}
	}
	v, err := sc.execute(ctx, c, "", decodeResult[R], opts)
	if err != nil {
		var zero R
		return zero, err
	}
	return resultOf[R](v)
}

// Do is Execute for a command without a result.
func Do[C Returning[None]](ctx context.Context, s Scope, c C, opts ...ExecuteOption) error {
	_, err := Execute(ctx, s, c, opts...)
	return err
}

func newCommandHandler[C, R any](fn func(context.Context, C) (R, error)) *commandHandler {
	return &commandHandler{
		goType: reflect.TypeFor[C](),
		typed:  fn,
		stored: decodeBody[R],
		inner: func(ctx context.Context, v any) (r any, err error) {
			defer recovered(&err)
			c, err := convert[C](v)
			if err != nil {
				return nil, err
			}
			return fn(ctx, c)
		},
	}
}

// resultOf unboxes a result; the nil of an interface type has no type to assert.
func resultOf[R any](v any) (R, error) {
	r, ok := v.(R)
	if !ok && v != nil {
		return r, errorf(CodeFailed, "execute", "", "a middleware returned a %T where the command returns %v", v, reflect.TypeFor[R]())
	}
	return r, nil
}

// decodeResult returns the R of a reply. Without one the handler has run all the
// same.
func decodeResult[R any](r reply) (any, error) {
	if r.m.Value != nil || r.b.inProcess {
		v, err := resultOf[R](r.m.Value)
		return v, r.unusable(err)
	}
	return decodeBody[R](r)
}

// decodeBody returns the R of an encoded reply.
func decodeBody[R any](r reply) (any, error) {
	var v R
	if _, none := any(v).(None); none || r.m.Header.Get(headerNil) != "" {
		return v, nil
	}
	target := any(&v)
	if t := reflect.TypeFor[R](); t.Kind() == reflect.Pointer {
		v = reflect.New(t.Elem()).Interface().(R)
		target = v
	}
	err := r.b.decode(r.name, r.m.ContentType, r.m.Body, target)
	return v, r.unusable(err)
}

// runDirect calls a handler of this process without a transport.
func runDirect[C, R any](ctx context.Context, s *scope, h *commandHandler, fn func(context.Context, C) (R, error), c C) (R, error) {
	var r R
	err := checkDirect(h, c)
	if !s.bus.observed() {
		if err == nil && !s.bus.guards {
			r, err = callDirect(ctx, s.newDirectCall(ctx, h), h, fn, c)
		} else if err == nil {
			r, err = callGuarded(ctx, s.newDirectCall(ctx, h), h, fn, c)
		}
		h.info.sends.count(err)
		return r, err
	}
	began := s.bus.now()
	m := &transport.Message{To: transport.Address{Name: h.info.name}}
	if err == nil {
		k := s.newDirectCall(ctx, h)
		m.ID, m.CorrelationID = k.id(), k.correlationID()
		m.Session, m.CausationID = k.envelope().Session, k.envelope().CausationID
		r, err = callGuarded(ctx, k, h, fn, c)
	}
	h.info.sends.count(err)
	s.bus.observeSent(KindCommand, m, c, began, err)
	return r, err
}

// checkDirect refuses a command that must not be sent.
func checkDirect[C any](h *commandHandler, c C) error {
	if isNilPointer(h.goType, c) {
		return errorf(CodeInvalid, "execute", h.info.name, "command is nil")
	}
	if h.info.validates {
		return h.info.validate("execute", c)
	}
	return nil
}

// callDirect makes the call k: on the caller's goroutine when nothing can end it
// early, else on another.
func callDirect[C, R any](ctx context.Context, k *call, h *commandHandler, fn func(context.Context, C) (R, error), c C) (R, error) {
	var zero R
	if ctx.Done() == nil {
		if err := h.enter(ctx, k); err != nil {
			return zero, err
		}
		return invoke(k, h, fn, c, nil)
	}
	if err := ctx.Err(); err != nil {
		return zero, fromTransport("execute", h.info.name, "", err)
	}
	if err := h.enter(ctx, k); err != nil {
		return zero, err
	}
	run := &directRun[R]{done: make(chan struct{})}
	go invoke(k, h, fn, c, run)
	if err := awaitDirect(ctx, k, run.done); err != nil {
		return zero, fromTransport("execute", h.info.name, k.id(), err)
	}
	if run.err != nil {
		return zero, run.err
	}
	return run.r, nil
}

type directRun[R any] struct {
	r    R
	err  error
	done chan struct{}
}

// tell leaves the result for who waits. A nil run is one that nobody waits for.
func (run *directRun[R]) tell(r R, err error) {
	if run != nil {
		run.r, run.err = r, err
		close(run.done)
	}
}

// awaitDirect waits for a handler until the caller's context or the call's own
// deadline ends. It first lets the handler run: most are done before a timer
// would be made.
func awaitDirect(ctx context.Context, k *call, done <-chan struct{}) error {
	runtime.Gosched()
	select {
	case <-done:
		return nil
	default:
	}
	if d, ok := ctx.Deadline(); ok && !k.deadline.Before(d) {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	t := time.NewTimer(time.Until(k.deadline))
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return context.DeadlineExceeded
	}
}

// invoke runs fn, gives back what enter took, and returns what the caller is to have,
// or leaves it in run.
func invoke[C, R any](k *call, h *commandHandler, fn func(context.Context, C) (R, error), c C, run *directRun[R]) (r R, err error) {
	err = errGoexit // unless fn returns or panics
	defer func() {
		h.tally.ran(err)
		if err != nil {
			var zero R
			r, err = zero, h.invokeFailed(k, c, err, func(err error) { run.tell(zero, err) })
			return
		}
		h.leave(k)
		run.tell(r, nil)
	}()
	if h.scope.bus.observed() || h.tally.isMetered() {
		return invokeTimed(k, h, fn, c)
	}
	defer recovered(&err)
	return fn(k, c)
}

// invokeFailed is the end of an invoke that has failed: it returns the caller's error.
func (h *commandHandler) invokeFailed(k *call, v any, err error, tell func(error)) error {
	r := &running{k: k, err: err}
	err = h.ended(r, v)
	h.answered(r, func() { tell(err) })
	return err
}

func invokeTimed[C, R any](k *call, h *commandHandler, fn func(context.Context, C) (R, error), c C) (R, error) {
	var r R
	b := h.scope.bus
	began := b.clock()
	err := error(errGoexit)
	defer func() {
		took := b.clock() - began
		b.timed(h.tally, timingRun, took)
		if b.observed() {
			b.observeHandled(k, c, took, err)
		}
	}()
	r, err = func() (r R, err error) {
		defer recovered(&err)
		return fn(k, c)
	}()
	return r, err
}

// isNilPointer avoids reflection for the common command, a struct.
func isNilPointer[C any](t reflect.Type, c C) bool {
	return t.Kind() == reflect.Pointer && reflect.ValueOf(c).IsNil()
}
