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

// A middleware that does not call the handler may tell the caller that nothing ran.
// One that does may not.
func TestMiddlewareThatRefusesACommand(t *testing.T) {
	everywhere(t, func(w *world) {
		var answer error
		var calls int
		before := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) { return nil, answer }
		}
		after := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				again := *m
				_, _ = next(ctx, &again)
				return nil, answer
			}
		}
		server := w.bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), server, create, bus.WithMiddleware(before)))
		require.NoError(w, bus.HandleNone(w.Context(), server, func(context.Context, resetAll) error { calls++; return nil }, bus.WithMiddleware(after)))
		for _, from := range []*bus.Bus{server, w.bus(bus.Config{Service: "caller"}), w.bus(bus.Config{Service: "chained", Sending: []bus.Middleware{func(next bus.Func) bus.Func { return next }}})} {
			for _, c := range []struct {
				answer          error
				refused, failed bus.Code
			}{
				{&bus.Error{Code: bus.CodeBusy, Message: "full", Details: map[string]string{"a": "b"}}, bus.CodeBusy, bus.CodeFailed},
				{&bus.Error{Code: bus.CodeUnavailable, Message: "full"}, bus.CodeUnavailable, bus.CodeFailed},
				{&bus.Error{Code: bus.CodePermission, Message: "full"}, bus.CodePermission, bus.CodePermission},
				{&bus.Error{Code: bus.CodeUnknown, Message: "full"}, bus.CodeFailed, bus.CodeFailed},
				{&bus.Error{Code: bus.CodeBusy, Op: "execute", Name: "another", Message: "full"}, bus.CodeFailed, bus.CodeFailed},
				{errors.New("full"), bus.CodeFailed, bus.CodeFailed},
			} {
				answer = c.answer
				_, err := bus.Execute(w.Context(), from, createUser{Name: "a"})
				var e *bus.Error
				require.ErrorAs(w, err, &e)
				require.Equal(w, c.refused, e.Code, "%v", c.answer)
				require.Zero(w, e.Attempts, "no handler ran")
				require.ErrorContains(w, err, "full")
				if own := c.answer; bus.CodeOf(own) == bus.CodeBusy && c.refused == bus.CodeBusy {
					require.Equal(w, "b", e.Details["a"])
				}
				calls = 0
				err = bus.Do(w.Context(), from, resetAll{})
				require.ErrorAs(w, err, &e)
				require.Equal(w, c.failed, e.Code, "%v", c.answer)
				require.Equal(w, 1, e.Attempts)
				require.Equal(w, 1, calls)
			}
		}
	})
}
