package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// raw publishes an event past the bus, as another program does.
func raw(w *world.World, tr transport.Transport, to transport.Address, id string, e world.UserCreated) {
	w.Helper()
	m := &transport.Message{To: to, ID: id, Session: to.Session}
	if w.InProcess {
		m.Value = e
	} else {
		m.Body = fmt.Appendf(nil, `{"ID":%q}`, e.ID)
	}
	require.NoError(w, tr.Publish(w.Context(), m))
}

// An id is not the event: what fails under one that was used before is kept too.
func TestEveryFailureHasItsOwnDeadLetter(t *testing.T) {
	for what, result := range map[string]func(attempt int) error{
		"at once": func(int) error { return bus.Permanent(world.ErrOops) },
		"by way of a copy": func(attempt int) error {
			if attempt == 1 {
				return bus.RetryAfter(time.Minute, world.ErrOops)
			}
			return bus.Permanent(world.ErrOops)
		},
		"while the first one's copy waits": func(attempt int) error {
			if attempt == 1 {
				return bus.RetryAfter(20*time.Minute, world.ErrOops)
			}
			return bus.Permanent(world.ErrOops)
		},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				b := w.BusOn(tr, bus.Config{})
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
					m, _ := bus.MetaFrom(ctx)
					return result(m.Attempt)
				})
				require.NoError(w, err)
				to := transport.Address{Name: "user.created"}
				raw(w, tr, to, "daily", world.UserCreated{ID: "first"})
				world.Settle(10 * time.Minute) // past the dedup window
				raw(w, tr, to, "daily", world.UserCreated{ID: "later"})
				to.Session = "s 1"
				raw(w, tr, to, "daily", world.UserCreated{ID: "session's"})
				world.Settle(30 * time.Minute)
				for _, d := range w.DeadLetters(tr, 3) {
					require.Equal(w, "daily", d.Message.ID)
					require.NotZero(w, d.StreamSequence)
					require.Empty(w, d.Message.Header)
				}
			})
		})
	}
}

func TestOneFailureSeenTwiceIsOneDeadLetter(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Minute} { // settled by itself; as a copy
		t.Run(delay.String(), func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				inner := w.Open()
				tr := world.NewFaulty(inner)
				b := w.BusOn(tr, bus.Config{})
				runs := world.NewRecord[int]()
				_, err := bus.Subscribe(w.Context(), b, attempts(runs, func(attempt int) error {
					if attempt == 1 {
						return bus.RetryAfter(delay, world.ErrOops)
					}
					return bus.Permanent(world.ErrOops)
				}))
				require.NoError(w, err)
				tr.Set(world.Times(1, world.Failing("term", transport.ErrUnavailable)))
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
				world.Settle(20 * time.Minute)
				require.Len(w, runs.All(), 3)
				w.DeadLetters(inner, 1)
			})
		})
	}
}

func TestPrivateListenersFailEachForItself(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		for _, b := range []*bus.Bus{w.BusOn(tr, bus.Config{}), w.Bus(bus.Config{})} {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return bus.Permanent(world.ErrOops) }, bus.WithPrivate())
			require.NoError(w, err)
		}
		require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{}), world.UserCreated{}))
		world.Settle(time.Minute)
		w.DeadLetters(tr, 2)
	})
}

func TestDerivedIDsAreTheHandlersOwn(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		ids := world.NewRecord[string]()
		derive := func(ctx context.Context) error {
			ids.Add(bus.DerivedID(ctx, "mail"))
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 && m.Kind == bus.KindEvent {
				return world.ErrOops
			}
			return nil
		}
		created := func(ctx context.Context, _ world.UserCreated) error { return derive(ctx) }
		for _, opt := range []bus.SubscribeOption{
			bus.WithName("default"), bus.WithName("other"), bus.WithGroup("other"),
			bus.WithPrivate(), bus.WithPrivate(),
		} {
			_, err := bus.Subscribe(w.Context(), b, created, opt)
			require.NoError(w, err)
		}
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserDeleted) error { return derive(ctx) })
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, _ world.CreateUser) (world.UserID, error) {
			return "", derive(ctx)
		}))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("user-7")))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserDeleted{ID: "x"}, bus.WithID("user-7")))
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "x"}, bus.WithID("user-7"))
		require.NoError(w, err)
		raw(w, tr, transport.Address{Name: "user.created", Session: "s"}, "user-7", world.UserCreated{})
		world.Settle(10 * time.Minute)

		// Five listeners of the event, in two sessions; one of the other event; the
		// command. Each derives its own, and the same when it runs again.
		times := map[string]int{}
		for _, id := range ids.All() {
			times[id]++
		}
		require.Len(w, times, 2*5+1+1)
		require.Len(w, ids.All(), 2*(2*5+1)+1)
	})
}
