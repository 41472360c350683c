package integration_test

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

// brittle is an error whose methods panic: all of a nil one, and Is of one that
// is asked about an error of another type.
type brittle struct{ text string }

func (e *brittle) Error() string        { return e.text }
func (e *brittle) Is(target error) bool { return e.text == target.(*brittle).text }

// uncomparable cannot be compared with its like.
type uncomparable struct{ v any }

func (uncomparable) Error() string { return "uncomparable" }

// Whoever returns such an error, its caller gets an error and the process lives.
func TestCommandWhoseErrorPanics(t *testing.T) {
	errs := map[string]func() error{
		"typed nil":        func() error { var e *brittle; return e },
		"Is":               func() error { return &brittle{"text"} },
		"wrapped Is":       func() error { return fmt.Errorf("outer: %w", &brittle{"text"}) },
		"panic with it":    func() error { panic(&brittle{"text"}) },
		"panic with a nil": func() error { var e *brittle; panic(e) },
	}
	sendingFails := ""
	chain := func(fails func() string) bus.Middleware {
		return func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				if f := errs[fails()]; f != nil {
					return nil, f()
				}
				return next(ctx, m)
			}
		}
	}
	world.Everywhere(t, func(w *world.World) {
		server := w.Bus(bus.Config{Errors: map[string]error{"registered": world.ErrUserExists}})
		caller := w.Bus(bus.Config{Service: "caller"})
		sending := w.Bus(bus.Config{Service: "sending", Sending: []bus.Middleware{chain(func() string { return sendingFails })}})
		receivingFails := ""
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
			if f := errs[c.Name]; f != nil {
				return "", f()
			}
			return "fine", nil
		}))
		require.NoError(w, bus.HandleNone(w.Context(), server, func(context.Context, world.ResetAll) error { return nil },
			bus.WithMiddleware(chain(func() string { return receivingFails }))))
		for what := range errs {
			for _, b := range []*bus.Bus{server, caller} {
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: what})
				require.Equal(w, bus.CodePanic, bus.CodeOf(err), "%s: %v", what, err)
				require.ErrorContains(w, err, "brittle", what)

				receivingFails = what
				err = bus.Do(w.Context(), b, world.ResetAll{})
				require.Equal(w, bus.CodePanic, bus.CodeOf(err), "%s in a middleware: %v", what, err)
				receivingFails = ""
				require.NoError(w, bus.Do(w.Context(), b, world.ResetAll{}))
			}
			sendingFails = what
			_, err := bus.Execute(w.Context(), sending, world.CreateUser{Name: "a"})
			require.Error(w, err, what)
			require.NotEmpty(w, err.Error(), what)
			require.Error(w, bus.Publish(w.Context(), sending, world.UserCreated{}), what)
			require.Error(w, bus.PublishAll(w.Context(), sending, world.UserCreated{}), what)
			sendingFails = ""
			_, err = bus.Execute(w.Context(), sending, world.CreateUser{Name: "a"})
			require.NoError(w, err, what)
		}
	})
}

func TestRegisteredErrorThatCannotBeCompared(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		cfg := bus.Config{Errors: map[string]error{"user.exists": world.ErrUserExists, "odd": uncomparable{[]int{1}}}}
		server := w.Bus(cfg)
		cfg.Service = "caller"
		caller := w.Bus(cfg)
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, world.CreateUser) (world.UserID, error) {
			return "", errors.Join(uncomparable{[]int{1}}, world.ErrUserExists)
		}))
		for _, b := range []*bus.Bus{server, caller} {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "%v", err)
			require.True(w, errors.Is(err, world.ErrUserExists), "what can be compared is found")
		}
	})
}

// A middleware that unlocks, records or rolls back after next does so when the
// handler panics, too.
func TestMiddlewareSeesAPanicAsAnError(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		saw := world.NewRecord[error]()
		watch := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				v, err := next(ctx, m)
				saw.Add(err)
				return v, err
			}
		}
		server := w.Bus(bus.Config{Receiving: []bus.Middleware{watch}})
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, world.CreateUser) (world.UserID, error) { panic("in a command") }))
		for i, b := range []*bus.Bus{server, w.Bus(bus.Config{Service: "caller"})} {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodePanic, bus.CodeOf(err))
			require.ErrorContains(w, saw.Wait(w, i+1)[i], "in a command")
		}
		saw.Reset()
		_, err := bus.Subscribe(w.Context(), server, func(context.Context, world.UserCreated) error { panic("in a listener") }, bus.WithRetry(world.Steady))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), server, world.UserCreated{}))
		require.ErrorContains(w, saw.Wait(w, 1)[0], "in a listener")
		world.Settle(time.Minute)
	})
}
