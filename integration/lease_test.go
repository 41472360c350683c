package integration_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// A broker that does not answer keeps nobody from being cancelled in time,
// however many deliveries there are to extend, and even if the driver does not
// notice.
func TestHandlersAreCancelledInTimeWhileExtendingHangs(t *testing.T) {
	for _, heeded := range []bool{true, false} {
		t.Run(fmt.Sprint("context heeded ", heeded), func(t *testing.T) {
			everywhere(t, func(w *world) {
				tr := newFaulty(w.open())
				b := w.busOn(tr, bus.Config{})
				ran := newRecord[time.Duration]()
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
					if m, _ := bus.MetaFrom(ctx); m.Attempt > 1 {
						return nil
					}
					began := time.Now()
					<-ctx.Done()
					require.ErrorIs(w, context.Cause(ctx), bus.ErrLeaseLost)
					ran.add(time.Since(began))
					return ctx.Err()
				}, bus.WithConcurrency(200))
				require.NoError(w, err)
				publisher := w.bus(bus.Config{})
				hang, release := hanging("extend"), make(chan struct{})
				if !heeded {
					hang, _, release = holding("extend", "")
				}
				defer close(release)
				tr.set(hang)
				const n = 120
				for range n {
					require.NoError(w, bus.Publish(w.Context(), publisher, userCreated{}))
					time.Sleep(150 * time.Millisecond)
				}
				for _, d := range ran.wait(w, n)[:n] {
					require.Less(w, d, 30*time.Second, "AckWait")
				}
			})
		})
	}
}

// A run that does not begin as its event is taken looks at the lease first: it
// has ended, and nobody was there to be cancelled.
func TestNothingBeginsAfterItsLease(t *testing.T) {
	const pause = 24500 * time.Millisecond // the lease ends after 24 s, and the next look at it is later
	for what, listen := range map[string]func(w *world, b *bus.Bus, began func(string)){
		"after a listener of higher priority": func(w *world, b *bus.Bus, began func(string)) {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { time.Sleep(pause); return nil },
				bus.WithName("first"), bus.WithPriority(100))
			require.NoError(w, err)
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { began("late"); return nil }, bus.WithName("second"))
			require.NoError(w, err)
		},
		"after a wait for its turn": func(w *world, b *bus.Bus, began func(string)) {
			var busy atomic.Bool
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return nil }, bus.WithName("wide"))
			require.NoError(w, err)
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
				if busy.Swap(true) {
					began("late")
				}
				time.Sleep(pause)
				return nil
			}, bus.WithName("narrow"), bus.WithConcurrency(1))
			require.NoError(w, err)
		},
		"after a wait for its retry": func(w *world, b *bus.Bus, began func(string)) {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return nil }, bus.WithName("good"))
			require.NoError(w, err)
			var failed atomic.Bool
			_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
				if !failed.Swap(true) {
					return bus.RetryAfter(pause, errOops)
				}
				began("late")
				return nil
			}, bus.WithName("bad"))
			require.NoError(w, err)
		},
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(w *world) {
				tr := newFaulty(w.open())
				b := w.busOn(tr, bus.Config{})
				tr.set(failing("extend", transport.ErrUnavailable))
				late := newRecord[string]()
				listen(w, b, late.add)
				settle(100 * time.Millisecond)
				n := 1
				if what == "after a wait for its turn" {
					n = 2
				}
				for range n {
					require.NoError(w, bus.Publish(w.Context(), w.bus(bus.Config{}), userCreated{}))
				}
				settle(29 * time.Second)
				require.Empty(w, late.all(), "another process may have it")
				tr.set(nil)
				settle(10 * time.Minute)
				require.NotEmpty(w, late.all(), "it came again")
			})
		})
	}
}

func TestMaxRunIsEachRunsOwn(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{MaxRun: 5 * time.Minute, AckWait: 10 * time.Second})
		ended := newRecord[string]()
		listen := func(name string, d time.Duration, opts ...bus.SubscribeOption) {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
				if m, _ := bus.MetaFrom(ctx); m.Attempt > 1 {
					return nil
				}
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
				ended.add(fmt.Sprint(name, " ", context.Cause(ctx)))
				return ctx.Err()
			}, append(opts, bus.WithName(name))...)
			require.NoError(w, err)
		}
		// Each event waits for the one before, and for the listener of a higher
		// priority; only "endless" runs for longer than it may.
		listen("first", 4*time.Minute, bus.WithPriority(100))
		listen("second", 4*time.Minute)
		listen("narrow", 2*time.Minute, bus.WithConcurrency(1))
		listen("endless", time.Hour)
		for range 4 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		}
		settle(time.Hour)
		var want []string
		for range 4 {
			want = append(want, "first <nil>", "second <nil>", "narrow <nil>", "endless handler ran for too long")
		}
		require.ElementsMatch(w, want, ended.all())
	})
}

func TestMaxRunDoesNotCountTheWaitForARetry(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{MaxRun: time.Minute})
		causes := newRecord[error]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				return bus.RetryAfter(10*time.Minute, errOops)
			}
			select {
			case <-time.After(50 * time.Second):
			case <-ctx.Done():
			}
			causes.add(context.Cause(ctx))
			return nil
		}, bus.WithPrivate())
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Hour)
		require.Equal(w, []error{nil}, causes.all())
	})
}
