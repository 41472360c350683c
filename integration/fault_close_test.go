package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

func TestCloseWhileSomethingIsBeingRegistered(t *testing.T) {
	listen := func(b *bus.Bus, opts ...bus.SubscribeOption) error {
		_, err := bus.Subscribe(context.Background(), b, func(context.Context, userCreated) error { return nil }, opts...)
		return err
	}
	handle := func(b *bus.Bus) error { return bus.Handle(context.Background(), b, answering("late")) }
	for what, c := range map[string]struct {
		op, prefix string
		register   func(b *bus.Bus) error
	}{
		"a group":                         {"subscribe", "", func(b *bus.Bus) error { return listen(b) }},
		"a private listener":              {"subscribe", "", func(b *bus.Bus) error { return listen(b, bus.WithPrivate()) }},
		"a command being served":          {"serve", "", handle},
		"a command being owned":           {"get", "owner.", handle},
		"a command of a bus being leased": {"create", "lease.", handle},
	} {
		for _, patient := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, patient %v", what, patient), func(t *testing.T) {
				everywhere(t, func(w *world) {
					tr := newFaulty(w.open())
					b := w.busOn(tr, bus.Config{CloseTimeout: 3 * time.Second})
					f, came, release := holding(c.op, c.prefix)
					tr.set(f)
					registered := newRecord[error]()
					go func() { registered.add(c.register(b)) }()
					<-came
					if patient { // what is being opened is there before Close gives up
						go func() { settle(time.Second); close(release) }()
						require.NoError(w, b.Close(w.Context()))
					} else {
						require.NoError(w, b.Close(w.Context()))
						close(release)
					}
					err := registered.wait(w, 1)[0]
					require.ErrorIs(w, err, bus.ErrClosed)
					require.Equal(w, bus.CodeClosed, bus.CodeOf(err))

					// It holds nothing: another process gets what is sent, and another
					// service may own the command.
					got := newRecord[userID]()
					other := w.bus(bus.Config{Service: "svc"})
					_, err = bus.Subscribe(w.Context(), other, func(_ context.Context, e userCreated) error { got.add(e.ID); return nil })
					require.NoError(w, err)
					for i := range 10 {
						require.NoError(w, bus.Publish(w.Context(), other, userCreated{ID: userID(fmt.Sprint(i))}))
					}
					got.wait(w, 10)
					settle(time.Minute)
					require.Len(w, got.all(), 10)
					third := w.bus(bus.Config{Service: "third"})
					require.NoError(w, bus.Handle(w.Context(), third, answering("third")))
					id, err := bus.Execute(w.Context(), other, createUser{Name: "a"})
					require.NoError(w, err)
					require.Equal(w, userID("third"), id)
				})
			})
		}
	}
}

func TestCloseFromAHandler(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ended := newRecord[error]()
		closing := func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			ended.add(b.Close(ctx))
		}
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error { closing(ctx); return nil })
		require.NoError(w, err)
		began := time.Now()
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		err = ended.wait(w, 1)[0]
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.created/svc/default")
		require.Less(w, time.Since(began), 5*time.Second)
		require.Equal(w, err, b.Close(w.Context()), "every Close returns the first one's error")

		b = w.bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
			closing(ctx)
			return "closed", nil
		}))
		// Its caller gets the result or not, as the transport goes.
		_, _ = bus.Execute(w.Context(), b, createUser{Name: "a"}, bus.WithTimeout(5*time.Second))
		err = ended.wait(w, 2)[1]
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.create")
	})
}

func TestSubscriptionClosedFromItsHandler(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		var sub *bus.Subscription
		ended := newRecord[error]()
		ready := make(chan struct{})
		var err error
		sub, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
			<-ready
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			ended.add(sub.Close(ctx))
			return nil
		})
		require.NoError(w, err)
		close(ready)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(ended.wait(w, 1)[0]))
		require.NoError(w, sub.Close(w.Context()))
		require.NoError(w, b.Close(w.Context()))
	})
}

func TestConcurrentClose(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		started, finished := make(chan struct{}), newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
			close(started)
			time.Sleep(3 * time.Second)
			finished.add(1)
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		<-started
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := b.Close(w.Context()); err != nil {
					w.Error(err)
				}
				if len(finished.all()) == 0 {
					w.Error("a Close returned before the handler had finished")
				}
			})
		}
		settle(time.Second)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		err = b.Close(ctx)
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "still closing")
		wg.Wait()
	})
}

// Subscriptions that come and go while events are published lose none, and leave
// nothing behind: the bubble would not end.
func TestSubscriptionsThatComeAndGo(t *testing.T) {
	everywhere(t, func(w *world) {
		const rounds, workers, events = 250, 4, 200
		b := w.bus(bus.Config{})
		got := newRecord[userID]()
		seen := func(_ context.Context, e userCreated) error { got.add(e.ID); return nil }
		sub, err := bus.Subscribe(w.Context(), b, seen) // the group begins
		require.NoError(w, err)
		require.NoError(w, sub.Close(w.Context()))
		var wg sync.WaitGroup
		for i := range workers {
			wg.Go(func() {
				opt, listen := bus.WithName(fmt.Sprint("w", i)), seen
				if i == 0 { // what a private one hears does not count
					opt, listen = bus.WithPrivate(), func(context.Context, userCreated) error { return nil }
				}
				for range rounds {
					sub, err := bus.Subscribe(w.Context(), b, listen, opt)
					if err != nil {
						w.Error(err)
						return
					}
					time.Sleep(time.Millisecond)
					if err := sub.Close(w.Context()); err != nil {
						w.Error(err)
						return
					}
				}
			})
		}
		wg.Go(func() {
			for i := range events {
				if err := bus.Publish(w.Context(), b, userCreated{ID: userID(fmt.Sprint(i))}); err != nil {
					w.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
		wg.Wait()
		_, err = bus.Subscribe(w.Context(), b, seen)
		require.NoError(w, err)
		settle(2 * time.Minute)
		distinct := map[userID]bool{}
		for _, id := range got.all() {
			distinct[id] = true
		}
		require.Equal(w, events, len(distinct), "every event was handled")
	})
}

func TestBusesThatComeAndGo(t *testing.T) {
	everywhere(t, func(w *world) {
		for i := range 50 {
			b := w.bus(bus.Config{})
			require.NoError(w, bus.Handle(w.Context(), b, create))
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return nil })
			require.NoError(w, err)
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
			_, err = bus.Execute(w.Context(), b, createUser{Name: "a"})
			require.NoError(w, err)
			require.NoError(w, b.Close(w.Context()), "round %d", i)
		}
	})
}

func TestTransportThatFailsToClose(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(failsToClose{tr}, bus.Config{})
		err := b.Close(w.Context())
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err))
		require.NoError(w, tr.Close(w.Context()))
	})
}

type failsToClose struct{ transport.Transport }

func (failsToClose) Close(context.Context) error { return transport.ErrUnavailable }
