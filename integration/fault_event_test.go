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

// attempts records the attempt of each run.
func attempts(rec *world.Record[int], result func(attempt int) error) func(context.Context, world.UserCreated) error {
	return func(ctx context.Context, _ world.UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		rec.Add(m.Attempt)
		return result(m.Attempt)
	}
}

func succeed(int) error { return nil }

func TestPublishWhoseAnswerIsLost(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		got := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{}), attempts(got, succeed))
		require.NoError(w, err)
		b, tr := w.Process("publisher")
		tr.SetAfter(world.Failing("publish", transport.ErrUnknown))
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e"))))
		tr.SetAfter(nil)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e")))
		world.Settle(time.Minute)
		require.Len(w, got.All(), 1, "publishing again with its id is safe")

		tr.Set(world.Failing("publish", transport.ErrUnavailable))
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(bus.Publish(w.Context(), b, world.UserCreated{})))
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(bus.PublishAll(w.Context(), b, world.UserCreated{}, world.UserCreated{})))
		tr.Set(world.Hanging("publish"))
		began := time.Now()
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(bus.Publish(w.Context(), b, world.UserCreated{})))
		require.Equal(w, 10*time.Second, time.Since(began), "Config.PublishTimeout")
	})
}

func TestSubscribeThatFails(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, tr := w.Process("svc")
		got := world.NewRecord[int]()
		for code, err := range map[bus.Code]error{
			bus.CodeUnavailable: transport.ErrUnavailable, bus.CodeConflict: transport.ErrConfig,
			bus.CodePermission: transport.ErrPermission,
		} {
			tr.Set(world.Failing("subscribe", err))
			_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed))
			require.Equal(w, code, bus.CodeOf(err))
			require.ErrorContains(w, err, "user.created")
		}
		// The first of two fails; the one that waited for it opens the group itself.
		tr.Set(world.Times(1, func(_ context.Context, op, _ string) error {
			if op != "subscribe" {
				return nil
			}
			time.Sleep(time.Second)
			return transport.ErrUnavailable
		}))
		errs := world.NewRecord[error]()
		for _, name := range []string{"a", "b"} {
			go func() {
				_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed), bus.WithName(name))
				errs.Add(err)
			}()
		}
		failed := 0
		for _, err := range errs.Wait(w, 2) {
			if err != nil {
				require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err))
				failed++
			}
		}
		require.Equal(w, 1, failed)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Minute)
		require.Equal(w, []int{1}, got.All())
	})
}

func TestSourceOfEventsThatFailsForAWhile(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, tr := w.Process("svc")
		got := world.NewRecord[int]()
		tr.Set(world.Failing("next", transport.ErrUnavailable))
		_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Minute)
		require.Less(w, tr.Count("next"), 2000, "no spinning")
		require.Greater(w, tr.Count("next"), 100, "no giving up")
		require.Empty(w, got.All())
		tr.Set(nil)
		require.Equal(w, []int{1}, got.Wait(w, 1))
	})
}

func TestAckThatFailsLeadsToRedeliveryOnly(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		inner := w.Open()
		tr := world.NewFaulty(inner)
		b := w.BusOn(tr, bus.Config{})
		got := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed))
		require.NoError(w, err)
		tr.Set(world.Times(2, world.Failing("ack", transport.ErrUnavailable)))
		began := time.Now()
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		got.Wait(w, 2)
		require.GreaterOrEqual(w, time.Since(began), 30*time.Second, "after AckWait")
		world.Settle(10 * time.Minute)
		require.Equal(w, []int{1, 2, 3}, got.All())
		w.DeadLetters(inner, 0)

		tr.SetAfter(world.Failing("ack", transport.ErrUnknown)) // it was taken
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(10 * time.Minute)
		require.Equal(w, []int{1, 2, 3, 1}, got.All())
	})
}

func TestOtherSettlementsThatFail(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		inner := w.Open()
		tr := world.NewFaulty(inner)
		b := w.BusOn(tr, bus.Config{Retry: world.Steady})
		got := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(got, func(attempt int) error {
			if attempt < 3 {
				return world.ErrOops
			}
			return bus.Permanent(world.ErrOops)
		}))
		require.NoError(w, err)
		nak := world.Times(1, world.Failing("nak", transport.ErrUnavailable))
		term := world.Times(1, world.Failing("term", transport.ErrUnavailable))
		tr.Set(func(ctx context.Context, op, what string) error {
			if err := nak(ctx, op, what); err != nil {
				return err
			}
			return term(ctx, op, what)
		})
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e")))
		world.Settle(10 * time.Minute)
		require.Equal(w, []int{1, 2, 3, 4}, got.All(), "the last one because its dead letter was not settled")
		w.DeadLetters(inner, 1)
	})
}

func TestRetryCopyThatIsNotStored(t *testing.T) {
	for what, f := range map[string]world.Fault{
		"refused": world.Failing("publish", transport.ErrPermission),
		"unknown": world.Failing("publish", transport.ErrUnknown),
		"hanging": world.Hanging("publish"),
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				publisher := w.Bus(bus.Config{Service: "publisher"})
				b, tr := w.Process("svc")
				got := world.NewRecord[string]()
				began := time.Now()
				for _, name := range []string{"good", "bad"} {
					_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
						m, _ := bus.MetaFrom(ctx)
						got.Add(fmt.Sprintf("%s %s %d %v", e.ID, name, m.Attempt, time.Since(began).Round(time.Minute)))
						if m.Attempt == 1 && (name == "bad" || e.ID == "whole") {
							return bus.RetryAfter(10*time.Minute, world.ErrOops)
						}
						return nil
					}, bus.WithName(name))
					require.NoError(w, err)
				}
				tr.Set(f)
				require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{ID: "whole"}))
				require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{ID: "part"}))
				world.Settle(20 * time.Minute)
				require.ElementsMatch(w, []string{
					"whole good 1 0s", "whole bad 1 0s", "part good 1 0s", "part bad 1 0s",
					"whole good 2 10m0s", "whole bad 2 10m0s", "part bad 2 10m0s",
				}, got.All(), "what was to wait waits, and what was done is not done again")
			})
		})
	}
}

func TestRetryCopyThatIsNotStoredWhileClosing(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, tr := w.Process("svc")
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
		tr.Set(world.Failing("publish", transport.ErrUnavailable))
		listen(w.Bus(bus.Config{}), false)
		closed := time.Now()
		require.NoError(w, b.Close(w.Context()))
		got.Wait(w, 4)
		require.Less(w, time.Since(closed), 5*time.Second, "at once")
		world.Settle(5 * time.Minute)
		require.ElementsMatch(w, []string{"good 1", "bad 1", "good 1", "bad 1"}, got.All(), "handed back whole")
	})
}

func TestLostLeaseStopsTheHandler(t *testing.T) {
	for what, f := range map[string]world.Fault{
		"extending fails": world.Failing("extend", transport.ErrUnavailable),
		"extending hangs": world.Hanging("extend"),
	} {
		for _, result := range []error{nil, world.ErrOops, bus.Permanent(world.ErrOops)} {
			t.Run(fmt.Sprintf("%s, handler returns %T", what, result), func(t *testing.T) {
				world.Everywhere(t, func(w *world.World) {
					inner := w.Open()
					tr := world.NewFaulty(inner)
					b := w.BusOn(tr, bus.Config{})
					cause, second := world.NewRecord[error](), world.NewRecord[int]()
					started, freeze := make(chan struct{}), make(chan struct{})
					defer close(freeze)
					_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
						close(started)
						<-ctx.Done()
						cause.Add(context.Cause(ctx))
						return result
					}, bus.WithConcurrency(1))
					require.NoError(w, err)
					require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
					<-started
					began := time.Now()
					tr.Set(func(ctx context.Context, op, what string) error {
						if op == "next" { // it takes nothing more
							<-freeze
						}
						return f(ctx, op, what)
					})
					_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), attempts(second, succeed))
					require.NoError(w, err)

					require.ErrorIs(w, cause.Wait(w, 1)[0], bus.ErrLeaseLost)
					require.Empty(w, second.All(), "cancelled before another process has it")
					require.Less(w, time.Since(began), 30*time.Second)
					require.Equal(w, []int{2}, second.Wait(w, 1))
					world.Settle(5 * time.Minute)
					require.Len(w, second.All(), 1)
					require.Len(w, cause.All(), 1)
					for _, op := range []string{"ack", "nak", "term", "release"} {
						require.Zero(w, tr.Count(op), "%s of what belongs to another process", op)
					}
					w.DeadLetters(inner, 0)
				})
			})
		}
	}
}

func TestSlowGroupBlocksNoOther(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		fast, stuck := world.NewRecord[int](), world.NewRecord[int]()
		release := make(chan struct{})
		free := sync.OnceFunc(func() { close(release) })
		defer free()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			stuck.Add(1)
			<-release
			return nil
		}, bus.WithGroup("slow"), bus.WithConcurrency(1))
		require.NoError(w, err)
		for i, opt := range []bus.SubscribeOption{bus.WithGroup("fast"), bus.WithPrivate()} {
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { fast.Add(i); return nil }, opt)
			require.NoError(w, err)
		}
		began := time.Now()
		for range 500 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		fast.Wait(w, 1000)
		require.Less(w, time.Since(began), 10*time.Second)
		require.Len(w, stuck.Wait(w, 1), 1)
		free()
		stuck.Wait(w, 500)
	})
}

func TestStuckHandlerStopsNoOther(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		release := make(chan struct{})
		defer close(release)
		got := world.NewRecord[string]()
		listen := func(name string, opts ...bus.SubscribeOption) {
			_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
				if e.ID == "stuck" && name == "a" {
					got.Add("stuck")
					<-release
				}
				got.Add(name)
				return nil
			}, append(opts, bus.WithName(name))...)
			require.NoError(w, err)
		}
		listen("a", bus.WithConcurrency(3))
		listen("b")
		for range 2 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "stuck"}))
		}
		for range 50 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "good"}))
		}
		got.Wait(w, 2+50+52)           // two are stuck in a, all go through b
		world.Settle(10 * time.Minute) // less than Config.MaxRun
		seen := map[string]int{}
		for _, name := range got.All() {
			seen[name]++
		}
		require.Equal(w, map[string]int{"stuck": 2, "a": 50, "b": 52}, seen, "and none is given to another meanwhile")
		err := b.Close(w.Context())
		require.ErrorContains(w, err, "user.created/svc/a")
	})
}
