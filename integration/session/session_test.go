package session_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

func TestSessionHandlerIsPreferred(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		other := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, world.Answering("the bus")))
		s := w.Session(b, "one")
		w.Session(b, "two")
		require.NoError(w, bus.Handle(w.Context(), s, func(ctx context.Context, _ world.CreateUser) (world.UserID, error) {
			m, _ := bus.MetaFrom(ctx)
			return world.UserID("session " + m.Session + " " + bus.SessionFrom(ctx)), nil
		}))
		ask := func(ctx context.Context, sc bus.Scope) world.UserID {
			w.Helper()
			id, err := bus.Execute(ctx, sc, world.CreateUser{Name: "x"})
			require.NoError(w, err)
			return id
		}
		ctx := w.Context()
		for _, from := range []*bus.Bus{b, other} {
			require.Equal(w, world.UserID("session one one"), ask(bus.ContextWithSession(ctx, "one"), from))
			require.Equal(w, world.UserID("the bus"), ask(bus.ContextWithSession(ctx, "two"), from))
			require.Equal(w, world.UserID("the bus"), ask(bus.ContextWithSession(ctx, "nobody's"), from))
			require.Equal(w, world.UserID("the bus"), ask(ctx, from))
			require.Equal(w, world.UserID("the bus"), ask(bus.ContextWithSession(bus.ContextWithSession(ctx, "one"), ""), from))
		}
		require.Equal(w, world.UserID("session one one"), ask(ctx, s))
		require.Equal(w, world.UserID("session one one"), ask(bus.ContextWithSession(ctx, "two"), s), "a Session overrides the context")
		require.NoError(w, s.Close(ctx))
		require.Equal(w, world.UserID("the bus"), ask(bus.ContextWithSession(ctx, "one"), other), "falls back once it is closed")
	})
}

func TestSessionEventsReachItsListenersAndTheBus(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, far := w.Bus(bus.Config{}), w.Bus(bus.Config{})
		ctx := w.Context()
		heard := world.NewRecord[string]()
		hear := func(who string) func(context.Context, world.UserCreated) error {
			return func(ctx context.Context, e world.UserCreated) error {
				heard.Add(fmt.Sprintf("%s: %s in %q", who, e.ID, bus.SessionFrom(ctx)))
				return nil
			}
		}
		one, two, farOne := w.Session(b, "one"), w.Session(b, "two"), w.Session(far, "one")
		for who, s := range map[string]bus.Scope{"one": one, "two": two, "far one": farOne, "bus": b} {
			_, err := bus.Subscribe(ctx, s, hear(who))
			require.NoError(w, err)
		}
		require.NoError(w, bus.Publish(ctx, one, world.UserCreated{ID: "a"}))
		require.NoError(w, bus.Publish(bus.ContextWithSession(ctx, "two"), far, world.UserCreated{ID: "b"}))
		require.NoError(w, bus.Publish(ctx, far, world.UserCreated{ID: "c"}))
		require.NoError(w, bus.PublishAll(ctx, farOne, world.UserCreated{ID: "d"}))
		world.Settle(time.Minute)
		require.ElementsMatch(w, []string{
			`one: a in "one"`, `far one: a in "one"`, `bus: a in "one"`,
			`two: b in "two"`, `bus: b in "two"`,
			`bus: c in ""`,
			`one: d in "one"`, `far one: d in "one"`, `bus: d in "one"`,
		}, heard.All())
	})
}

func TestHandlersOfASessionSendInIt(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ctx := w.Context()
		s := w.Session(b, "job")
		heard := world.NewRecord[bus.Meta]()
		_, err := bus.Subscribe(ctx, s, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			heard.Add(m)
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Handle(ctx, b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			return "x", bus.Publish(ctx, b, world.UserCreated{ID: "x"}) // on the bus, from a bus handler
		}))
		_, err = bus.Execute(ctx, s, world.CreateUser{Name: "x"})
		require.NoError(w, err)
		m := heard.Wait(w, 1)[0]
		require.Equal(w, "job", m.Session)
		require.NotEmpty(w, m.CausationID)
		require.Equal(w, m.CausationID, m.CorrelationID)
	})
}
func TestInSessionHearsItsLastEvents(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		publisher := w.Bus(bus.Config{})
		for round := range 5 {
			heard := 0 // not guarded: CatchUp and one at a time order it
			err := bus.InSession(w.Context(), b, "job", func(ctx context.Context, s *bus.Session) error {
				_, err := bus.Subscribe(ctx, s, func(ctx context.Context, e world.UserCreated) error {
					time.Sleep(100 * time.Millisecond)
					if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 && strings.HasSuffix(string(e.ID), "7") {
						return errors.New("again")
					}
					heard++
					if e.ID == "last" {
						return bus.Publish(ctx, b, world.UserDeleted{ID: "last"})
					}
					return nil
				}, bus.WithConcurrency(1))
				if err != nil {
					return err
				}
				_, err = bus.Subscribe(ctx, s, func(context.Context, world.UserDeleted) error {
					time.Sleep(100 * time.Millisecond)
					heard += 100
					return nil
				})
				if err != nil {
					return err
				}
				for i := range 19 {
					if err := bus.Publish(ctx, publisher, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}); err != nil {
						return err
					}
				}
				return bus.Publish(ctx, b, world.UserCreated{ID: "last"})
			})
			require.NoError(w, err)
			require.Equal(w, 120, heard, "round %d", round)
		}
	})
}
