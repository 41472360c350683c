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
	"github.com/jitney-bus/jitney/resilience"
)

// noteAttempt notes which attempt of which event runs, and how long after
// began.
func noteAttempt(ctx context.Context, r *record[string], began time.Time) {
	m, _ := bus.MetaFrom(ctx)
	r.add(fmt.Sprintf("%s %d %v", m.ID, m.Attempt, time.Since(began).Round(time.Second)))
}

// within a limit of 10 s: at once, at once, after 2 s, after 4 s, and no more.
var limited = resilience.Retry{
	MaxRetries: 9, Immediate: 2, Initial: 2 * time.Second, Jitter: resilience.NoJitter,
	Within: 10 * time.Second, Final: []error{io.EOF},
}

func TestImmediateRetriesAndTheLimitOfTime(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Retry: limited})
		ran := newRecord[string]()
		var began time.Time
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			noteAttempt(ctx, ran, began)
			switch m, _ := bus.MetaFrom(ctx); {
			case e.ID == "final" && m.Attempt == 2:
				return fmt.Errorf("read: %w", io.EOF)
			case e.ID == "after":
				return bus.RetryAfter(6*time.Second, errOops)
			case e.ID == "panic":
				panic(io.EOF)
			}
			return errOops
		})
		require.NoError(w, err)
		began = time.Now()
		for _, id := range []string{"plain", "final", "after", "panic"} {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: userID(id)}, bus.WithID(id)))
		}
		settle(time.Hour)
		require.ElementsMatch(w, []string{
			"plain 1 0s", "plain 2 0s", "plain 3 0s", "plain 4 2s", "plain 5 6s",
			"final 1 0s", "final 2 0s",
			"after 1 0s", "after 2 6s",
			"panic 1 0s",
		}, ran.all())
		for _, d := range w.deadLetters(tr, 4) {
			require.Equal(w, map[string]int{"plain": 5, "final": 2, "after": 2, "panic": 1}[d.Message.ID], d.Attempts, d.Message.ID)
			require.Empty(w, d.Message.Header, "what the bus noted is not the event's")
		}
	})
}

// The limit is counted from the first failure, whichever process had it, and how
// long none was there does not make a dead letter of a retry that was decided.
func TestLimitOfTimeSurvivesTheProcess(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		w.busOn(tr, bus.Config{}) // keeps it open
		policy := resilience.Retry{MaxRetries: 100, Initial: 10 * time.Second, Max: 10 * time.Second, Base: 1, Jitter: resilience.NoJitter, Within: 55 * time.Second}
		ran := newRecord[string]()
		began := time.Now()
		start := func() *bus.Bus {
			b := w.busOn(w.open(), bus.Config{Retry: policy})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				noteAttempt(ctx, ran, began)
				return errOops
			})
			require.NoError(w, err)
			return b
		}
		first := start()
		require.NoError(w, bus.Publish(w.Context(), first, userCreated{}, bus.WithID("e")))
		settle(25 * time.Second) // at 0, 10, 20
		require.NoError(w, first.Close(w.Context()))
		settle(10 * time.Second)
		second := start() // at 35 instead of 30, 45, 55
		settle(15 * time.Second)
		require.NoError(w, second.Close(w.Context()))
		require.Equal(w, []string{"e 1 0s", "e 2 10s", "e 3 20s", "e 4 35s", "e 5 45s"}, ran.all())
		w.deadLetters(tr, 0)
		settle(time.Hour)
		start()
		settle(time.Hour)
		require.Equal(w, "e 6 1h0m50s", ran.all()[5], "a retry that was decided is made")
		require.Len(w, ran.all(), 6)
		require.Equal(w, 6, w.deadLetters(tr, 1)[0].Attempts)
	})
}

// Each listener of a group has a limit of its own, also where one waits for another.
func TestLimitOfTimeOfEachListener(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		ran := newRecord[string]()
		began := time.Now()
		listen := func(name string, within time.Duration, opt bus.SubscribeOption, fail error) {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				m, _ := bus.MetaFrom(ctx)
				ran.add(fmt.Sprintf("%s %d %v", name, m.Attempt, time.Since(began).Round(time.Second)))
				return fail
			}, bus.WithName(name), opt, bus.WithRetry(resilience.Retry{
				MaxRetries: 50, Initial: 10 * time.Second, Max: 10 * time.Second, Base: 1, Jitter: resilience.NoJitter, Within: within,
			}))
			require.NoError(w, err)
		}
		listen("gate", 25*time.Second, bus.WithPriority(100), bus.StopPropagation(errOops))
		listen("guard", 35*time.Second, bus.WithPriority(100), bus.StopPropagation(errOops))
		listen("done", time.Second, bus.WithPriority(200), nil)
		listen("late", 15*time.Second, bus.WithPriority(10), errOops)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Hour)
		require.ElementsMatch(w, []string{
			"done 1 0s",
			"gate 1 0s", "gate 2 10s", "gate 3 20s",
			"guard 1 0s", "guard 2 10s", "guard 3 20s", "guard 4 30s",
		}, ran.all(), "late never runs: who stopped it is a dead letter")
		w.deadLetters(tr, 2)
	})
}

func TestLimitOfTimeOfAPrivateListener(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		ran := newRecord[string]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			noteAttempt(ctx, ran, began)
			return errOops
		}, bus.WithPrivate(), bus.WithRetry(limited))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e")))
		settle(time.Hour)
		require.Equal(w, []string{"e 1 0s", "e 2 0s", "e 3 0s", "e 4 2s", "e 5 6s"}, ran.all())
		require.Equal(w, 5, w.deadLetters(tr, 1)[0].Attempts)
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
			everywhere(t, func(w *world) {
				tr := w.open()
				b := w.busOn(tr, bus.Config{})
				alone := newRecord[userID]()
				_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, es []userCreated) error {
					if len(es) == 1 {
						alone.add(es[0].ID)
					}
					for _, e := range es {
						if e.ID == "bad" {
							return fmt.Errorf("insert: %w", io.EOF)
						}
					}
					return nil
				}, bus.WithRetry(policy))
				require.NoError(w, err)
				for _, id := range []userID{"a", "bad", "c"} {
					require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: id}, bus.WithID(string(id))))
				}
				settle(time.Hour)
				require.ElementsMatch(w, []userID{"a", "bad", "c"}, alone.all())
				d := w.deadLetters(tr, 1)[0]
				require.Equal(w, "bad", d.Message.ID)
				require.Equal(w, 2, d.Attempts)
			})
		})
	}
}

func TestBatchWithImmediateRetriesAndALimit(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		ran := newRecord[string]()
		began := time.Now()
		_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, es []userCreated) error {
			failed := bus.ItemErrors{}
			for i, e := range es {
				m, _ := bus.MetaAt(ctx, i)
				ran.add(fmt.Sprintf("%s %d %v", e.ID, m.Attempt, time.Since(began).Round(time.Second)))
				switch {
				case e.ID == "bad":
					failed[i] = errOops
				case e.ID == "final":
					failed[i] = io.EOF
				}
			}
			return failed
		}, bus.WithRetry(limited), bus.WithLinger(time.Millisecond))
		require.NoError(w, err)
		for _, id := range []userID{"good", "bad", "final"} {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: id}, bus.WithID(string(id))))
		}
		settle(time.Hour)
		require.ElementsMatch(w, []string{
			"good 1 0s", "final 1 0s", "bad 1 0s", "bad 2 0s", "bad 3 0s", "bad 4 2s", "bad 5 6s",
		}, ran.all())
		require.Len(w, w.deadLetters(tr, 2), 2)
	})
}

// The schedule does not depend on who looks: observers that take their time, and
// middleware, bend nothing (peers multiply the delay where a hook is set).
func TestObserversDoNotBendTheSchedule(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		told := newRecord[time.Duration]()
		wrap := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) { return next(ctx, m) }
		}
		b := w.busOn(tr, bus.Config{
			Retry:     resilience.Retry{MaxRetries: 4, Initial: time.Second, Base: 1.5, Jitter: resilience.NoJitter},
			Receiving: []bus.Middleware{wrap},
			Observers: []bus.Observer{
				func(r bus.Record) {
					if r.Stage == bus.StageRetrying {
						told.add(r.Delay)
					}
				},
				func(r bus.Record) { time.Sleep(time.Millisecond) },
				func(bus.Record) { panic("observer") },
			},
		})
		at := newRecord[time.Time]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			at.add(time.Now())
			return errOops
		}, bus.WithMiddleware(wrap))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Hour)
		want := []time.Duration{time.Second, 1500 * time.Millisecond, 2250 * time.Millisecond, 3375 * time.Millisecond}
		require.Equal(w, want, told.all())
		runs := at.all()
		require.Len(w, runs, 5)
		for i, d := range want {
			require.InDelta(w, d.Seconds(), runs[i+1].Sub(runs[i]).Seconds(), 0.02, "retry %d", i+1)
		}
		w.deadLetters(tr, 1)
	})
}

// Immediate retries are asked for; without that no attempt follows another at once.
func TestAttemptsAreNotBurntAtOnce(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Retry: resilience.Retry{MaxRetries: 5, Initial: time.Second, Jitter: resilience.NoJitter}})
		ran := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			ran.add(m.Attempt)
			return errOops
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(900 * time.Millisecond)
		require.Equal(w, []int{1}, ran.all())
		settle(6 * time.Second) // at 1 and 3 s
		require.Equal(w, []int{1, 2, 3}, ran.all())
		w.deadLetters(tr, 0)
	})
}

// Close in the middle of a run that then fails consumes no attempt of it, not even
// the last, and makes no dead letter.
func TestShutdownConsumesNoAttemptOfALimitedRetry(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		w.busOn(tr, bus.Config{}) // keeps it open
		policy := resilience.Retry{MaxRetries: 1, Immediate: 1, Within: time.Minute}
		ran := newRecord[int]()
		start := func(fail func(ctx context.Context, attempt int) error) *bus.Bus {
			b := w.busOn(w.open(), bus.Config{Retry: policy})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				m, _ := bus.MetaFrom(ctx)
				ran.add(m.Attempt)
				return fail(ctx, m.Attempt)
			})
			require.NoError(w, err)
			return b
		}
		b := start(func(ctx context.Context, attempt int) error {
			if attempt == 1 {
				return errOops
			}
			<-ctx.Done()
			return bus.Permanent(errors.Join(errOops, ctx.Err()))
		})
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		ran.wait(w, 2)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		require.NoError(w, b.Close(ctx))
		w.deadLetters(tr, 0)
		start(func(context.Context, int) error { return nil })
		settle(time.Minute)
		require.Equal(w, []int{1, 2, 2}, ran.all())
		w.deadLetters(tr, 0)
	})
}

func TestRetryPoliciesByName(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{
			Retry:   resilience.Retry{MaxRetries: 1, Immediate: 1},
			Retries: map[string]resilience.Retry{"user.created": {MaxRetries: 2, Immediate: 2}, "user.renamed": {MaxRetries: resilience.NoRetries}},
		})
		ran := newRecord[string]()
		note := func(ctx context.Context) error {
			m, _ := bus.MetaFrom(ctx)
			ran.add(fmt.Sprintf("%s %d", m.Handler, m.Attempt))
			return errOops
		}
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error { return note(ctx) }, bus.WithName("by-name"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error { return note(ctx) },
			bus.WithName("own"), bus.WithRetry(resilience.Retry{MaxRetries: 3, Immediate: 3}))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e spanned) error { return note(ctx) }, bus.WithName("of-the-bus"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		require.NoError(w, bus.Publish(w.Context(), b, spanned{}))
		settle(time.Minute)
		require.ElementsMatch(w, []string{
			"by-name 1", "by-name 2", "by-name 3", "own 1", "own 2", "own 3", "own 4", "of-the-bus 1", "of-the-bus 2",
		}, ran.all())
		w.deadLetters(tr, 3)
	})
}

type spanned struct{}

func (spanned) MessageName() string { return "test.spanned" }
