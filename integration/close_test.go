package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

func TestCloseWaitsForRunningHandlersWithALiveContext(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		other := w.Bus(bus.Config{Service: "other"})
		heard := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), other, func(_ context.Context, e *world.UserDeleted) error { heard.Add(e.ID); return nil })
		require.NoError(w, err)

		b := w.Bus(bus.Config{})
		started, ended := world.NewRecord[int](), world.NewRecord[error]()
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			started.Add(1)
			time.Sleep(5 * time.Second)
			err := bus.Publish(ctx, b, world.UserDeleted{ID: "from a finishing handler"})
			ended.Add(err)
			return ctx.Err()
		})
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			started.Add(1)
			time.Sleep(7 * time.Second)
			return "finished", ctx.Err()
		}))
		result := world.NewRecord[world.UserID]()
		go func() {
			id, err := bus.Execute(w.Context(), other, world.CreateUser{Name: "a"})
			if err != nil {
				id = world.UserID(err.Error())
			}
			result.Add(id)
		}()
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		started.Wait(w, 2)
		require.NoError(w, b.Close(w.Context()))
		require.Equal(w, []error{nil}, ended.All())
		require.Equal(w, []world.UserID{"finished"}, result.Wait(w, 1))
		require.Equal(w, []world.UserID{"from a finishing handler"}, heard.Wait(w, 1))
	})
}

func TestCloseHandsBackWhatNobodyStarted(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		first, second := world.NewRecord[world.UserID](), world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
			first.Add(e.ID)
			time.Sleep(5 * time.Second)
			return nil
		}, bus.WithConcurrency(2))
		require.NoError(w, err)
		for i := range 20 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
		}
		first.Wait(w, 2)
		require.NoError(w, b.Close(w.Context()))
		closed := time.Now()

		_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			second.Add(fmt.Sprint(m.Attempt))
			return nil
		})
		require.NoError(w, err)
		rest := 20 - len(first.All())
		require.LessOrEqual(w, len(first.All()), 4)
		for _, attempt := range second.Wait(w, rest) {
			require.Equal(w, "1", attempt, "handing back consumes no attempt")
		}
		require.Less(w, time.Since(closed), 5*time.Second, "at once, not after AckWait")
		world.Settle(5 * time.Minute)
		require.Len(w, second.All(), rest, "nothing twice")
	})
}

func TestShutdownConsumesNoAttempt(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		attempts := world.NewRecord[int]()
		publisher := w.Bus(bus.Config{Service: "publisher"})
		for i := range 6 { // more than the policy's four attempts
			b := w.Bus(bus.Config{CloseTimeout: time.Second})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				attempts.Add(m.Attempt)
				<-ctx.Done()
				require.ErrorIs(w, context.Cause(ctx), bus.ErrStopped)
				return ctx.Err()
			})
			require.NoError(w, err)
			if i == 0 {
				require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{}))
			}
			attempts.Wait(w, i+1)
			require.NoError(w, b.Close(w.Context()))
		}
		require.Equal(w, []int{1, 1, 1, 1, 1, 1}, attempts.All())
		tr := w.Open()
		w.DeadLetters(tr, 0)
		require.NoError(w, tr.Close(w.Context()))
	})
}

func TestCloseNamesHandlersThatIgnoreIt(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		started, release := world.NewRecord[int](), make(chan struct{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			started.Add(1)
			<-release
			return nil
		}, bus.WithName("stubborn"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		started.Wait(w, 1)
		ctx, cancel := context.WithTimeout(w.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		err = b.Close(ctx)
		require.ErrorContains(w, err, "user.created/svc/stubborn")
		require.Less(w, time.Since(began), 10*time.Second)
		close(release)
	})
}

func TestRunClosesWhenItsContextEnds(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ctx, cancel := context.WithCancel(w.Context())
		ran := make(chan error)
		go func() { ran <- b.Run(ctx) }()
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		cancel()
		require.NoError(w, <-ran)
		require.ErrorIs(w, bus.Publish(w.Context(), b, world.UserCreated{}), bus.ErrClosed)
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil })
		require.ErrorIs(w, err, bus.ErrClosed)
	})
}

func TestCloseWithARetryWaiting(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		got := world.NewRecord[string]()
		listen := func(b *bus.Bus, fail bool) {
			for _, name := range []string{"good", "bad"} {
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
					m, _ := bus.MetaFrom(ctx)
					got.Add(fmt.Sprint(name, " ", m.Attempt))
					if fail && name == "bad" {
						return bus.RetryAfter(20*time.Second, world.ErrOops)
					}
					return nil
				}, bus.WithName(name))
				require.NoError(w, err)
			}
		}
		listen(b, true)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		got.Wait(w, 2)
		world.Settle(time.Second)
		require.NoError(w, b.Close(w.Context()))
		listen(w.Bus(bus.Config{}), false)
		world.Settle(5 * time.Minute)
		require.ElementsMatch(w, []string{"good 1", "bad 1", "bad 2"}, got.All(), "only the failed handler runs again")
	})
}

func TestClosedSubscriptionLeavesTheOthers(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		got := world.NewRecord[string]()
		var subs []*bus.Subscription
		for _, name := range []string{"a", "b"} {
			sub, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { got.Add(name); return nil }, bus.WithName(name))
			require.NoError(w, err)
			subs = append(subs, sub)
		}
		require.NoError(w, subs[0].Close(w.Context()))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		require.Equal(w, []string{"b"}, got.Wait(w, 1))
		require.NoError(w, subs[1].Close(w.Context()))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Minute)
		require.Equal(w, []string{"b"}, got.All())

		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { got.Add("again"); return nil }, bus.WithName("a"))
		require.NoError(w, err, "the name is free again")
		require.Equal(w, []string{"b", "again"}, got.Wait(w, 2), "the group kept what came meanwhile")
	})
}
