package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// replyTimeout bounds the sending of a reply, whatever became of the handler.
const replyTimeout = 5 * time.Second

// reply answers with a result, or with an error that is logged.
func (h *commandHandler) reply(k *call, req transport.Request, result any, err error) {
	b := h.scope.bus
	tm := req.Message()
	r := b.spare.message()
	if err == nil {
		if err = h.encodeResult(tm.ContentType, result, r); err != nil {
			b.logCommand(k, err)
		}
	}
	if err != nil {
		b.encodeError(r, b.toWire(err, int(k.attempt)))
	}
	h.send(k, req, r, err)
	b.spare.done(r)
}

// replyKeyed answers a command that had an idempotency key.
func (h *commandHandler) replyKeyed(k *call, req transport.Request, o keyedOutcome) {
	r := &transport.Message{}
	switch {
	case o.failed != nil:
		h.scope.bus.encodeError(r, *o.failed)
		h.send(k, req, r, &repeatedError{*o.failed})
	case o.kept == nil:
		h.reply(k, req, o.result, o.err)
	default:
		r = o.kept.message()
		if h.scope.bus.inProcess {
			v, err := h.stored(reply{h.scope.bus, k.who.name, k.id(), r})
			if err != nil {
				h.scope.bus.logCommand(k, err)
				h.reply(k, req, nil, err)
				return
			}
			r = &transport.Message{Value: v}
		}
		if r.Header == nil {
			r.Header = Header{}
		}
		r.Header.Set(headerRepeated, "1")
		h.send(k, req, r, nil)
	}
}

// repeatedError is the error of an earlier run, which its caller is told again.
type repeatedError struct{ w wireError }

func (e *repeatedError) Error() string { return e.w.Message }

// send sends the reply r, which tells of err.
func (h *commandHandler) send(k *call, req transport.Request, r *transport.Message, err error) {
	b := h.scope.bus
	if err == nil && req.Message().Header.Get(headerReceipt) != "" {
		if r.Header == nil {
			r.Header = Header{}
		}
		r.Header.Set(headerService, b.cfg.Service)
	}
	ctx := &lazyContext{parent: context.Background(), timeout: replyTimeout}
	defer ctx.end()
	sent := req.Reply(ctx, r)
	if size, ok := errors.AsType[*transport.SizeError](sent); ok {
		*r = transport.Message{}
		if err == nil {
			b.logCommand(k, fmt.Errorf("result not sent: %w", size))
		}
		b.encodeError(r, b.oversized(err, size, int(k.attempt)))
		sent = req.Reply(ctx, r)
	}
	if sent != nil {
		b.logFailure(failureLine{level: slog.LevelWarn, text: "reply not sent", attrs: k.attrs(), err: sent})
	}
}

// oversized is the reply in place of one that is too large: of a result that the
// handler ran for, or of an error with its details, which are left out.
func (b *Bus) oversized(err error, size *transport.SizeError, attempts int) wireError {
	if err == nil {
		return wireError{Code: CodeFailed, Attempts: attempts, Message: fmt.Sprintf(
			"the handler ran, but its result of %d bytes is over the limit of %d", size.Size, size.Limit)}
	}
	w := b.toWire(err, attempts)
	w.Details = nil
	return w
}

// encodeResult uses the codec that the caller used.
func (h *commandHandler) encodeResult(contentType string, result any, r *transport.Message) error {
	b := h.scope.bus
	if b.inProcess {
		r.Value = result
		return nil
	}
	return h.encodeBody(contentType, result, r)
}

// encodeBody is encodeResult for a reply that leaves the process.
func (h *commandHandler) encodeBody(contentType string, result any, r *transport.Message) error {
	b := h.scope.bus
	if _, none := result.(None); none {
		return nil
	}
	c, err := b.codecs.Lookup(contentType)
	if err != nil {
		return errorf(CodeInvalid, "", "", "%w", err)
	}
	err = b.encodeWith(c, "", "", result, r)
	if absent(result) {
		// The body is for those who do not know the header; not every codec has one.
		r.Header = Header{headerNil: {"1"}}
		return nil
	}
	if err != nil {
		return errorf(CodeFailed, "", "", "result of type %T: %w", result, err)
	}
	return nil
}

// absent reports whether a result is nil.
func absent(result any) bool {
	if result == nil {
		return true
	}
	switch v := reflect.ValueOf(result); v.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		return v.IsNil()
	default:
		return false
	}
}

func (b *Bus) encodeError(r *transport.Message, w wireError) {
	r.Header = Header{headerError: {string(w.Code)}}
	r.ContentType = ""
	if b.inProcess {
		r.Value = w
		return
	}
	body, err := json.Marshal(w)
	if err != nil { // cannot happen: strings and numbers
		body = nil
	}
	r.Body = body
}
