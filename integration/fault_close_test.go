package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

func TestCloseWhileSomethingIsBeingRegistered(t *testing.T) {
	listen := func(b *bus.Bus, opts ...bus.SubscribeOption) error {
		_, err := bus.Subscribe(context.Background(), b, func(context.Context, world.UserCreated) error { return nil }, opts...)
		return err
	}
	handle := func(b *bus.Bus) error { return bus.Handle(context.Background(), b, world.Answering("late")) }
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
				world.Everywhere(t, func(w *world.World) {
					tr := world.NewFaulty(w.Open())
					b := w.BusOn(tr, bus.Config{CloseTimeout: 3 * time.Second})
					f, came, release := world.Holding(c.op, c.prefix)
					tr.Set(f)
					registered := world.NewRecord[error]()
					go func() { registered.Add(c.register(b)) }()
					<-came
					if patient { // what is being opened is there before Close gives up
						go func() { world.Settle(time.Second); close(release) }()
						require.NoError(w, b.Close(w.Context()))
					} else {
						require.NoError(w, b.Close(w.Context()))
						close(release)
					}
					err := registered.Wait(w, 1)[0]
					require.ErrorIs(w, err, bus.ErrClosed)
					require.Equal(w, bus.CodeClosed, bus.CodeOf(err))

					// It holds nothing: another process gets what is sent, and another
					// service may own the command.
					got := world.NewRecord[world.UserID]()
					other := w.Bus(bus.Config{Service: "svc"})
					_, err = bus.Subscribe(w.Context(), other, func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil })
					require.NoError(w, err)
					for i := range 10 {
						require.NoError(w, bus.Publish(w.Context(), other, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
					}
					got.Wait(w, 10)
					world.Settle(time.Minute)
					require.Len(w, got.All(), 10)
					third := w.Bus(bus.Config{Service: "third"})
					require.NoError(w, bus.Handle(w.Context(), third, world.Answering("third")))
					id, err := bus.Execute(w.Context(), other, world.CreateUser{Name: "a"})
					require.NoError(w, err)
					require.Equal(w, world.UserID("third"), id)
				})
			})
		}
	}
}

func TestCloseFromAHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ended := world.NewRecord[error]()
		closing := func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			ended.Add(b.Close(ctx))
		}
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error { closing(ctx); return nil })
		require.NoError(w, err)
		began := time.Now()
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		err = ended.Wait(w, 1)[0]
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.created/svc/default")
		require.Less(w, time.Since(began), 5*time.Second)
		require.Equal(w, err, b.Close(w.Context()), "every Close returns the first one's error")

		b = w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			closing(ctx)
			return "closed", nil
		}))
		// Its caller gets the result or not, as the transport goes.
		_, _ = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithTimeout(5*time.Second))
		err = ended.Wait(w, 2)[1]
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.create")
	})
}

func TestSubscriptionClosedFromItsHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		var sub *bus.Subscription
		ended := world.NewRecord[error]()
		ready := make(chan struct{})
		var err error
		sub, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			<-ready
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			ended.Add(sub.Close(ctx))
			return nil
		})
		require.NoError(w, err)
		close(ready)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(ended.Wait(w, 1)[0]))
		require.NoError(w, sub.Close(w.Context()))
		require.NoError(w, b.Close(w.Context()))
	})
}

func TestConcurrentClose(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		started, finished := make(chan struct{}), world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			close(started)
			time.Sleep(3 * time.Second)
			finished.Add(1)
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		<-started
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := b.Close(w.Context()); err != nil {
					w.Error(err)
				}
				if len(finished.All()) == 0 {
					w.Error("a Close returned before the handler had finished")
				}
			})
		}
		world.Settle(time.Second)
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
	world.Everywhere(t, func(w *world.World) {
		const rounds, workers, events = 250, 4, 200
		b := w.Bus(bus.Config{})
		got := world.NewRecord[world.UserID]()
		seen := func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil }
		sub, err := bus.Subscribe(w.Context(), b, seen) // the group begins
		require.NoError(w, err)
		require.NoError(w, sub.Close(w.Context()))
		var wg sync.WaitGroup
		for i := range workers {
			wg.Go(func() {
				opt, listen := bus.WithName(fmt.Sprint("w", i)), seen
				if i == 0 { // what a private one hears does not count
					opt, listen = bus.WithPrivate(), func(context.Context, world.UserCreated) error { return nil }
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
				if err := bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}); err != nil {
					w.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
		wg.Wait()
		_, err = bus.Subscribe(w.Context(), b, seen)
		require.NoError(w, err)
		world.Settle(2 * time.Minute)
		distinct := map[world.UserID]bool{}
		for _, id := range got.All() {
			distinct[id] = true
		}
		require.Equal(w, events, len(distinct), "every event was handled")
	})
}

func TestBusesThatComeAndGo(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		for i := range 50 {
			b := w.Bus(bus.Config{})
			require.NoError(w, bus.Handle(w.Context(), b, world.Create))
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil })
			require.NoError(w, err)
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
			_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.NoError(w, err)
			require.NoError(w, b.Close(w.Context()), "round %d", i)
		}
	})
}

func TestTransportThatFailsToClose(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(failsToClose{tr}, bus.Config{})
		err := b.Close(w.Context())
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err))
		require.NoError(w, tr.Close(w.Context()))
	})
}

type failsToClose struct{ transport.Transport }

func (failsToClose) Close(context.Context) error { return transport.ErrUnavailable }
