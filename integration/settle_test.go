package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// What a closed listener has not handled cannot be passed on; it is tried again
// from time to time.
func TestEventOfAClosedListenerThatCannotBePassedOn(t *testing.T) {
	everywhere(t, func(w *world) {
		b, tr := w.process("svc")
		good, closed := newRecord[int](), newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(good, func(int) error { time.Sleep(time.Second); return nil }),
			bus.WithName("good"), bus.WithPriority(100))
		require.NoError(w, err)
		sub, err := bus.Subscribe(w.Context(), b, attempts(closed, succeed), bus.WithName("closed"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		good.wait(w, 1)
		require.NoError(w, sub.Close(w.Context()))
		published := tr.count("publish")
		tr.set(failing("publish", transport.ErrPermission))
		settle(10 * time.Minute)
		require.Greater(w, tr.count("publish")-published, 10, "it does not give up")
		require.Less(w, tr.count("publish")-published, 200, "nor spin")
		tr.set(nil)
		settle(10 * time.Second)
		require.NoError(w, b.Close(w.Context()))
		_, err = bus.Subscribe(w.Context(), w.bus(bus.Config{}), attempts(closed, succeed), bus.WithName("closed"))
		require.NoError(w, err)
		require.Equal(w, []int{1}, closed.wait(w, 1))
		settle(10 * time.Minute)
		require.Len(w, good.all(), 1)
		require.Len(w, closed.all(), 1)
	})
}

// strict makes an operation whose ctx has ended fail, as a broker far away does.
func strict(f fault) fault {
	return func(ctx context.Context, op, what string) error {
		if err := f(ctx, op, what); err != nil {
			return err
		}
		return ctx.Err()
	}
}

// A settlement has time of its own, however long storing a copy took.
func TestSettlementAfterASlowCopy(t *testing.T) {
	everywhere(t, func(w *world) {
		publisher := w.bus(bus.Config{Service: "publisher"})
		b, tr := w.process("svc")
		got := newRecord[string]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			got.add(fmt.Sprint(m.Attempt, " ", time.Since(began).Round(time.Minute)))
			if m.Attempt == 1 {
				return bus.RetryAfter(10*time.Minute, errOops)
			}
			return nil
		})
		require.NoError(w, err)
		tr.setAfter(func(_ context.Context, op, _ string) error {
			if op == "publish" {
				time.Sleep(6 * time.Second) // it is stored, and the answer is late
			}
			return nil
		})
		tr.set(strict(func(context.Context, string, string) error { return nil }))
		require.NoError(w, bus.Publish(w.Context(), publisher, userCreated{}))
		settle(time.Hour)
		require.Equal(w, []string{"1 0s", "2 10m0s"}, got.all())
	})
}

func TestSettlementAfterACopyThatHangs(t *testing.T) {
	everywhere(t, func(w *world) {
		old := w.bus(bus.Config{})
		_, err := bus.Subscribe(w.Context(), old, func(context.Context, userCreated) error {
			return bus.RetryAfter(time.Minute, errOops)
		}, bus.WithName("dropped"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), old, userCreated{}))
		settle(time.Second)
		require.NoError(w, old.Close(w.Context()))

		// The copy cannot be passed on: it is handed back after that, not when
		// AckWait ends.
		b, tr := w.process("svc")
		tr.set(strict(hanging("publish")))
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return nil }, bus.WithName("kept"))
		require.NoError(w, err)
		settle(time.Minute + 65*time.Second)
		require.GreaterOrEqual(w, tr.count("publish"), 5)
		require.LessOrEqual(w, tr.count("publish"), 10)
	})
}

func TestUndecodableEventStaysWhileItsDeadLetterIsRefused(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := &fullDeadLetters{Transport: w.open()}
		tr.full.Store(true)
		b := w.busOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, *userDeleted) error { return nil })
		require.NoError(w, err)
		m := &transport.Message{To: transport.Address{Name: "user.deleted"}, ID: "e"}
		if w.inProcess {
			m.Value = &userDeleted{} // it does not validate
		} else {
			m.Body = []byte(`{"ID":`)
		}
		require.NoError(w, tr.Publish(w.Context(), m))
		settle(12 * time.Second)
		w.deadLetters(tr.Transport, 0)
		tr.full.Store(false)
		d := w.deadLetters(tr.Transport, 1)[0]
		require.Equal(w, "e", d.Message.ID)
		require.Equal(w, "invalid", d.Code)
	})
}

func TestRetriesOfAPrivateListenerAreBounded(t *testing.T) {
	everywhere(t, func(w *world) {
		const bound, more = 1000, 5
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		first, second := newRecord[int](), newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				first.add(1)
				return bus.RetryAfter(time.Hour, errOops)
			}
			second.add(1)
			return nil
		}, bus.WithPrivate(), bus.WithRetry(resilience.Retry{MaxRetries: 3}))
		require.NoError(w, err)
		for range bound + more {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		}
		first.wait(w, bound+more)
		for _, d := range w.deadLetters(tr, more) {
			require.Equal(w, "backlog", d.Code)
			require.Equal(w, "oops", d.Error)
			require.Equal(w, 1, d.Attempts)
		}
		settle(2 * time.Hour)
		require.Len(w, second.all(), bound)
		w.deadLetters(tr, more)
	})
}

func TestEventsOfOneKeyAreStoredInOrder(t *testing.T) {
	everywhere(t, func(w *world) {
		const keys, events = 8, 50
		b, tr := w.process("svc")
		seen := newRecord[userCreated]()
		_, err := bus.Subscribe(w.Context(), w.bus(bus.Config{}), func(_ context.Context, e userCreated) error { seen.add(e); return nil },
			bus.WithConcurrency(1))
		require.NoError(w, err)
		failed := times(40, failing("publish", transport.ErrUnavailable))
		tr.set(failed)
		var wg sync.WaitGroup
		for key := range keys {
			wg.Go(func() {
				for i := range events {
					e, id := userCreated{ID: userID(fmt.Sprint(key)), Note: fmt.Sprintf("%03d", i)}, fmt.Sprint(key, "-", i)
					for bus.Publish(w.Context(), b, e, bus.WithKey(string(e.ID)), bus.WithID(id)) != nil {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		last := map[userID]string{}
		for _, e := range seen.wait(w, keys*events) {
			require.Less(w, last[e.ID], e.Note, "key %s", e.ID)
			last[e.ID] = e.Note
		}
		require.Len(w, seen.all(), keys*events)
	})
}
