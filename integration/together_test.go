package integration_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

// What waited while the group was away is for all handlers that begin together, even
// if a while passes between their subscriptions.
func TestTogetherNoHandlerOfAGroupMissesAnEvent(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		first := w.BusOn(tr, bus.Config{})
		nothing := func(context.Context, world.UserCreated) error { return nil }
		_, err := bus.Subscribe(w.Context(), first, nothing)
		require.NoError(w, err)
		require.NoError(w, first.Close(w.Context())) // the group exists, and nobody reads it

		b := w.Bus(bus.Config{})
		for i := range 20 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
		}
		index, notify := world.NewRecord[string](), world.NewRecord[string]()
		listen := func(name string, to *world.Record[string]) error {
			_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
				to.Add(string(e.ID))
				return nil
			}, bus.WithName(name))
			return err
		}
		require.NoError(w, b.Together(func() error {
			require.NoError(w, listen("index", index))
			world.Settle(3 * time.Second)
			require.Empty(w, index.All(), "it has not begun")
			return b.Together(func() error { return listen("notify", notify) })
		}))
		require.Len(w, index.Wait(w, 20), 20)
		require.Len(w, notify.Wait(w, 20), 20)
		world.Settle(time.Minute)
		require.Len(w, index.All(), 20)
		require.Len(w, notify.All(), 20)
	})
}

// A function that fails or panics holds nothing back after it.
func TestTogetherOfAFunctionThatFails(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		heard := world.NewRecord[string]()
		subscribe := func(group string) {
			_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
				heard.Add(group)
				return nil
			}, bus.WithGroup(group))
			require.NoError(w, err)
		}
		failed := errors.New("no database")
		require.ErrorIs(w, b.Together(func() error { subscribe("a"); return failed }), failed)
		require.PanicsWithValue(w, "oops", func() {
			_ = b.Together(func() error { subscribe("b"); panic("oops") })
		})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(b.Together(nil)))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "1"}))
		require.ElementsMatch(w, []string{"a", "b"}, heard.Wait(w, 2))
	})
}

// What is held back can be closed, and a bus with it.
func TestTogetherAndClose(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		require.NoError(w, b.Together(func() error {
			sub, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil })
			require.NoError(w, err)
			require.NoError(w, sub.Close(w.Context()))
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithGroup("other"))
			require.NoError(w, err)
			return b.Close(w.Context())
		}))
	})
}

// Who joins too late is warned.
func TestTogetherIsRecommendedToAListenerThatIsLate(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var log strings.Builder
		b := w.Bus(bus.Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
		heard := world.NewRecord[string]()
		listen := func(name string) {
			_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
				heard.Add(name)
				return nil
			}, bus.WithName(name))
			require.NoError(w, err)
		}
		listen("a")
		listen("b")
		require.Empty(w, log.String(), "nothing was missed")
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "1"}))
		heard.Wait(w, 2)
		listen("c")
		require.Contains(w, log.String(), "handler=c")
		require.Equal(w, 1, strings.Count(log.String(), "\n"))
	})
}
