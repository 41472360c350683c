package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// raw publishes an event past the bus, as another program does.
func (w *world) raw(tr transport.Transport, to transport.Address, id string, e userCreated) {
	w.Helper()
	m := &transport.Message{To: to, ID: id, Session: to.Session}
	if w.inProcess {
		m.Value = e
	} else {
		m.Body = fmt.Appendf(nil, `{"ID":%q}`, e.ID)
	}
	require.NoError(w, tr.Publish(w.Context(), m))
}

// An id is not the event: what fails under one that was used before is kept too.
func TestEveryFailureHasItsOwnDeadLetter(t *testing.T) {
	for what, result := range map[string]func(attempt int) error{
		"at once": func(int) error { return bus.Permanent(errOops) },
		"by way of a copy": func(attempt int) error {
			if attempt == 1 {
				return bus.RetryAfter(time.Minute, errOops)
			}
			return bus.Permanent(errOops)
		},
		"while the first one's copy waits": func(attempt int) error {
			if attempt == 1 {
				return bus.RetryAfter(20*time.Minute, errOops)
			}
			return bus.Permanent(errOops)
		},
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(w *world) {
				tr := w.open()
				b := w.busOn(tr, bus.Config{})
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
					m, _ := bus.MetaFrom(ctx)
					return result(m.Attempt)
				})
				require.NoError(w, err)
				to := transport.Address{Name: "user.created"}
				w.raw(tr, to, "daily", userCreated{ID: "first"})
				settle(10 * time.Minute) // past the dedup window
				w.raw(tr, to, "daily", userCreated{ID: "later"})
				to.Session = "s 1"
				w.raw(tr, to, "daily", userCreated{ID: "session's"})
				settle(time.Hour)
				for _, d := range w.deadLetters(tr, 3) {
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
			everywhere(t, func(w *world) {
				inner := w.open()
				tr := newFaulty(inner)
				b := w.busOn(tr, bus.Config{})
				runs := newRecord[int]()
				_, err := bus.Subscribe(w.Context(), b, attempts(runs, func(attempt int) error {
					if attempt == 1 {
						return bus.RetryAfter(delay, errOops)
					}
					return bus.Permanent(errOops)
				}))
				require.NoError(w, err)
				tr.set(times(1, failing("term", transport.ErrUnavailable)))
				require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
				settle(time.Hour)
				require.Len(w, runs.all(), 3)
				w.deadLetters(inner, 1)
			})
		})
	}
}

func TestPrivateListenersFailEachForItself(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		for _, b := range []*bus.Bus{w.busOn(tr, bus.Config{}), w.bus(bus.Config{})} {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return bus.Permanent(errOops) }, bus.WithPrivate())
			require.NoError(w, err)
		}
		require.NoError(w, bus.Publish(w.Context(), w.bus(bus.Config{}), userCreated{}))
		settle(time.Minute)
		w.deadLetters(tr, 2)
	})
}

func TestDerivedIDsAreTheHandlersOwn(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		ids := newRecord[string]()
		derive := func(ctx context.Context) error {
			ids.add(bus.DerivedID(ctx, "mail"))
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 && m.Kind == bus.KindEvent {
				return errOops
			}
			return nil
		}
		created := func(ctx context.Context, _ userCreated) error { return derive(ctx) }
		for _, opt := range []bus.SubscribeOption{
			bus.WithName("default"), bus.WithName("other"), bus.WithGroup("other"),
			bus.WithPrivate(), bus.WithPrivate(),
		} {
			_, err := bus.Subscribe(w.Context(), b, created, opt)
			require.NoError(w, err)
		}
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userDeleted) error { return derive(ctx) })
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, _ createUser) (userID, error) {
			return "", derive(ctx)
		}))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("user-7")))
		require.NoError(w, bus.Publish(w.Context(), b, userDeleted{ID: "x"}, bus.WithID("user-7")))
		_, err = bus.Execute(w.Context(), b, createUser{Name: "x"}, bus.WithID("user-7"))
		require.NoError(w, err)
		w.raw(tr, transport.Address{Name: "user.created", Session: "s"}, "user-7", userCreated{})
		settle(10 * time.Minute)

		// Five listeners of the event, in two sessions; one of the other event; the
		// command. Each derives its own, and the same when it runs again.
		times := map[string]int{}
		for _, id := range ids.all() {
			times[id]++
		}
		require.Len(w, times, 2*5+1+1)
		require.Len(w, ids.all(), 2*(2*5+1)+1)
	})
}
