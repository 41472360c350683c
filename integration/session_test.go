package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

func TestSessionHandlerIsPreferred(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		other := w.bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, answering("the bus")))
		s := w.session(b, "one")
		w.session(b, "two")
		require.NoError(w, bus.Handle(w.Context(), s, func(ctx context.Context, _ createUser) (userID, error) {
			m, _ := bus.MetaFrom(ctx)
			return userID("session " + m.Session + " " + bus.SessionFrom(ctx)), nil
		}))
		ask := func(ctx context.Context, sc bus.Scope) userID {
			w.Helper()
			id, err := bus.Execute(ctx, sc, createUser{Name: "x"})
			require.NoError(w, err)
			return id
		}
		ctx := w.Context()
		for _, from := range []*bus.Bus{b, other} {
			require.Equal(w, userID("session one one"), ask(bus.ContextWithSession(ctx, "one"), from))
			require.Equal(w, userID("the bus"), ask(bus.ContextWithSession(ctx, "two"), from))
			require.Equal(w, userID("the bus"), ask(bus.ContextWithSession(ctx, "nobody's"), from))
			require.Equal(w, userID("the bus"), ask(ctx, from))
			require.Equal(w, userID("the bus"), ask(bus.ContextWithSession(bus.ContextWithSession(ctx, "one"), ""), from))
		}
		require.Equal(w, userID("session one one"), ask(ctx, s))
		require.Equal(w, userID("session one one"), ask(bus.ContextWithSession(ctx, "two"), s), "a Session overrides the context")
		require.NoError(w, s.Close(ctx))
		require.Equal(w, userID("the bus"), ask(bus.ContextWithSession(ctx, "one"), other), "falls back once it is closed")
	})
}

func TestSessionEventsReachItsListenersAndTheBus(t *testing.T) {
	everywhere(t, func(w *world) {
		b, far := w.bus(bus.Config{}), w.bus(bus.Config{})
		ctx := w.Context()
		heard := newRecord[string]()
		hear := func(who string) func(context.Context, userCreated) error {
			return func(ctx context.Context, e userCreated) error {
				heard.add(fmt.Sprintf("%s: %s in %q", who, e.ID, bus.SessionFrom(ctx)))
				return nil
			}
		}
		one, two, farOne := w.session(b, "one"), w.session(b, "two"), w.session(far, "one")
		for who, s := range map[string]bus.Scope{"one": one, "two": two, "far one": farOne, "bus": b} {
			_, err := bus.Subscribe(ctx, s, hear(who))
			require.NoError(w, err)
		}
		require.NoError(w, bus.Publish(ctx, one, userCreated{ID: "a"}))
		require.NoError(w, bus.Publish(bus.ContextWithSession(ctx, "two"), far, userCreated{ID: "b"}))
		require.NoError(w, bus.Publish(ctx, far, userCreated{ID: "c"}))
		require.NoError(w, bus.PublishAll(ctx, farOne, userCreated{ID: "d"}))
		settle(time.Minute)
		require.ElementsMatch(w, []string{
			`one: a in "one"`, `far one: a in "one"`, `bus: a in "one"`,
			`two: b in "two"`, `bus: b in "two"`,
			`bus: c in ""`,
			`one: d in "one"`, `far one: d in "one"`, `bus: d in "one"`,
		}, heard.all())
	})
}

func TestHandlersOfASessionSendInIt(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ctx := w.Context()
		s := w.session(b, "job")
		heard := newRecord[bus.Meta]()
		_, err := bus.Subscribe(ctx, s, func(ctx context.Context, e userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			heard.add(m)
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Handle(ctx, b, func(ctx context.Context, c createUser) (userID, error) {
			return "x", bus.Publish(ctx, b, userCreated{ID: "x"}) // on the bus, from a bus handler
		}))
		_, err = bus.Execute(ctx, s, createUser{Name: "x"})
		require.NoError(w, err)
		m := heard.wait(w, 1)[0]
		require.Equal(w, "job", m.Session)
		require.NotEmpty(w, m.CausationID)
		require.Equal(w, m.CausationID, m.CorrelationID)
	})
}
func TestInSessionHearsItsLastEvents(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		publisher := w.bus(bus.Config{})
		for round := range 5 {
			heard := 0 // not guarded: CatchUp and one at a time order it
			err := bus.InSession(w.Context(), b, "job", func(ctx context.Context, s *bus.Session) error {
				_, err := bus.Subscribe(ctx, s, func(ctx context.Context, e userCreated) error {
					time.Sleep(100 * time.Millisecond)
					if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 && strings.HasSuffix(string(e.ID), "7") {
						return errors.New("again")
					}
					heard++
					if e.ID == "last" {
						return bus.Publish(ctx, b, userDeleted{ID: "last"})
					}
					return nil
				}, bus.WithConcurrency(1))
				if err != nil {
					return err
				}
				_, err = bus.Subscribe(ctx, s, func(context.Context, userDeleted) error {
					time.Sleep(100 * time.Millisecond)
					heard += 100
					return nil
				})
				if err != nil {
					return err
				}
				for i := range 19 {
					if err := bus.Publish(ctx, publisher, userCreated{ID: userID(fmt.Sprint(i))}); err != nil {
						return err
					}
				}
				return bus.Publish(ctx, b, userCreated{ID: "last"})
			})
			require.NoError(w, err)
			require.Equal(w, 120, heard, "round %d", round)
		}
	})
}
