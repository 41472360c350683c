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
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// What a closed listener has not handled cannot be passed on; it is tried again
// from time to time.
func TestEventOfAClosedListenerThatCannotBePassedOn(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, tr := w.Process("svc")
		good, closed := world.NewRecord[int](), world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(good, func(int) error { time.Sleep(time.Second); return nil }),
			bus.WithName("good"), bus.WithPriority(100))
		require.NoError(w, err)
		sub, err := bus.Subscribe(w.Context(), b, attempts(closed, succeed), bus.WithName("closed"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		good.Wait(w, 1)
		require.NoError(w, sub.Close(w.Context()))
		published := tr.Count("publish")
		tr.Set(world.Failing("publish", transport.ErrPermission))
		world.Settle(10 * time.Minute)
		require.Greater(w, tr.Count("publish")-published, 10, "it does not give up")
		require.Less(w, tr.Count("publish")-published, 200, "nor spin")
		tr.Set(nil)
		world.Settle(10 * time.Second)
		require.NoError(w, b.Close(w.Context()))
		_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), attempts(closed, succeed), bus.WithName("closed"))
		require.NoError(w, err)
		require.Equal(w, []int{1}, closed.Wait(w, 1))
		world.Settle(10 * time.Minute)
		require.Len(w, good.All(), 1)
		require.Len(w, closed.All(), 1)
	})
}

// strict makes an operation whose ctx has ended fail, as a broker far away does.
func strict(f world.Fault) world.Fault {
	return func(ctx context.Context, op, what string) error {
		if err := f(ctx, op, what); err != nil {
			return err
		}
		return ctx.Err()
	}
}

// A settlement has time of its own, however long storing a copy took.
func TestSettlementAfterASlowCopy(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		publisher := w.Bus(bus.Config{Service: "publisher"})
		b, tr := w.Process("svc")
		got := world.NewRecord[string]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			got.Add(fmt.Sprint(m.Attempt, " ", time.Since(began).Round(time.Minute)))
			if m.Attempt == 1 {
				return bus.RetryAfter(10*time.Minute, world.ErrOops)
			}
			return nil
		})
		require.NoError(w, err)
		tr.SetAfter(func(_ context.Context, op, _ string) error {
			if op == "publish" {
				time.Sleep(6 * time.Second) // it is stored, and the answer is late
			}
			return nil
		})
		tr.Set(strict(func(context.Context, string, string) error { return nil }))
		require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{}))
		world.Settle(20 * time.Minute)
		require.Equal(w, []string{"1 0s", "2 10m0s"}, got.All())
	})
}

func TestSettlementAfterACopyThatHangs(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		old := w.Bus(bus.Config{})
		_, err := bus.Subscribe(w.Context(), old, func(context.Context, world.UserCreated) error {
			return bus.RetryAfter(time.Minute, world.ErrOops)
		}, bus.WithName("dropped"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), old, world.UserCreated{}))
		world.Settle(time.Second)
		require.NoError(w, old.Close(w.Context()))

		// The copy cannot be passed on: it is handed back after that, not when
		// AckWait ends.
		b, tr := w.Process("svc")
		tr.Set(strict(world.Hanging("publish")))
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithName("kept"))
		require.NoError(w, err)
		world.Settle(time.Minute + 65*time.Second)
		require.GreaterOrEqual(w, tr.Count("publish"), 5)
		require.LessOrEqual(w, tr.Count("publish"), 10)
	})
}

func TestUndecodableEventStaysWhileItsDeadLetterIsRefused(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := &fullDeadLetters{Transport: w.Open()}
		tr.full.Store(true)
		b := w.BusOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, *world.UserDeleted) error { return nil })
		require.NoError(w, err)
		m := &transport.Message{To: transport.Address{Name: "user.deleted"}, ID: "e"}
		if w.InProcess {
			m.Value = &world.UserDeleted{} // it does not validate
		} else {
			m.Body = []byte(`{"ID":`)
		}
		require.NoError(w, tr.Publish(w.Context(), m))
		world.Settle(12 * time.Second)
		w.DeadLetters(tr.Transport, 0)
		tr.full.Store(false)
		d := w.DeadLetters(tr.Transport, 1)[0]
		require.Equal(w, "e", d.Message.ID)
		require.Equal(w, "invalid", d.Code)
	})
}

func TestRetriesOfAPrivateListenerAreBounded(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		const bound, more = 1000, 5
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		first, second := world.NewRecord[int](), world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				first.Add(1)
				return bus.RetryAfter(10*time.Minute, world.ErrOops)
			}
			second.Add(1)
			return nil
		}, bus.WithPrivate(), bus.WithRetry(resilience.Retry{MaxRetries: 3}))
		require.NoError(w, err)
		for range bound + more {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		first.Wait(w, bound+more)
		for _, d := range w.DeadLetters(tr, more) {
			require.Equal(w, "backlog", d.Code)
			require.Equal(w, "oops", d.Error)
			require.Equal(w, 1, d.Attempts)
		}
		world.Settle(20 * time.Minute)
		require.Len(w, second.All(), bound)
		w.DeadLetters(tr, more)
	})
}

func TestEventsOfOneKeyAreStoredInOrder(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		const keys, events = 8, 50
		b, tr := w.Process("svc")
		seen := world.NewRecord[world.UserCreated]()
		_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{}), func(_ context.Context, e world.UserCreated) error { seen.Add(e); return nil },
			bus.WithConcurrency(1))
		require.NoError(w, err)
		failed := world.Times(40, world.Failing("publish", transport.ErrUnavailable))
		tr.Set(failed)
		var wg sync.WaitGroup
		for key := range keys {
			wg.Go(func() {
				for i := range events {
					e, id := world.UserCreated{ID: world.UserID(fmt.Sprint(key)), Note: fmt.Sprintf("%03d", i)}, fmt.Sprint(key, "-", i)
					for bus.Publish(w.Context(), b, e, bus.WithKey(string(e.ID)), bus.WithID(id)) != nil {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		last := map[world.UserID]string{}
		for _, e := range seen.Wait(w, keys*events) {
			require.Less(w, last[e.ID], e.Note, "key %s", e.ID)
			last[e.ID] = e.Note
		}
		require.Len(w, seen.All(), keys*events)
	})
}
