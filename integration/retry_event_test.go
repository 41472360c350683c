package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
)

// noteAttempt notes which attempt of which event runs, and how long after
// began.
func noteAttempt(ctx context.Context, r *world.Record[string], began time.Time) {
	m, _ := bus.MetaFrom(ctx)
	r.Add(fmt.Sprintf("%s %d %v", m.ID, m.Attempt, time.Since(began).Round(time.Second)))
}

// within a limit of 10 s: at once, at once, after 2 s, after 4 s, and no more.
var limited = resilience.Retry{
	MaxRetries: 9, Immediate: 2, Initial: 2 * time.Second, Jitter: resilience.NoJitter,
	Within: 10 * time.Second, Final: []error{io.EOF},
}

func TestImmediateRetriesAndTheLimitOfTime(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: limited})
		ran := world.NewRecord[string]()
		var began time.Time
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			noteAttempt(ctx, ran, began)
			switch m, _ := bus.MetaFrom(ctx); {
			case e.ID == "final" && m.Attempt == 2:
				return fmt.Errorf("read: %w", io.EOF)
			case e.ID == "after":
				return bus.RetryAfter(6*time.Second, world.ErrOops)
			case e.ID == "panic":
				panic(io.EOF)
			}
			return world.ErrOops
		})
		require.NoError(w, err)
		began = time.Now()
		for _, id := range []string{"plain", "final", "after", "panic"} {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(id)}, bus.WithID(id)))
		}
		world.Settle(20 * time.Minute)
		require.ElementsMatch(w, []string{
			"plain 1 0s", "plain 2 0s", "plain 3 0s", "plain 4 2s", "plain 5 6s",
			"final 1 0s", "final 2 0s",
			"after 1 0s", "after 2 6s",
			"panic 1 0s",
		}, ran.All())
		for _, d := range w.DeadLetters(tr, 4) {
			require.Equal(w, map[string]int{"plain": 5, "final": 2, "after": 2, "panic": 1}[d.Message.ID], d.Attempts, d.Message.ID)
			require.Empty(w, d.Message.Header, "what the bus noted is not the event's")
		}
	})
}

// The limit is counted from the first failure, whichever process had it, and how
// long none was there does not make a dead letter of a retry that was decided.
func TestLimitOfTimeSurvivesTheProcess(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		w.BusOn(tr, bus.Config{}) // keeps it open
		policy := resilience.Retry{MaxRetries: 100, Initial: 10 * time.Second, Max: 10 * time.Second, Base: 1, Jitter: resilience.NoJitter, Within: 55 * time.Second}
		ran := world.NewRecord[string]()
		began := time.Now()
		start := func() *bus.Bus {
			b := w.BusOn(w.Open(), bus.Config{Retry: policy})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				noteAttempt(ctx, ran, began)
				return world.ErrOops
			})
			require.NoError(w, err)
			return b
		}
		first := start()
		require.NoError(w, bus.Publish(w.Context(), first, world.UserCreated{}, bus.WithID("e")))
		world.Settle(25 * time.Second) // at 0, 10, 20
		require.NoError(w, first.Close(w.Context()))
		world.Settle(10 * time.Second)
		second := start() // at 35 instead of 30, 45, 55
		world.Settle(15 * time.Second)
		require.NoError(w, second.Close(w.Context()))
		require.Equal(w, []string{"e 1 0s", "e 2 10s", "e 3 20s", "e 4 35s", "e 5 45s"}, ran.All())
		w.DeadLetters(tr, 0)
		world.Settle(30 * time.Minute)
		start()
		world.Settle(20 * time.Minute)
		require.Equal(w, "e 6 30m50s", ran.All()[5], "a retry that was decided is made")
		require.Len(w, ran.All(), 6)
		require.Equal(w, 6, w.DeadLetters(tr, 1)[0].Attempts)
	})
}

// Each listener of a group has a limit of its own, also where one waits for another.
func TestLimitOfTimeOfEachListener(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		ran := world.NewRecord[string]()
		began := time.Now()
		listen := func(name string, within time.Duration, opt bus.SubscribeOption, fail error) {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				ran.Add(fmt.Sprintf("%s %d %v", name, m.Attempt, time.Since(began).Round(time.Second)))
				return fail
			}, bus.WithName(name), opt, bus.WithRetry(resilience.Retry{
				MaxRetries: 50, Initial: 10 * time.Second, Max: 10 * time.Second, Base: 1, Jitter: resilience.NoJitter, Within: within,
			}))
			require.NoError(w, err)
		}
		listen("gate", 25*time.Second, bus.WithPriority(100), bus.StopPropagation(world.ErrOops))
		listen("guard", 35*time.Second, bus.WithPriority(100), bus.StopPropagation(world.ErrOops))
		listen("done", time.Second, bus.WithPriority(200), nil)
		listen("late", 15*time.Second, bus.WithPriority(10), world.ErrOops)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(20 * time.Minute)
		require.ElementsMatch(w, []string{
			"done 1 0s",
			"gate 1 0s", "gate 2 10s", "gate 3 20s",
			"guard 1 0s", "guard 2 10s", "guard 3 20s", "guard 4 30s",
		}, ran.All(), "late never runs: who stopped it is a dead letter")
		w.DeadLetters(tr, 2)
	})
}

func TestLimitOfTimeOfAPrivateListener(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		ran := world.NewRecord[string]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			noteAttempt(ctx, ran, began)
			return world.ErrOops
		}, bus.WithPrivate(), bus.WithRetry(limited))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e")))
		world.Settle(20 * time.Minute)
		require.Equal(w, []string{"e 1 0s", "e 2 0s", "e 3 0s", "e 4 2s", "e 5 6s"}, ran.All())
		require.Equal(w, 5, w.DeadLetters(tr, 1)[0].Attempts)
	})
}

// A batch that fails as a whole makes no dead letter of an event because of another
// one, whatever makes the failure final.
func TestBatchThatFailsForGoodRunsOnceMoreAlone(t *testing.T) {
	for name, policy := range map[string]resilience.Retry{
		"final": {MaxRetries: 9, Initial: time.Second, Jitter: resilience.NoJitter, Final: []error{io.EOF}},
		"limit": {MaxRetries: 9, Initial: time.Second, Jitter: resilience.NoJitter, Within: time.Millisecond},
		"both":  limited,
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				b := w.BusOn(tr, bus.Config{})
				alone := world.NewRecord[world.UserID]()
				_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, es []world.UserCreated) error {
					if len(es) == 1 {
						alone.Add(es[0].ID)
					}
					for _, e := range es {
						if e.ID == "bad" {
							return fmt.Errorf("insert: %w", io.EOF)
						}
					}
					return nil
				}, bus.WithRetry(policy))
				require.NoError(w, err)
				for _, id := range []world.UserID{"a", "bad", "c"} {
					require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: id}, bus.WithID(string(id))))
				}
				world.Settle(20 * time.Minute)
				require.ElementsMatch(w, []world.UserID{"a", "bad", "c"}, alone.All())
				d := w.DeadLetters(tr, 1)[0]
				require.Equal(w, "bad", d.Message.ID)
				require.Equal(w, 2, d.Attempts)
			})
		})
	}
}

func TestBatchWithImmediateRetriesAndALimit(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		ran := world.NewRecord[string]()
		began := time.Now()
		_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, es []world.UserCreated) error {
			failed := bus.ItemErrors{}
			for i, e := range es {
				m, _ := bus.MetaAt(ctx, i)
				ran.Add(fmt.Sprintf("%s %d %v", e.ID, m.Attempt, time.Since(began).Round(time.Second)))
				switch {
				case e.ID == "bad":
					failed[i] = world.ErrOops
				case e.ID == "final":
					failed[i] = io.EOF
				}
			}
			return failed
		}, bus.WithRetry(limited), bus.WithLinger(time.Millisecond))
		require.NoError(w, err)
		for _, id := range []world.UserID{"good", "bad", "final"} {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: id}, bus.WithID(string(id))))
		}
		world.Settle(20 * time.Minute)
		require.ElementsMatch(w, []string{
			"good 1 0s", "final 1 0s", "bad 1 0s", "bad 2 0s", "bad 3 0s", "bad 4 2s", "bad 5 6s",
		}, ran.All())
		require.Len(w, w.DeadLetters(tr, 2), 2)
	})
}

// The schedule does not depend on who looks: observers that take their time, and
// middleware, bend nothing (peers multiply the delay where a hook is set).
func TestObserversDoNotBendTheSchedule(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		told := world.NewRecord[time.Duration]()
		wrap := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) { return next(ctx, m) }
		}
		b := w.BusOn(tr, bus.Config{
			Retry:     resilience.Retry{MaxRetries: 4, Initial: time.Second, Base: 1.5, Jitter: resilience.NoJitter},
			Receiving: []bus.Middleware{wrap},
			Observers: []bus.Observer{
				func(r bus.Record) {
					if r.Stage == bus.StageRetrying {
						told.Add(r.Delay)
					}
				},
				func(r bus.Record) { time.Sleep(time.Millisecond) },
				func(bus.Record) { panic("observer") },
			},
		})
		at := world.NewRecord[time.Time]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			at.Add(time.Now())
			return world.ErrOops
		}, bus.WithMiddleware(wrap))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(20 * time.Minute)
		want := []time.Duration{time.Second, 1500 * time.Millisecond, 2250 * time.Millisecond, 3375 * time.Millisecond}
		require.Equal(w, want, told.All())
		runs := at.All()
		require.Len(w, runs, 5)
		for i, d := range want {
			require.InDelta(w, d.Seconds(), runs[i+1].Sub(runs[i]).Seconds(), 0.02, "retry %d", i+1)
		}
		w.DeadLetters(tr, 1)
	})
}

// Immediate retries are asked for; without that no attempt follows another at once.
func TestAttemptsAreNotBurntAtOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: resilience.Retry{MaxRetries: 5, Initial: time.Second, Jitter: resilience.NoJitter}})
		ran := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			ran.Add(m.Attempt)
			return world.ErrOops
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(900 * time.Millisecond)
		require.Equal(w, []int{1}, ran.All())
		world.Settle(6 * time.Second) // at 1 and 3 s
		require.Equal(w, []int{1, 2, 3}, ran.All())
		w.DeadLetters(tr, 0)
	})
}

// Close in the middle of a run that then fails consumes no attempt of it, not even
// the last, and makes no dead letter.
func TestShutdownConsumesNoAttemptOfALimitedRetry(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		w.BusOn(tr, bus.Config{}) // keeps it open
		policy := resilience.Retry{MaxRetries: 1, Immediate: 1, Within: time.Minute}
		ran := world.NewRecord[int]()
		start := func(fail func(ctx context.Context, attempt int) error) *bus.Bus {
			b := w.BusOn(w.Open(), bus.Config{Retry: policy})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				ran.Add(m.Attempt)
				return fail(ctx, m.Attempt)
			})
			require.NoError(w, err)
			return b
		}
		b := start(func(ctx context.Context, attempt int) error {
			if attempt == 1 {
				return world.ErrOops
			}
			<-ctx.Done()
			return bus.Permanent(errors.Join(world.ErrOops, ctx.Err()))
		})
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		ran.Wait(w, 2)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		require.NoError(w, b.Close(ctx))
		w.DeadLetters(tr, 0)
		start(func(context.Context, int) error { return nil })
		world.Settle(time.Minute)
		require.Equal(w, []int{1, 2, 2}, ran.All())
		w.DeadLetters(tr, 0)
	})
}

func TestRetryPoliciesByName(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{
			Retry:   resilience.Retry{MaxRetries: 1, Immediate: 1},
			Retries: map[string]resilience.Retry{"user.created": {MaxRetries: 2, Immediate: 2}, "user.renamed": {MaxRetries: resilience.NoRetries}},
		})
		ran := world.NewRecord[string]()
		note := func(ctx context.Context) error {
			m, _ := bus.MetaFrom(ctx)
			ran.Add(fmt.Sprintf("%s %d", m.Handler, m.Attempt))
			return world.ErrOops
		}
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error { return note(ctx) }, bus.WithName("by-name"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error { return note(ctx) },
			bus.WithName("own"), bus.WithRetry(resilience.Retry{MaxRetries: 3, Immediate: 3}))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e spanned) error { return note(ctx) }, bus.WithName("of-the-bus"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		require.NoError(w, bus.Publish(w.Context(), b, spanned{}))
		world.Settle(time.Minute)
		require.ElementsMatch(w, []string{
			"by-name 1", "by-name 2", "by-name 3", "own 1", "own 2", "own 3", "own 4", "of-the-bus 1", "of-the-bus 2",
		}, ran.All())
		w.DeadLetters(tr, 3)
	})
}

type spanned struct{}

func (spanned) MessageName() string { return "test.spanned" }
