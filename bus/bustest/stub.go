package bustest

import (
	"context"

	"github.com/jitney-bus/jitney/bus"
)

// stubService is the service that stubs are of.
const stubService = "stub"

// Stub answers command C with fn, as another service would: on a bus of its own,
// of service "stub", over the harness's broker. The harness's own services must
// not handle C. What is returned asks for the calls that the stub answered, with
// or without an error:
//
//	charged := bustest.Stub(h, func(ctx context.Context, c Charge) (Receipt, error) {
//		return Receipt{ID: "r-1"}, nil
//	})
//	…
//	charged.Where(func(c Charge) bool { return c.Amount > 100 }).One()
//
// Errors that WithConfig registers keep their identity. Call it from the test's
// goroutine.
func Stub[C bus.Returning[R], R any](h *Harness, fn func(context.Context, C) (R, error)) Query[C] {
	h.t.Helper()
	h.mu.Lock()
	b := h.stubs
	h.mu.Unlock()
	if b == nil {
		c := h.set.config
		b = h.NewBus(bus.Config{Service: stubService, Codec: c.Codec, Codecs: c.Codecs, Errors: c.Errors, Logger: c.Logger})
		h.mu.Lock()
		h.stubs = b
		h.mu.Unlock()
	}
	if err := bus.Handle(h.t.Context(), b, fn); err != nil {
		h.t.Fatalf("bustest: stub: %v", err)
	}
	return Query[C]{h: h, what: "stubbed", of: func(e *entry) bool {
		return e.Stage == bus.StageHandled && e.Kind == bus.KindCommand && e.Handler == stubService
	}}
}
