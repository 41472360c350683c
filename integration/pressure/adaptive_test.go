package pressure_test

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

var adaptive = bus.Backpressure{Strategy: bus.AdaptiveRateLimit}

// trickle listens with one handler that takes some time, and tells how many events it
// handled and how long the last one had waited for it.
func trickle(w *world.World, b *bus.Bus, takes time.Duration, opts ...bus.SubscribeOption) (handled *atomic.Int64, lag *atomic.Int64) {
	w.Helper()
	handled, lag = new(atomic.Int64), new(atomic.Int64)
	_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		lag.Store(int64(time.Since(m.SentAt)))
		time.Sleep(takes)
		handled.Add(1)
		return nil
	}, append(opts, bus.WithConcurrency(1))...)
	require.NoError(w, err)
	return handled, lag
}

// Whoever publishes as fast as it can is slowed to what the slowest group of the
// process takes, which is kept busy, and not far behind.
func TestAdaptiveRateLimit(t *testing.T) {
	for name, publish := range map[string]func(context.Context, *bus.Bus) error{
		"publish": func(ctx context.Context, b *bus.Bus) error { return bus.Publish(ctx, b, world.UserCreated{}) },
		"publish all": func(ctx context.Context, b *bus.Bus) error {
			return bus.PublishAll(ctx, b, world.UserCreated{}, world.UserCreated{}, world.UserCreated{})
		},
		"publish async": func(ctx context.Context, b *bus.Bus) error {
			_, err := bus.PublishAsync(ctx, b, world.UserCreated{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bare(w.Open(), bus.Config{Backpressure: adaptive})
				handled, lag := trickle(w, b, 10*time.Millisecond)
				trickle(w, b, time.Millisecond, bus.WithGroup("fast"))
				ctx, cancel := context.WithCancel(w.Context())
				defer cancel()
				ended := make(chan error)
				go func() {
					var err error
					for ctx.Err() == nil && err == nil {
						err = publish(ctx, b)
					}
					ended <- err
				}()
				world.Settle(10 * time.Second)
				before, longest := handled.Load(), time.Duration(0)
				for range 200 {
					world.Settle(100 * time.Millisecond)
					longest = max(longest, time.Duration(lag.Load()))
				}
				share := float64(handled.Load()-before) / 2000
				w.Logf("held %.1f %% of the capacity, longest lag %v", 100*share, longest.Round(time.Millisecond))
				require.GreaterOrEqual(w, share, 0.95)
				require.Less(w, longest, time.Second)
				cancel()
				require.Equal(w, bus.CodeCancelled, bus.CodeOf(<-ended))
			})
		})
	}
}

// A turn that would come after the deadline is refused at once.
func TestAdaptiveRateLimitRefuses(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		changes := world.NewRecord[bus.QueueStats]()
		b := w.Bus(bus.Config{Backpressure: bus.Backpressure{Strategy: bus.AdaptiveRateLimit, OnChange: changes.Add}})
		all := make([]any, 101)
		for i := range all {
			all[i] = world.UserCreated{}
		}
		require.NoError(w, bus.PublishAll(w.Context(), b, all...)) // a second of turns
		began := time.Now()
		for _, err := range []error{
			bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithTimeout(900*time.Millisecond), bus.WithID("a")),
			func() error {
				_, err := bus.PublishAsync(w.Context(), b, world.UserCreated{}, bus.WithTimeout(900*time.Millisecond), bus.WithID("a"))
				return err
			}(),
		} {
			require.ErrorIs(w, err, bus.ErrRejected)
			require.Equal(w, bus.CodeBacklog, bus.CodeOf(err))
			require.EqualError(w, err, "publish user.created: not sent, its turn would come too late: rejected, because too many events wait")
		}
		require.Zero(w, time.Since(began))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		require.Equal(w, time.Second, time.Since(began))
		world.Settle(3 * time.Second)
		require.Len(w, changes.All(), 2)
		raised, cleared := changes.All()[0], changes.All()[1]
		require.True(w, raised.Active)
		require.Equal(w, bus.QueueStats{
			Queue: "rate", Strategy: bus.AdaptiveRateLimit, Enqueued: 102, Dequeued: 102, Rejected: 2, Max: 1, Hits: 1, Rate: 100,
		}, cleared)
	})
}

// What handlers publish does not wait: that would make them slower still.
func TestAdaptiveRateLimitSparesHandlers(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Backpressure: adaptive})
		done := make(chan time.Duration)
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			began := time.Now()
			for range 1000 {
				if err := bus.Publish(ctx, b, &world.UserDeleted{ID: "x"}); err != nil {
					w.Errorf("in the handler: %v", err)
				}
			}
			done <- time.Since(began)
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		require.Zero(w, <-done)
	})
}

// filling is a transport that refuses events while it is full.
type filling struct {
	transport.Transport
	full atomic.Bool
}

func (f *filling) Publish(ctx context.Context, ms ...*transport.Message) error {
	if f.full.Load() {
		return &transport.BacklogError{}
	}
	return f.Transport.Publish(ctx, ms...)
}

// A transport that refuses because its log is full makes the publisher slower.
func TestAdaptiveRateLimitHearsOfAFullLog(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := &filling{Transport: w.Open()}
		tr.full.Store(true)
		b := w.BusOn(tr, bus.Config{Backpressure: adaptive})
		tried := func(d time.Duration) (n int) {
			for began := time.Now(); time.Since(began) < d; n++ {
				err := bus.Publish(w.Context(), b, world.UserCreated{})
				require.Equal(w, tr.full.Load(), err != nil)
				require.Equal(w, tr.full.Load(), bus.CodeOf(err) == bus.CodeBacklog)
			}
			return n
		}
		tried(10 * time.Second)
		require.InDelta(w, 100, tried(10*time.Second), 5, "ten a second")
		tr.full.Store(false)
		tried(4 * time.Second)
		require.Greater(w, tried(time.Second), 100, "it goes on")
	})
}

// Events that other processes published, that came again or were delayed, do not
// make this one slow.
func TestAdaptiveRateLimitKnowsItsOwn(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Backpressure: adaptive})
		other := w.Bus(bus.Config{Service: "other"})
		keep(w)
		for i := range 200 {
			require.NoError(w, bus.Publish(w.Context(), other, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithDelay(5*time.Second)))
			world.Settle(20 * time.Millisecond)
		}
		world.Settle(time.Minute)
		trickle(w, b, time.Millisecond, bus.WithGroup("late"), bus.WithStart(bus.All()))
		world.Settle(time.Minute)
		began := time.Now()
		for range 100 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		require.LessOrEqual(w, time.Since(began), time.Second, "100 a second, as at first")
	})
}
