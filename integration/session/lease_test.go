package session_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// A broker that does not answer keeps nobody from being cancelled in time,
// however many deliveries there are to extend, and even if the driver does not
// notice.
func TestHandlersAreCancelledInTimeWhileExtendingHangs(t *testing.T) {
	for _, heeded := range []bool{true, false} {
		t.Run(fmt.Sprint("context heeded ", heeded), func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, bus.Config{})
				ran := world.NewRecord[time.Duration]()
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
					if m, _ := bus.MetaFrom(ctx); m.Attempt > 1 {
						return nil
					}
					began := time.Now()
					<-ctx.Done()
					require.ErrorIs(w, context.Cause(ctx), bus.ErrLeaseLost)
					ran.Add(time.Since(began))
					return ctx.Err()
				}, bus.WithConcurrency(200))
				require.NoError(w, err)
				publisher := w.Bus(bus.Config{})
				hang, release := world.Hanging("extend"), make(chan struct{})
				if !heeded {
					hang, _, release = world.Holding("extend", "")
				}
				defer close(release)
				tr.Set(hang)
				const n = 120
				for range n {
					require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{}))
					time.Sleep(150 * time.Millisecond)
				}
				for _, d := range ran.Wait(w, n)[:n] {
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
	for what, listen := range map[string]func(w *world.World, b *bus.Bus, began func(string)){
		"after a listener of higher priority": func(w *world.World, b *bus.Bus, began func(string)) {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { time.Sleep(pause); return nil },
				bus.WithName("first"), bus.WithPriority(100))
			require.NoError(w, err)
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { began("late"); return nil }, bus.WithName("second"))
			require.NoError(w, err)
		},
		"after a wait for its turn": func(w *world.World, b *bus.Bus, began func(string)) {
			var busy atomic.Bool
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithName("wide"))
			require.NoError(w, err)
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
				if busy.Swap(true) {
					began("late")
				}
				time.Sleep(pause)
				return nil
			}, bus.WithName("narrow"), bus.WithConcurrency(1))
			require.NoError(w, err)
		},
		"after a wait for its retry": func(w *world.World, b *bus.Bus, began func(string)) {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithName("good"))
			require.NoError(w, err)
			var failed atomic.Bool
			_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
				if !failed.Swap(true) {
					return bus.RetryAfter(pause, world.ErrOops)
				}
				began("late")
				return nil
			}, bus.WithName("bad"))
			require.NoError(w, err)
		},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, bus.Config{})
				tr.Set(world.Failing("extend", transport.ErrUnavailable))
				late := world.NewRecord[string]()
				listen(w, b, late.Add)
				world.Settle(100 * time.Millisecond)
				n := 1
				if what == "after a wait for its turn" {
					n = 2
				}
				for range n {
					require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{}), world.UserCreated{}))
				}
				world.Settle(29 * time.Second)
				require.Empty(w, late.All(), "another process may have it")
				tr.Set(nil)
				world.Settle(10 * time.Minute)
				require.NotEmpty(w, late.All(), "it came again")
			})
		})
	}
}

func TestMaxRunIsEachRunsOwn(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{MaxRun: 5 * time.Minute, AckWait: 10 * time.Second})
		ended := world.NewRecord[string]()
		listen := func(name string, d time.Duration, opts ...bus.SubscribeOption) {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
				if m, _ := bus.MetaFrom(ctx); m.Attempt > 1 {
					return nil
				}
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
				ended.Add(fmt.Sprint(name, " ", context.Cause(ctx)))
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
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		world.Settle(time.Hour)
		var want []string
		for range 4 {
			want = append(want, "first <nil>", "second <nil>", "narrow <nil>", "endless handler ran for too long")
		}
		require.ElementsMatch(w, want, ended.All())
	})
}

func TestMaxRunDoesNotCountTheWaitForARetry(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{MaxRun: time.Minute})
		causes := world.NewRecord[error]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				return bus.RetryAfter(10*time.Minute, world.ErrOops)
			}
			select {
			case <-time.After(50 * time.Second):
			case <-ctx.Done():
			}
			causes.Add(context.Cause(ctx))
			return nil
		}, bus.WithPrivate())
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Hour)
		require.Equal(w, []error{nil}, causes.All())
	})
}
