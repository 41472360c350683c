package bus

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// keyedCall is a command with an idempotency key at its handler. It has its turn with
// a slot of the handler: it claims the key and runs, or finds what became of an
// earlier run. If another run has the claim it waits for that without a slot.
type keyedCall struct {
	h      *commandHandler
	k      *call
	caller context.Context // of a caller in this process; nil for one that the transport brought

	key   string    // of the record
	run   string    // of the run that may come of it
	body  string    // the digest of the command
	asked time.Time // when its caller asked first, if this is another try; else zero

	waits bool // it has found another run, whose outcome is its own if there is one
	ran   bool // it has run, and lost its claim: it waits for the other's outcome only
}

// keyedOutcome is what becomes of a keyedCall.
type keyedOutcome struct {
	result any
	err    error
	ran    bool        // the handler ran for it, and this is what it returned
	kept   *idemRecord // it is what an earlier run had come to, a success
	failed *wireError  // or a failure
	logged bool        // the log has err already
	late   func()      // to be called after the answer
}

// nothingRun is the outcome of a call that did not get as far as the handler.
func nothingRun(err error) *keyedOutcome { return &keyedOutcome{err: err} }

// keyed returns the keyedCall of a message that has a key. Its error says why the
// handler is not to see it.
func (h *commandHandler) keyed(k *call, m *transport.Message) (*keyedCall, error) {
	key := m.Header.Get(headerIdempotencyKey)
	if err := checkIdempotencyKey(key); err != nil {
		return nil, errorf(CodeInvalid, "", "", "%w", err)
	}
	body := m.Body
	if m.Value != nil {
		var err error
		if body, err = codec.Encode(h.scope.bus.cfg.Codec, m.Value); err != nil {
			return nil, errorf(CodeInvalid, "", "", "a command with an idempotency key is compared by its encoded form: %w", err)
		}
	}
	sum := sha256.Sum256(body)
	k.caused = true
	x := &keyedCall{
		h: h, k: k, key: idemKey(m, key), run: h.scope.bus.ids.next(),
		body: base64.RawURLEncoding.EncodeToString(sum[:]),
	}
	if ms, err := strconv.ParseUint(m.Header.Get(headerAsked), 10, 32); err == nil {
		x.asked = time.Now().Add(-time.Duration(ms) * time.Millisecond)
	}
	return x, nil
}

// serveKeyed is serveOne for a command with an idempotency key.
func (h *commandHandler) serveKeyed(k *call, req transport.Request) {
	tm := req.Message()
	refuse := func(err error) {
		h.leave(k)
		k.attempt = 0
		h.scope.bus.logCommand(k, err)
		h.reply(k, req, nil, err)
	}
	v, err := h.open(k, tm)
	if err != nil {
		refuse(err)
		return
	}
	x, err := h.keyed(k, tm)
	if err != nil {
		refuse(err)
		return
	}
	x.serve(v, func(o keyedOutcome) {
		x.log(&o)
		h.replyKeyed(x.k, req, o)
	})
}

// localKeyed is local for a command with an idempotency key.
func (h *commandHandler) localKeyed(ctx context.Context, m *transport.Message, out *outgoing) (any, error) {
	b := h.scope.bus
	k := h.scope.newDirectCall(ctx, h)
	k.msgID, k.from = m.ID, m
	x, err := h.keyed(k, m)
	if err != nil {
		return nil, withName(err, m)
	}
	x.caller = ctx
	if err := h.enter(ctx, k); err != nil {
		return nil, err
	}
	var o keyedOutcome
	done := make(chan struct{})
	go x.serve(m.Value, func(out keyedOutcome) {
		o = out
		x.log(&o)
		close(done)
	})
	if err := awaitDirect(ctx, k, done); err != nil {
		return nil, fromTransport("execute", k.who.name, m.ID, err)
	}
	r := reply{b, k.who.name, m.ID, &transport.Message{Value: o.result}}
	switch {
	case o.failed != nil:
		return nil, b.fromWire(k.who.name, m.ID, *o.failed)
	case o.err != nil: // its code is what it is to be already
		return nil, b.fromWire(k.who.name, m.ID, b.toWire(o.err, int(x.k.attempt)))
	case o.kept != nil:
		v, err := h.stored(reply{b, k.who.name, m.ID, o.kept.message()})
		if err != nil {
			return nil, err
		}
		r.m.Value = v
	}
	if out.receipt != nil {
		out.receipt.Service, out.receipt.Repeated = b.cfg.Service, !o.ran
	}
	return out.result(r)
}

// log tells of a failure of the call's own.
func (x *keyedCall) log(o *keyedOutcome) {
	if !o.ran {
		x.k.attempt = 0
	}
	if o.err != nil && !o.logged {
		x.h.scope.bus.logCommand(x.k, o.err)
	}
}

// withName says in an error which command it is about.
func withName(err error, m *transport.Message) error {
	var e *Error
	if errors.As(err, &e) {
		e.Op, e.Name, e.ID = "execute", m.To.Name, m.ID
	}
	return err
}

// serve has a turn, with a slot that is taken, and calls settle once: now, or from a
// goroutine of its own after it has waited for another run. k has ended by then.
func (x *keyedCall) serve(v any, settle func(keyedOutcome)) {
	if x.turn(v, settle) {
		return
	}
	select {
	case x.h.attached <- struct{}{}:
		go x.attach(v, settle)
	default:
		x.k.end()
		settle(*nothingRun(errorf(CodeBusy, "", "",
			"its idempotency key is in use, and %d calls wait for such runs already", cap(x.h.attached))))
	}
}

// turn settles the call, or reports with false that another run has the claim. It
// gives the slot back. The handler may end the goroutine.
func (x *keyedCall) turn(v any, settle func(keyedOutcome)) (settled bool) {
	o := &keyedOutcome{err: errGoexit, ran: true}
	defer func() {
		if o == nil {
			x.h.slots.leave(x.k)
			return
		}
		x.h.answered(&running{k: x.k, late: o.late}, func() { settle(*o) })
	}()
	claim, known := x.claim(false)
	if claim == nil {
		o = known
		return o != nil
	}
	o = x.handle(claim, v)
	return o != nil
}

// handle runs the handler and records what comes of it. nil: another run has taken
// the claim over, and what counts is what that comes to.
func (x *keyedCall) handle(claim *idemClaim, v any) (o *keyedOutcome) {
	r := &running{k: x.k, aborted: make(chan struct{})}
	claim.hold(r.abort)
	defer func() { // also when the handler ends this goroutine
		x.k = r.k
		if o = x.conclude(claim, r.result, x.k.outcome(r.err)); o == nil {
			return
		}
		if o.ran && r.err != nil && x.h.captures(r) {
			o.err, r.logged = x.h.keep(r, v, o.err), true
		}
		o.logged, o.late = r.logged, r.late
	}()
	x.h.handleAll(r, v)
	return nil
}

// conclude records what a run came to.
func (x *keyedCall) conclude(claim *idemClaim, result any, err error) *keyedOutcome {
	b := x.h.scope.bus
	claim.release()
	switch {
	case err == nil:
		rec := x.record(idemDone)
		contentType := x.k.envelope().ContentType
		if b.inProcess {
			contentType = b.cfg.Codec.ContentType()
		}
		rec.keep(x.h, contentType, result)
		switch failure := claim.conclude(rec, b.cfg.IdempotencyWindow); {
		case failure == nil:
			return &keyedOutcome{result: result, ran: true}
		case errors.Is(failure, ErrLeaseLost):
			return x.lost(nil)
		default:
			return &keyedOutcome{ran: true, err: errorf(CodeUnknown, "", "",
				"the handler ran, but its success could not be recorded under the idempotency key: %w", failure)}
		}
	case x.k.aborted() != nil: // it says nothing: another may run it by now
		return x.lost(err)
	case refused(err): // nothing ran
		claim.forget()
		return nothingRun(err)
	default:
		rec := x.record(idemFailed)
		w := b.toWire(err, int(x.k.attempt))
		rec.Error, rec.At = &w, time.Now().UTC()
		switch failure := claim.conclude(rec, idemFailedFor); {
		case errors.Is(failure, ErrLeaseLost):
			return x.lost(err)
		case failure != nil:
			b.log.Warn("failure not recorded under its idempotency key, which is in use until the claim ends",
				"name", x.k.who.name, "id", x.k.id(), "err", failure)
		}
		return &keyedOutcome{err: err, ran: true}
	}
}

// lost makes the call wait for the outcome of who has the claim now.
func (x *keyedCall) lost(err error) *keyedOutcome {
	x.ran = true
	x.h.scope.bus.logFailure(failureLine{
		level: slog.LevelWarn, text: "claim on an idempotency key lost; another process may run the command",
		attrs: x.k.attrs(), err: lostErr(err),
	})
	return nil
}

func (x *keyedCall) record(state idemState) idemRecord {
	return idemRecord{State: state, Run: x.run, Body: x.body}
}

// What a record says to a keyedCall.
type standing int

const (
	standFree    standing = iota // the key is to be claimed
	standTaken                   // another run has it
	standSettled                 // the outcome is known
)

// judge reads a record.
func (x *keyedCall) judge(rec *idemRecord) (standing, *keyedOutcome) {
	switch {
	case rec.State == idemFailed:
		// What its caller asked for while that run was to come is answered by it: the
		// caller may have been told already.
		if x.waits || x.ran || !x.asked.IsZero() && rec.At.After(x.asked) {
			return standSettled, &keyedOutcome{failed: rec.Error}
		}
		return standFree, nil
	case rec.Body != x.body:
		return standSettled, nothingRun(&Error{
			Code: CodeConflict, Wire: wireIdempotencyConflict, cause: ErrIdempotencyConflict,
			Message: ErrIdempotencyConflict.Error() + "; nothing ran",
		})
	case rec.State == idemRunning:
		x.waits = true
		return standTaken, nil
	case rec.NotKept != "":
		return standSettled, &keyedOutcome{failed: &wireError{
			Code: CodeFailed, Wire: wireResultNotKept, Attempts: 1,
			Message: fmt.Sprintf("%v: %s", ErrResultNotKept, rec.NotKept),
		}}
	default:
		return standSettled, &keyedOutcome{kept: rec}
	}
}

// unreadable is the outcome of a record that is not ours to read.
func (x *keyedCall) unreadable(err error) *keyedOutcome {
	return nothingRun(errorf(CodeConflict, "", "", "the record %q of the idempotency key cannot be read; nothing ran: %w", x.key, err))
}

// unavailable is the outcome of a store that does not answer.
func (x *keyedCall) unavailable(err error) *keyedOutcome {
	code := CodeUnavailable
	if errors.Is(err, transport.ErrPermission) {
		code = CodePermission
	}
	return nothingRun(errorf(code, "", "", "what became of the idempotency key is not known; nothing ran: %w", err))
}
