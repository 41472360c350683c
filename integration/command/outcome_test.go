package command_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

// A caller of a handler that failed learns that it failed, whatever the handler
// asked of the bus meanwhile: a code that says "nothing ran" would be false.
func TestHandlersErrorIsNeverTakenForTheBuss(t *testing.T) {
	type result struct {
		name    string
		err     error
		code    bus.Code
		message string
	}
	nested := func(code bus.Code) error {
		return &bus.Error{
			Code: code, Op: "publish", Name: "user.created", Message: "inner",
			Details: map[string]string{"a": "b"},
		}
	}
	results := []result{
		{"custom code", &bus.Error{Code: "quota.used_up", Message: "m"}, "quota.used_up", "m"},
		{"wrapped custom code", fmt.Errorf("outer: %w", &bus.Error{Code: "quota", Message: "m"}), "quota", "outer: m"},
		{"conflict", &bus.Error{Code: bus.CodeConflict, Message: "m"}, bus.CodeConflict, "m"},
		{"invalid", &bus.Error{Code: bus.CodeInvalid, Message: "m"}, bus.CodeInvalid, "m"},
		{"permission", &bus.Error{Code: bus.CodePermission, Message: "m"}, bus.CodePermission, "m"},
		{"no code", &bus.Error{Message: "m"}, bus.CodeFailed, "m"},
		{"no name", &bus.Error{Code: "a\r\nJitney-Id: b", Message: "m"}, bus.CodeFailed, "m"},
		{"bare deadline", fmt.Errorf("query: %w", context.DeadlineExceeded), bus.CodeFailed, "query: context deadline exceeded"},
		{"bare cancel", context.Canceled, bus.CodeFailed, "context canceled"},
	}
	for _, code := range []bus.Code{
		bus.CodeNoHandler, bus.CodeBusy, bus.CodeUnavailable, bus.CodeUnknown, bus.CodeClosed,
		bus.CodeCancelled, bus.CodeBacklog, bus.CodeTimeout,
	} {
		results = append(results,
			result{"says " + string(code), &bus.Error{Code: code, Message: "m"}, bus.CodeFailed, "m"},
			result{"nested " + string(code), nested(code), bus.CodeFailed, "publish user.created: inner"})
	}
	results = append(results,
		result{"nested conflict", nested(bus.CodeConflict), bus.CodeFailed, "publish user.created: inner"},
		result{"nested custom", nested("quota"), bus.CodeFailed, "publish user.created: inner"},
		result{"nested panic", nested(bus.CodePanic), bus.CodeFailed, "publish user.created: inner"})

	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		chained := w.Bus(bus.Config{Service: "chained", Sending: []bus.Middleware{func(next bus.Func) bus.Func { return next }}})
		byName := map[string]result{}
		for _, r := range results {
			byName[r.name] = r
		}
		fail := func(_ context.Context, c world.CreateUser) (world.UserID, error) { return "", byName[c.Name].err }
		require.NoError(w, bus.Handle(w.Context(), server, fail))
		check := func(what string, from *bus.Bus) {
			for _, r := range results {
				_, err := bus.Execute(w.Context(), from, world.CreateUser{Name: r.name})
				var e *bus.Error
				require.ErrorAs(w, err, &e, "%s, %s", what, r.name)
				require.Equal(w, r.code, e.Code, "%s, %s", what, r.name)
				require.Equal(w, r.message, e.Message, "%s, %s", what, r.name)
				require.Equal(w, 1, e.Attempts, "%s, %s: it ran", what, r.name)
				var own *bus.Error
				if errors.As(r.err, &own) {
					require.Equal(w, own.Details, e.Details, "%s, %s", what, r.name)
				}
			}
		}
		check("same process", server)
		check("other process", caller)
		require.NoError(w, server.Close(w.Context()))
		require.NoError(w, bus.Handle(w.Context(), chained, fail))
		check("same process, with middleware", chained)
	})
}

func TestErrorOfANestedExecute(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		cfg := bus.Config{Errors: map[string]error{"user.exists": world.ErrUserExists}}
		server := w.Bus(cfg)
		cfg.Service = "caller"
		caller := w.Bus(cfg)
		require.NoError(w, bus.HandleNone(w.Context(), server, func(_ context.Context, c world.ResetAll) error {
			if c.Reason == "registered" {
				return world.ErrUserExists
			}
			panic("inner")
		}))
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			switch c.Name {
			case "nobody":
				_, err := bus.Execute(ctx, server, world.FindUser{})
				return "", err
			case "short":
				slow, cancel := context.WithTimeout(ctx, time.Nanosecond)
				defer cancel()
				<-slow.Done()
				return "", bus.Do(slow, server, world.ResetAll{})
			}
			return "", bus.Do(ctx, server, world.ResetAll{Reason: c.Name})
		}))
		for what, b := range map[string]*bus.Bus{"same process": server, "other process": caller} {
			for _, name := range []string{"nobody", "short", "panics", "registered"} {
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: name})
				require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "%s, %s: %v", what, name, err)
				require.Equal(w, name == "registered", errors.Is(err, world.ErrUserExists), "%s, %s", what, name)
			}
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			_, err := bus.Execute(ctx, b, world.CreateUser{Name: "registered"})
			cancel()
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Equal(w, "user.exists", e.Wire)
			require.ErrorContains(w, err, "execute user.create: execute reset.all: user exists")
		}
	})
}

func TestOwnDeadlineOfAHandlerIsATimeout(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		returned := world.NewRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			<-ctx.Done()
			err := fmt.Errorf("query: %w", ctx.Err())
			returned.Add(err)
			return "", err
		}))
		for _, b := range []*bus.Bus{server, caller} {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithTimeout(time.Second))
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		}
		// On the caller's own goroutine there is nobody but the handler to say so.
		short := w.Bus(bus.Config{Service: "short", ExecuteTimeout: time.Second})
		require.NoError(w, server.Close(w.Context()))
		require.NoError(w, bus.Handle(w.Context(), short, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			<-ctx.Done()
			return "", fmt.Errorf("query: %w", ctx.Err())
		}))
		_, err := bus.Execute(context.Background(), short, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
	})
}
