package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

func TestCloseWaitsForRunningHandlersWithALiveContext(t *testing.T) {
	everywhere(t, func(w *world) {
		other := w.bus(bus.Config{Service: "other"})
		heard := newRecord[userID]()
		_, err := bus.Subscribe(w.Context(), other, func(_ context.Context, e *userDeleted) error { heard.add(e.ID); return nil })
		require.NoError(w, err)

		b := w.bus(bus.Config{})
		started, ended := newRecord[int](), newRecord[error]()
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			started.add(1)
			time.Sleep(5 * time.Second)
			err := bus.Publish(ctx, b, userDeleted{ID: "from a finishing handler"})
			ended.add(err)
			return ctx.Err()
		})
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
			started.add(1)
			time.Sleep(7 * time.Second)
			return "finished", ctx.Err()
		}))
		result := newRecord[userID]()
		go func() {
			id, err := bus.Execute(w.Context(), other, createUser{Name: "a"})
			if err != nil {
				id = userID(err.Error())
			}
			result.add(id)
		}()
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		started.wait(w, 2)
		require.NoError(w, b.Close(w.Context()))
		require.Equal(w, []error{nil}, ended.all())
		require.Equal(w, []userID{"finished"}, result.wait(w, 1))
		require.Equal(w, []userID{"from a finishing handler"}, heard.wait(w, 1))
	})
}

func TestCloseHandsBackWhatNobodyStarted(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		first, second := newRecord[userID](), newRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error {
			first.add(e.ID)
			time.Sleep(5 * time.Second)
			return nil
		}, bus.WithConcurrency(2))
		require.NoError(w, err)
		for i := range 20 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: userID(fmt.Sprint(i))}))
		}
		first.wait(w, 2)
		require.NoError(w, b.Close(w.Context()))
		closed := time.Now()

		_, err = bus.Subscribe(w.Context(), w.bus(bus.Config{}), func(ctx context.Context, e userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			second.add(fmt.Sprint(m.Attempt))
			return nil
		})
		require.NoError(w, err)
		rest := 20 - len(first.all())
		require.LessOrEqual(w, len(first.all()), 4)
		for _, attempt := range second.wait(w, rest) {
			require.Equal(w, "1", attempt, "handing back consumes no attempt")
		}
		require.Less(w, time.Since(closed), 5*time.Second, "at once, not after AckWait")
		settle(5 * time.Minute)
		require.Len(w, second.all(), rest, "nothing twice")
	})
}

func TestShutdownConsumesNoAttempt(t *testing.T) {
	everywhere(t, func(w *world) {
		attempts := newRecord[int]()
		publisher := w.bus(bus.Config{Service: "publisher"})
		for i := range 6 { // more than the policy's four attempts
			b := w.bus(bus.Config{CloseTimeout: time.Second})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				m, _ := bus.MetaFrom(ctx)
				attempts.add(m.Attempt)
				<-ctx.Done()
				require.ErrorIs(w, context.Cause(ctx), bus.ErrStopped)
				return ctx.Err()
			})
			require.NoError(w, err)
			if i == 0 {
				require.NoError(w, bus.Publish(w.Context(), publisher, userCreated{}))
			}
			attempts.wait(w, i+1)
			require.NoError(w, b.Close(w.Context()))
		}
		require.Equal(w, []int{1, 1, 1, 1, 1, 1}, attempts.all())
		tr := w.open()
		w.deadLetters(tr, 0)
		require.NoError(w, tr.Close(w.Context()))
	})
}

func TestCloseNamesHandlersThatIgnoreIt(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		started, release := newRecord[int](), make(chan struct{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
			started.add(1)
			<-release
			return nil
		}, bus.WithName("stubborn"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		started.wait(w, 1)
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
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ctx, cancel := context.WithCancel(w.Context())
		ran := make(chan error)
		go func() { ran <- b.Run(ctx) }()
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		cancel()
		require.NoError(w, <-ran)
		require.ErrorIs(w, bus.Publish(w.Context(), b, userCreated{}), bus.ErrClosed)
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return nil })
		require.ErrorIs(w, err, bus.ErrClosed)
	})
}

func TestCloseWithARetryWaiting(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		got := newRecord[string]()
		listen := func(b *bus.Bus, fail bool) {
			for _, name := range []string{"good", "bad"} {
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
					m, _ := bus.MetaFrom(ctx)
					got.add(fmt.Sprint(name, " ", m.Attempt))
					if fail && name == "bad" {
						return bus.RetryAfter(20*time.Second, errOops)
					}
					return nil
				}, bus.WithName(name))
				require.NoError(w, err)
			}
		}
		listen(b, true)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		got.wait(w, 2)
		settle(time.Second)
		require.NoError(w, b.Close(w.Context()))
		listen(w.bus(bus.Config{}), false)
		settle(5 * time.Minute)
		require.ElementsMatch(w, []string{"good 1", "bad 1", "bad 2"}, got.all(), "only the failed handler runs again")
	})
}

func TestClosedSubscriptionLeavesTheOthers(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		got := newRecord[string]()
		var subs []*bus.Subscription
		for _, name := range []string{"a", "b"} {
			sub, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { got.add(name); return nil }, bus.WithName(name))
			require.NoError(w, err)
			subs = append(subs, sub)
		}
		require.NoError(w, subs[0].Close(w.Context()))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		require.Equal(w, []string{"b"}, got.wait(w, 1))
		require.NoError(w, subs[1].Close(w.Context()))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Minute)
		require.Equal(w, []string{"b"}, got.all())

		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { got.add("again"); return nil }, bus.WithName("a"))
		require.NoError(w, err, "the name is free again")
		require.Equal(w, []string{"b", "again"}, got.wait(w, 2), "the group kept what came meanwhile")
	})
}
