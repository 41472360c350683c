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

// attempts records the attempt of each run.
func attempts(rec *record[int], result func(attempt int) error) func(context.Context, userCreated) error {
	return func(ctx context.Context, _ userCreated) error {
		m, _ := bus.MetaFrom(ctx)
		rec.add(m.Attempt)
		return result(m.Attempt)
	}
}

func succeed(int) error { return nil }

func TestPublishWhoseAnswerIsLost(t *testing.T) {
	everywhere(t, func(w *world) {
		got := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), w.bus(bus.Config{}), attempts(got, succeed))
		require.NoError(w, err)
		b, tr := w.process("publisher")
		tr.setAfter(failing("publish", transport.ErrUnknown))
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e"))))
		tr.setAfter(nil)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e")))
		settle(time.Minute)
		require.Len(w, got.all(), 1, "publishing again with its id is safe")

		tr.set(failing("publish", transport.ErrUnavailable))
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(bus.Publish(w.Context(), b, userCreated{})))
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(bus.PublishAll(w.Context(), b, userCreated{}, userCreated{})))
		tr.set(hanging("publish"))
		began := time.Now()
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(bus.Publish(w.Context(), b, userCreated{})))
		require.Equal(w, 10*time.Second, time.Since(began), "Config.PublishTimeout")
	})
}

func TestSubscribeThatFails(t *testing.T) {
	everywhere(t, func(w *world) {
		b, tr := w.process("svc")
		got := newRecord[int]()
		for code, err := range map[bus.Code]error{
			bus.CodeUnavailable: transport.ErrUnavailable, bus.CodeConflict: transport.ErrConfig,
			bus.CodePermission: transport.ErrPermission,
		} {
			tr.set(failing("subscribe", err))
			_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed))
			require.Equal(w, code, bus.CodeOf(err))
			require.ErrorContains(w, err, "user.created")
		}
		// The first of two fails; the one that waited for it opens the group itself.
		tr.set(times(1, func(_ context.Context, op, _ string) error {
			if op != "subscribe" {
				return nil
			}
			time.Sleep(time.Second)
			return transport.ErrUnavailable
		}))
		errs := newRecord[error]()
		for _, name := range []string{"a", "b"} {
			go func() {
				_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed), bus.WithName(name))
				errs.add(err)
			}()
		}
		failed := 0
		for _, err := range errs.wait(w, 2) {
			if err != nil {
				require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err))
				failed++
			}
		}
		require.Equal(w, 1, failed)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Minute)
		require.Equal(w, []int{1}, got.all())
	})
}

func TestSourceOfEventsThatFailsForAWhile(t *testing.T) {
	everywhere(t, func(w *world) {
		b, tr := w.process("svc")
		got := newRecord[int]()
		tr.set(failing("next", transport.ErrUnavailable))
		_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Minute)
		require.Less(w, tr.count("next"), 2000, "no spinning")
		require.Greater(w, tr.count("next"), 100, "no giving up")
		require.Empty(w, got.all())
		tr.set(nil)
		require.Equal(w, []int{1}, got.wait(w, 1))
	})
}

func TestAckThatFailsLeadsToRedeliveryOnly(t *testing.T) {
	everywhere(t, func(w *world) {
		inner := w.open()
		tr := newFaulty(inner)
		b := w.busOn(tr, bus.Config{})
		got := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed))
		require.NoError(w, err)
		tr.set(times(2, failing("ack", transport.ErrUnavailable)))
		began := time.Now()
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		got.wait(w, 2)
		require.GreaterOrEqual(w, time.Since(began), 30*time.Second, "after AckWait")
		settle(10 * time.Minute)
		require.Equal(w, []int{1, 2, 3}, got.all())
		w.deadLetters(inner, 0)

		tr.setAfter(failing("ack", transport.ErrUnknown)) // it was taken
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(10 * time.Minute)
		require.Equal(w, []int{1, 2, 3, 1}, got.all())
	})
}

func TestOtherSettlementsThatFail(t *testing.T) {
	everywhere(t, func(w *world) {
		inner := w.open()
		tr := newFaulty(inner)
		b := w.busOn(tr, bus.Config{Retry: steady})
		got := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(got, func(attempt int) error {
			if attempt < 3 {
				return errOops
			}
			return bus.Permanent(errOops)
		}))
		require.NoError(w, err)
		nak := times(1, failing("nak", transport.ErrUnavailable))
		term := times(1, failing("term", transport.ErrUnavailable))
		tr.set(func(ctx context.Context, op, what string) error {
			if err := nak(ctx, op, what); err != nil {
				return err
			}
			return term(ctx, op, what)
		})
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e")))
		settle(10 * time.Minute)
		require.Equal(w, []int{1, 2, 3, 4}, got.all(), "the last one because its dead letter was not settled")
		w.deadLetters(inner, 1)
	})
}

func TestRetryCopyThatIsNotStored(t *testing.T) {
	for what, f := range map[string]fault{
		"refused": failing("publish", transport.ErrPermission),
		"unknown": failing("publish", transport.ErrUnknown),
		"hanging": hanging("publish"),
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(w *world) {
				publisher := w.bus(bus.Config{Service: "publisher"})
				b, tr := w.process("svc")
				got := newRecord[string]()
				began := time.Now()
				for _, name := range []string{"good", "bad"} {
					_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
						m, _ := bus.MetaFrom(ctx)
						got.add(fmt.Sprintf("%s %s %d %v", e.ID, name, m.Attempt, time.Since(began).Round(time.Minute)))
						if m.Attempt == 1 && (name == "bad" || e.ID == "whole") {
							return bus.RetryAfter(10*time.Minute, errOops)
						}
						return nil
					}, bus.WithName(name))
					require.NoError(w, err)
				}
				tr.set(f)
				require.NoError(w, bus.Publish(w.Context(), publisher, userCreated{ID: "whole"}))
				require.NoError(w, bus.Publish(w.Context(), publisher, userCreated{ID: "part"}))
				settle(time.Hour)
				require.ElementsMatch(w, []string{
					"whole good 1 0s", "whole bad 1 0s", "part good 1 0s", "part bad 1 0s",
					"whole good 2 10m0s", "whole bad 2 10m0s", "part bad 2 10m0s",
				}, got.all(), "what was to wait waits, and what was done is not done again")
			})
		})
	}
}

func TestRetryCopyThatIsNotStoredWhileClosing(t *testing.T) {
	everywhere(t, func(w *world) {
		b, tr := w.process("svc")
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
		tr.set(failing("publish", transport.ErrUnavailable))
		listen(w.bus(bus.Config{}), false)
		closed := time.Now()
		require.NoError(w, b.Close(w.Context()))
		got.wait(w, 4)
		require.Less(w, time.Since(closed), 5*time.Second, "at once")
		settle(5 * time.Minute)
		require.ElementsMatch(w, []string{"good 1", "bad 1", "good 1", "bad 1"}, got.all(), "handed back whole")
	})
}

func TestLostLeaseStopsTheHandler(t *testing.T) {
	for what, f := range map[string]fault{
		"extending fails": failing("extend", transport.ErrUnavailable),
		"extending hangs": hanging("extend"),
	} {
		for _, result := range []error{nil, errOops, bus.Permanent(errOops)} {
			t.Run(fmt.Sprintf("%s, handler returns %T", what, result), func(t *testing.T) {
				everywhere(t, func(w *world) {
					inner := w.open()
					tr := newFaulty(inner)
					b := w.busOn(tr, bus.Config{})
					cause, second := newRecord[error](), newRecord[int]()
					started, freeze := make(chan struct{}), make(chan struct{})
					defer close(freeze)
					_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
						close(started)
						<-ctx.Done()
						cause.add(context.Cause(ctx))
						return result
					}, bus.WithConcurrency(1))
					require.NoError(w, err)
					require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
					<-started
					began := time.Now()
					tr.set(func(ctx context.Context, op, what string) error {
						if op == "next" { // it takes nothing more
							<-freeze
						}
						return f(ctx, op, what)
					})
					_, err = bus.Subscribe(w.Context(), w.bus(bus.Config{}), attempts(second, succeed))
					require.NoError(w, err)

					require.ErrorIs(w, cause.wait(w, 1)[0], bus.ErrLeaseLost)
					require.Empty(w, second.all(), "cancelled before another process has it")
					require.Less(w, time.Since(began), 30*time.Second)
					require.Equal(w, []int{2}, second.wait(w, 1))
					settle(5 * time.Minute)
					require.Len(w, second.all(), 1)
					require.Len(w, cause.all(), 1)
					for _, op := range []string{"ack", "nak", "term", "release"} {
						require.Zero(w, tr.count(op), "%s of what belongs to another process", op)
					}
					w.deadLetters(inner, 0)
				})
			})
		}
	}
}

func TestSlowGroupBlocksNoOther(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		fast, stuck := newRecord[int](), newRecord[int]()
		release := make(chan struct{})
		free := sync.OnceFunc(func() { close(release) })
		defer free()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
			stuck.add(1)
			<-release
			return nil
		}, bus.WithGroup("slow"), bus.WithConcurrency(1))
		require.NoError(w, err)
		for i, opt := range []bus.SubscribeOption{bus.WithGroup("fast"), bus.WithPrivate()} {
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { fast.add(i); return nil }, opt)
			require.NoError(w, err)
		}
		began := time.Now()
		for range 500 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		}
		fast.wait(w, 1000)
		require.Less(w, time.Since(began), 10*time.Second)
		require.Len(w, stuck.wait(w, 1), 1)
		free()
		stuck.wait(w, 500)
	})
}

func TestStuckHandlerStopsNoOther(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		release := make(chan struct{})
		defer close(release)
		got := newRecord[string]()
		listen := func(name string, opts ...bus.SubscribeOption) {
			_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error {
				if e.ID == "stuck" && name == "a" {
					got.add("stuck")
					<-release
				}
				got.add(name)
				return nil
			}, append(opts, bus.WithName(name))...)
			require.NoError(w, err)
		}
		listen("a", bus.WithConcurrency(3))
		listen("b")
		for range 2 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "stuck"}))
		}
		for range 50 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "good"}))
		}
		got.wait(w, 2+50+52)     // two are stuck in a, all go through b
		settle(10 * time.Minute) // less than Config.MaxRun
		seen := map[string]int{}
		for _, name := range got.all() {
			seen[name]++
		}
		require.Equal(w, map[string]int{"stuck": 2, "a": 50, "b": 52}, seen, "and none is given to another meanwhile")
		err := b.Close(w.Context())
		require.ErrorContains(w, err, "user.created/svc/a")
	})
}
