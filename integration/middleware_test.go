package integration_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// A middleware that cannot be built is an error of the registration, which says
// which it is and why.
func TestMiddlewareThatCannotBeBuilt(t *testing.T) {
	bad := errors.New("limit is -1")
	everywhere(t, func(w *world) {
		b, tr := w.bus(bus.Config{}), w.open()
		w.Cleanup(func() { _ = tr.Close(context.Background()) })
		fine := func(next bus.Func) bus.Func { return next }
		for what, m := range map[string]bus.Middleware{
			"limit is -1":                   func(bus.Func) bus.Func { panic(bad) },
			"panic: no luck":                func(bus.Func) bus.Func { panic("no luck") },
			"nil instead":                   func(bus.Func) bus.Func { return nil },
			"is nil":                        nil,
			"nil *integration_test.brittle": func(bus.Func) bus.Func { var e *brittle; panic(e) },
			"nil pointer dereference":       func(next bus.Func) bus.Func { m := (*bus.Message)(nil); m.Name = ""; return next },
		} {
			_, err := bus.New(tr, bus.Config{Sending: []bus.Middleware{fine, m}, Receiving: []bus.Middleware{m}})
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), what)
			require.ErrorContains(w, err, "Config.Sending[1]")
			require.ErrorContains(w, err, "Config.Receiving[0]")
			require.ErrorContains(w, err, what)

			err = bus.Handle(w.Context(), b, create, bus.WithMiddleware(fine, m))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), what)
			require.ErrorContains(w, err, "handle user.create: middleware 1")
			require.ErrorContains(w, err, what)
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return nil }, bus.WithMiddleware(m))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), what)
			require.ErrorContains(w, err, "middleware 0")
			require.Equal(w, what == bad.Error(), errors.Is(err, bad), what)
		}
		require.NoError(w, bus.Handle(w.Context(), b, create, bus.WithMiddleware(fine)), "the name is free")
	})
}
