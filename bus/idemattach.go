package bus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// idemLook is how often a call that waits for another run looks at the record,
// whatever it hears: a watch may be late.
const idemLook = 5 * time.Second

// errHandlerStops ends the wait for another run.
var errHandlerStops = errors.New("handler is closing")

// attach waits for the run that has the key, and has a turn when the key is free.
// The handler's attached holds a place for it, which stopIntake waits for.
func (x *keyedCall) attach(v any, settle func(keyedOutcome)) {
	defer func() { <-x.h.attached }()
	ctx, cancel := context.WithCancelCause(x.h.scope.work) // x.k may be cancelled for a lost claim
	defer cancel(nil)
	if d, ok := x.k.Deadline(); ok {
		bounded, stop := context.WithDeadline(ctx, d)
		defer stop()
		ctx = bounded
	}
	defer context.AfterFunc(x.h.closing, func() { cancel(errHandlerStops) })()
	if x.caller != nil {
		defer context.AfterFunc(x.caller, func() { cancel(context.Cause(x.caller)) })()
	}
	for {
		o := x.await(ctx)
		if o == nil {
			o = x.reenter(ctx)
		}
		if o != nil {
			x.k.end()
			settle(*o)
			return
		}
		if x.turn(v, settle) {
			return
		}
	}
}

// await waits until the other run has come to something, and returns its outcome;
// nil if the key is free.
func (x *keyedCall) await(ctx context.Context) *keyedOutcome {
	b := x.h.scope.bus
	w := b.idem.join(x.key)
	defer b.idem.leave(w)
	for ctx.Err() == nil {
		changed := w.next()
		e, err := b.tr.Store().Get(ctx, x.key)
		var rec idemRecord
		if err == nil {
			if rec, err = parseIdemRecord(e.Value); err != nil {
				return x.unreadable(err)
			}
			if standing, o := x.judge(&rec); standing != standTaken {
				return o
			}
		} else if errors.Is(err, transport.ErrNotFound) {
			if x.ran {
				return lostClaim()
			}
			return nil
		}
		look := time.NewTimer(idemLook)
		select {
		case <-changed:
		case <-look.C:
		case <-ctx.Done():
		}
		look.Stop()
	}
	return x.gaveUp(ctx)
}

// lostClaim is the outcome of a run that has lost its claim to nobody who came to
// something.
func lostClaim() *keyedOutcome {
	return &keyedOutcome{failed: &wireError{
		Code: CodeUnknown, Attempts: 1, Message: "the handler ran, and lost its claim on the idempotency key meanwhile",
	}}
}

// reenter takes a slot again.
func (x *keyedCall) reenter(ctx context.Context) *keyedOutcome {
	h := x.h
	if !h.slots.try(x.k) && !h.slots.wait(x.k, ctx.Done(), nil) {
		return x.gaveUp(ctx)
	}
	err := h.scope.expired("", "")
	if err == nil && !h.live.Load() {
		err = errorf(CodeUnavailable, "", "", "%w; nothing ran", errHandlerStops)
	}
	if err != nil {
		h.slots.leave(x.k)
		return nothingRun(err)
	}
	return nil
}

// gaveUp is the outcome of a wait that has ended too early.
func (x *keyedCall) gaveUp(ctx context.Context) *keyedOutcome {
	switch cause := context.Cause(ctx); {
	case x.ran:
		return lostClaim()
	case errors.Is(cause, context.DeadlineExceeded), errors.Is(cause, context.Canceled):
		return &keyedOutcome{failed: &wireError{Code: CodeTimeout, Message: "another run of its idempotency key was still under way"}}
	default: // the handler or its session ends; others may have it
		return nothingRun(errorf(CodeUnavailable, "", "", "%w; nothing ran", cause))
	}
}

// idemWatches tells the calls that wait for a record when it changes. Those of one
// key share a watch of the store.
type idemWatches struct {
	store transport.Store
	wg    sync.WaitGroup

	mu    sync.Mutex
	byKey map[string]*idemWatch
}

type idemWatch struct {
	key     string
	waiting int // calls
	stop    context.CancelFunc
	mu      sync.Mutex
	changed chan struct{} // closed by the next change
}

func newIdemWatches(store transport.Store) *idemWatches {
	return &idemWatches{store: store, byKey: map[string]*idemWatch{}}
}

// join begins to watch a key, for one call.
func (ws *idemWatches) join(key string) *idemWatch {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.byKey[key]
	if w == nil {
		ctx, cancel := context.WithCancel(context.Background())
		w = &idemWatch{key: key, stop: cancel, changed: make(chan struct{})}
		ws.byKey[key] = w
		ws.wg.Go(func() { ws.run(ctx, w) })
	}
	w.waiting++
	return w
}

// leave ends it.
func (ws *idemWatches) leave(w *idemWatch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w.waiting--; w.waiting == 0 {
		delete(ws.byKey, w.key)
		w.stop()
	}
}

// run watches until nobody waits. A watch that fails is begun again; those who wait
// look for themselves meanwhile.
func (ws *idemWatches) run(ctx context.Context, w *idemWatch) {
	for ctx.Err() == nil {
		if src, err := ws.store.Watch(ctx, w.key); err == nil {
			for err == nil {
				if _, err = src.Next(ctx); err == nil {
					w.tell()
				}
			}
			closing, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = src.Close(closing) // it ends with the transport at the latest
			cancel()
		}
		sleep(ctx, time.Second)
		w.tell()
	}
}

// next returns a channel that the next change closes.
func (w *idemWatch) next() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *idemWatch) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

// close waits for the watches; no call waits any more.
func (ws *idemWatches) close(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		ws.wg.Wait()
		close(done)
	}()
	awaitClosed(ctx, done)
}
