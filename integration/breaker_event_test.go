package integration_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

var errBadName = errors.New("bad name")

// slowRetries are retries that are due while the circuit is open.
var slowRetries = bus.WithRetry(resilience.Retry{MaxRetries: 10, Initial: 10 * time.Second, Max: 10 * time.Second, Jitter: resilience.NoJitter})

// attempt is one run of a handler.
type attempt struct {
	id userID
	n  int
}

// flaky is a handler that fails until it is told to heal.
type flaky struct {
	healthy atomic.Bool
	runs    *record[attempt] // all
	done    *record[attempt] // that succeeded
	now     atomic.Int64     // that run
	most    atomic.Int64
	takes   atomic.Int64 // nanoseconds
}

func newFlaky() *flaky { return &flaky{runs: newRecord[attempt](), done: newRecord[attempt]()} }

func (f *flaky) handle(ctx context.Context, e userCreated) error {
	n := f.now.Add(1)
	defer f.now.Add(-1)
	for m := f.most.Load(); n > m && !f.most.CompareAndSwap(m, n); m = f.most.Load() {
	}
	m, _ := bus.MetaFrom(ctx)
	a := attempt{e.ID, m.Attempt}
	f.runs.add(a)
	time.Sleep(time.Duration(f.takes.Load()))
	if !f.healthy.Load() {
		return errOops
	}
	f.done.add(a)
	return nil
}

// publish publishes events with the numbers from first to last.
func (w *world) publish(b *bus.Bus, first, last int) {
	w.Helper()
	for i := first; i <= last; i++ {
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: userID(fmt.Sprint(i))}))
	}
}

// breaker returns how the one circuit of b stands.
func (w *world) breaker(b *bus.Bus) bus.BreakerStats {
	w.Helper()
	all := b.Breakers()
	require.Len(w, all, 1)
	return all[0]
}

// once checks that each event from first to last was handled once, and returns the
// attempt that was.
func (w *world) once(all []attempt, first, last int) map[userID]int {
	w.Helper()
	byID := map[userID]int{}
	for _, a := range all {
		require.Zero(w, byID[a.id], "%s was handled twice", a.id)
		byID[a.id] = a.n
	}
	for i := first; i <= last; i++ {
		require.NotZero(w, byID[userID(fmt.Sprint(i))], "event %d is lost", i)
	}
	require.Len(w, byID, last-first+1)
	return byID
}

func TestOpenCircuitPausesAGroup(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithConcurrency(1), slowRetries,
			bus.WithBreaker(resilience.Breaker{Recovery: 2 * time.Hour}))
		require.NoError(w, err)
		require.Equal(w, resilience.BreakerClosed, w.breaker(b).State)

		w.publish(b, 1, 4)
		f.runs.wait(w, 4)
		settle(time.Second)
		require.Equal(w, resilience.BreakerClosed, w.breaker(b).State)
		w.publish(b, 5, 20)
		settle(5 * time.Second)
		st := w.breaker(b)
		require.Equal(w, resilience.BreakerOpen, st.State)
		require.Equal(w, "svc", st.Group)
		require.Len(w, f.runs.all(), 5, "the fifth event opened it")
		require.Equal(w, bus.Degraded, conditions(b.Health(w.Context()))["breakers"])
		require.True(w, b.Health(w.Context()).Ready())

		next, subscribes, releases := tr.count("next"), tr.count("subscribe"), tr.count("release")
		settle(time.Hour) // the retries are due after 10 s
		require.Len(w, f.runs.all(), 5, "an attempt was burnt")
		require.Equal(w, []int{next, subscribes, releases}, []int{tr.count("next"), tr.count("subscribe"), tr.count("release")},
			"the transport was asked while the circuit is open")

		f.healthy.Store(true)
		f.takes.Store(int64(time.Second))
		f.most.Store(0)
		settle(time.Hour - time.Minute)
		require.Empty(w, f.done.all())
		settle(2 * time.Minute)
		attempts := w.once(f.done.wait(w, 20), 1, 20)
		for i := 1; i <= 20; i++ {
			want := 1
			if i <= 5 {
				want = 2
			}
			require.Equal(w, want, attempts[userID(fmt.Sprint(i))], "event %d", i)
		}
		require.Equal(w, resilience.BreakerClosed, w.breaker(b).State)
		require.EqualValues(w, 1, w.breaker(b).Opened)
		require.Equal(w, bus.OK, conditions(b.Health(w.Context()))["breakers"])
		w.Wait()
		require.Empty(w, w.deadLetters(tr, 0))
	})
}

func TestHalfOpenCircuitHandlesOneEventAtATime(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{EventBreaker: &resilience.Breaker{SuccessThreshold: 3}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithConcurrency(10), slowRetries)
		require.NoError(w, err)
		w.publish(b, 1, 30)
		settle(20 * time.Second)
		require.Equal(w, resilience.BreakerOpen, w.breaker(b).State)
		before := len(f.runs.all())
		require.LessOrEqual(w, before, 15, "those that were running when it opened")

		for i := range 3 { // each failed probe begins the pause anew
			f.takes.Store(int64(10 * time.Second))
			f.most.Store(0)
			settle(time.Minute + 15*time.Second)
			require.Len(w, f.runs.all(), before+i+1)
			require.EqualValues(w, 1, f.most.Load())
			require.Equal(w, resilience.BreakerOpen, w.breaker(b).State)
			require.EqualValues(w, i+2, w.breaker(b).Opened)
		}

		f.healthy.Store(true)
		f.most.Store(0)
		for w.breaker(b).State == resilience.BreakerOpen {
			settle(time.Second)
		}
		f.done.wait(w, 2)
		settle(5 * time.Second)
		require.Equal(w, resilience.BreakerHalfOpen, w.breaker(b).State)
		require.Equal(w, 2, w.breaker(b).Successes)
		require.EqualValues(w, 1, f.most.Load(), "one at a time")
		f.done.wait(w, 3)
		settle(5 * time.Second)
		require.Equal(w, resilience.BreakerClosed, w.breaker(b).State)
		w.once(f.done.wait(w, 30), 1, 30)
		require.EqualValues(w, 10, f.most.Load(), "and then as many as before")
	})
}

func TestFailuresOutsideOfTheWindowDoNotOpenTheCircuitOfAGroup(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{EventBreaker: &resilience.Breaker{}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		for i := range 20 {
			w.publish(b, i, i)
			settle(16 * time.Second)
		}
		require.Len(w, f.runs.all(), 20)
		require.Equal(w, resilience.BreakerClosed, w.breaker(b).State)
	})
}

// What is the event's fault does not pause the group: an event that fails again and
// again, one that no retry will mend, one that is invalid.
func TestPoisonDoesNotPauseTheGroup(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 2}})
		runs := newRecord[userID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error {
			runs.add(e.ID)
			switch e.ID {
			case "poison":
				return errOops
			case "permanent":
				return bus.Permanent(errOops)
			case "final":
				return fmt.Errorf("parse: %w", errBadName)
			case "invalid":
				return &bus.Error{Code: bus.CodeInvalid}
			case "cancelled":
				return fmt.Errorf("ask: %w", context.Canceled)
			}
			return nil
		}, bus.WithRetry(resilience.Retry{MaxRetries: 20, Initial: time.Second, Base: 1, Final: []error{errBadName}}))
		require.NoError(w, err)
		for _, id := range []userID{"poison", "permanent", "permanent", "permanent", "final", "final", "invalid", "invalid", "cancelled", "cancelled", "good"} {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: id}))
		}
		w.Wait()
		require.Len(w, runs.all(), 3+2+1+5*21)
		require.Equal(w, resilience.BreakerClosed, w.breaker(b).State)
		require.Zero(w, w.breaker(b).Opened)
	})
}

func TestOtherProcessesOfThePausedGroupGoOn(t *testing.T) {
	everywhere(t, func(w *world) {
		ill, well := newFlaky(), newFlaky()
		well.healthy.Store(true)
		b := w.bus(bus.Config{})
		policy := bus.WithBreaker(resilience.Breaker{Recovery: time.Hour})
		_, err := bus.Subscribe(w.Context(), b, ill.handle, slowRetries, policy)
		require.NoError(w, err)
		w.publish(b, 1, 10)
		settle(time.Second)
		require.Equal(w, resilience.BreakerOpen, w.breaker(b).State)

		other := w.bus(bus.Config{})
		_, err = bus.Subscribe(w.Context(), other, well.handle, slowRetries, policy)
		require.NoError(w, err)
		w.publish(b, 11, 30)
		w.once(well.done.wait(w, 30), 1, 30)
		require.Equal(w, resilience.BreakerOpen, w.breaker(b).State)
		require.Equal(w, resilience.BreakerClosed, w.breaker(other).State)
		require.LessOrEqual(w, len(ill.runs.all()), 10, "those that were running when it opened")
	})
}

// What has failed in one handler and not in another waits in the process. While the
// circuit is open it goes to the broker instead of running, and loses no attempt.
func TestRetryThatWaitsInTheProcessDoesNotRunWhileThePauseLasts(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{EventBreaker: &resilience.Breaker{Recovery: time.Hour}})
		f := newFlaky()
		good := newRecord[userID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error { good.add(e.ID); return nil },
			bus.WithName("good"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, f.handle, bus.WithName("flaky"), slowRetries, bus.WithConcurrency(1))
		require.NoError(w, err)
		w.publish(b, 1, 5)
		settle(5 * time.Second)
		require.Equal(w, resilience.BreakerOpen, w.breaker(b).State)
		require.Len(w, f.runs.all(), 5)
		settle(50 * time.Minute)
		require.Len(w, f.runs.all(), 5)
		f.healthy.Store(true)
		settle(9 * time.Minute)
		for _, n := range w.once(f.done.wait(w, 5), 1, 5) {
			require.Equal(w, 2, n)
		}
		w.Wait()
		require.Len(w, good.all(), 5, "who had succeeded does not run again")
	})
}

func TestClosingAPausedGroupLosesNothing(t *testing.T) {
	for name, end := range map[string]func(w *world, b *bus.Bus, sub *bus.Subscription) error{
		"bus":          func(w *world, b *bus.Bus, _ *bus.Subscription) error { return b.Close(w.Context()) },
		"subscription": func(w *world, _ *bus.Bus, sub *bus.Subscription) error { return sub.Close(w.Context()) },
	} {
		for _, at := range []time.Duration{time.Second, time.Minute + time.Second} { // open, half-open
			t.Run(fmt.Sprint(name, " after ", at), func(t *testing.T) {
				everywhere(t, func(w *world) {
					b := w.bus(bus.Config{})
					f := newFlaky()
					sub, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithBreaker(resilience.Breaker{}), bus.WithConcurrency(1),
						bus.WithRetry(resilience.Retry{MaxRetries: 10, Initial: 5 * time.Minute, Max: 5 * time.Minute, Jitter: resilience.NoJitter}))
					require.NoError(w, err)
					w.publish(b, 1, 5)
					settle(at)
					if at > time.Minute {
						require.Equal(w, resilience.BreakerHalfOpen, w.breaker(b).State)
					} else {
						w.publish(b, 6, 10)
						require.Equal(w, resilience.BreakerOpen, w.breaker(b).State)
					}
					began := time.Now()
					require.NoError(w, end(w, b, sub))
					require.Less(w, time.Since(began), time.Second)
					require.Empty(w, b.Breakers())
					last := 5
					if at < time.Minute {
						last = 10
					}
					again := newFlaky()
					again.healthy.Store(true)
					next := w.bus(bus.Config{})
					_, err = bus.Subscribe(w.Context(), next, again.handle)
					require.NoError(w, err)
					settle(10 * time.Minute)
					for id, n := range w.once(again.done.all(), 1, last) {
						if id > "5" || id == "10" {
							require.Equal(w, 1, n, "%s", id)
						}
					}
				})
			})
		}
	}
}

// A handler that runs when the circuit opens keeps its event, for longer than
// AckWait, and a late success does not close it.
func TestWhatRunsWhileTheCircuitOpensGoesOn(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{EventBreaker: &resilience.Breaker{}})
		slow := newRecord[time.Duration]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			if e.ID == "slow" {
				time.Sleep(10 * time.Minute)
				slow.add(time.Since(began).Round(time.Second))
				return ctx.Err()
			}
			return errOops
		}, bus.WithRetry(resilience.Retry{MaxRetries: 10, Initial: time.Hour, Max: time.Hour, Jitter: resilience.NoJitter}))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "slow"}))
		settle(time.Millisecond)
		w.publish(b, 1, 5)
		settle(15 * time.Minute)
		require.Equal(w, []time.Duration{10 * time.Minute}, slow.all())
		require.Equal(w, resilience.BreakerHalfOpen, w.breaker(b).State)
		require.Zero(w, w.breaker(b).Successes)
	})
}

func TestPausedBatches(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 3, Recovery: time.Hour}})
		var healthy atomic.Bool
		sizes, done := newRecord[int](), newRecord[attempt]()
		_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, es []userCreated) error {
			sizes.add(len(es))
			if !healthy.Load() {
				return errOops
			}
			for i, e := range es {
				m, _ := bus.MetaAt(ctx, i)
				done.add(attempt{e.ID, m.Attempt})
			}
			return nil
		}, bus.WithBatchSize(10), slowRetries)
		require.NoError(w, err)
		w.publish(b, 1, 50)
		settle(5 * time.Second)
		require.Equal(w, resilience.BreakerOpen, w.breaker(b).State)
		require.Equal(w, []int{10, 10, 10}, sizes.all())
		next := tr.count("next")
		settle(50 * time.Minute)
		require.Equal(w, next, tr.count("next"))
		require.Len(w, sizes.all(), 3)

		healthy.Store(true)
		sizes.reset()
		settle(9 * time.Minute)
		attempts := w.once(done.wait(w, 50), 1, 50)
		require.Equal(w, []int{1, 1, 1}, sizes.all()[:3], "single events probe")
		require.Less(w, len(sizes.all()), 20, "and then they come together again")
		for i := 1; i <= 50; i++ {
			want := 1
			if i <= 30 {
				want = 2
			}
			require.Equal(w, want, attempts[userID(fmt.Sprint(i))], "event %d", i)
		}
	})
}

// A batch that is being gathered when the circuit opens goes back.
func TestBatchThatHasNotBegunWhenTheCircuitOpensGoesBack(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 1}})
		var healthy atomic.Bool
		sizes, done := newRecord[int](), newRecord[attempt]()
		_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, es []userCreated) error {
			sizes.add(len(es))
			time.Sleep(time.Second)
			if !healthy.Load() {
				return errOops
			}
			for i, e := range es {
				m, _ := bus.MetaAt(ctx, i)
				done.add(attempt{e.ID, m.Attempt})
			}
			return nil
		}, bus.WithBatchSize(10), bus.WithLinger(5*time.Second), bus.WithConcurrency(2), slowRetries)
		require.NoError(w, err)
		w.publish(b, 1, 15)
		settle(30 * time.Second)
		require.Equal(w, []int{10}, sizes.all())
		healthy.Store(true)
		attempts := w.once(done.wait(w, 15), 1, 15)
		for i := 11; i <= 15; i++ {
			require.Equal(w, 1, attempts[userID(fmt.Sprint(i))])
		}
	})
}

// A batch in which some events fail says that the handler is well.
func TestBatchThatPartlyFailsDoesNotPause(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 1}})
		_, err := bus.SubscribeBatch(w.Context(), b, func(_ context.Context, es []userCreated) error {
			failed := bus.ItemErrors{}
			for i, e := range es {
				if e.ID == "1" {
					failed[i] = errOops
				}
			}
			return failed
		}, bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		w.publish(b, 1, 3)
		settle(time.Minute)
		require.Zero(w, w.breaker(b).Opened)
	})
}

// The broker may be away when the pause is over.
func TestPausedGroupIsReadAgainWhenTheBrokerIsBack(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 1, SuccessThreshold: 1}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, slowRetries)
		require.NoError(w, err)
		w.publish(b, 1, 1)
		settle(time.Second)
		f.healthy.Store(true)
		tr.set(failing("subscribe", transport.ErrUnavailable))
		settle(10 * time.Minute)
		require.Empty(w, f.done.all())
		require.Less(w, tr.count("subscribe"), 40, "tried again, and not too often")
		tr.set(nil)
		require.Len(w, f.done.wait(w, 1), 1)
		w.publish(b, 2, 10)
		f.done.wait(w, 10)
	})
}

// A process that dies while it pauses has nothing that others need to wait for.
func TestProcessThatDiesWhilePausedHoldsNothing(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{EventBreaker: &resilience.Breaker{}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, slowRetries, bus.WithConcurrency(1))
		require.NoError(w, err)
		w.publish(b, 1, 5)
		settle(time.Second)
		require.Equal(w, resilience.BreakerOpen, w.breaker(b).State)
		w.publish(b, 6, 20)
		tr.kill()
		again := newFlaky()
		again.healthy.Store(true)
		_, err = bus.Subscribe(w.Context(), w.bus(bus.Config{}), again.handle)
		require.NoError(w, err)
		w.once(again.done.wait(w, 20), 1, 20)
	})
}

func TestChangesOfCircuitsAreTold(t *testing.T) {
	everywhere(t, func(w *world) {
		changes, told := newRecord[bus.BreakerChanged](), newRecord[bus.BreakerChanged]()
		_, err := bus.Subscribe(w.Context(), w.bus(bus.Config{Service: "alarm"}), func(_ context.Context, c bus.BreakerChanged) error {
			changes.add(c)
			return nil
		}, bus.WithConcurrency(1))
		require.NoError(w, err)
		b := w.bus(bus.Config{
			EventBreaker: &resilience.Breaker{FailureThreshold: 2, SuccessThreshold: 1},
			OnBreaker: func(c bus.BreakerChanged) {
				told.add(c)
				panic("a bug in there")
			},
		})
		f := newFlaky()
		_, err = bus.Subscribe(w.Context(), b, f.handle, slowRetries, bus.WithGroup("mailer"))
		require.NoError(w, err)
		began := time.Now()
		w.publish(b, 1, 2)
		settle(time.Second)
		f.healthy.Store(true)
		f.done.wait(w, 2)
		w.Wait()
		all := changes.wait(w, 3)
		require.Len(w, all, 3)
		for i, c := range all {
			require.Equal(w, bus.KindEvent, c.Kind)
			require.Equal(w, "user.created", c.Name)
			require.Equal(w, "mailer", c.Group)
			require.Equal(w, "svc", c.Service)
			require.Equal(w, []resilience.BreakerState{resilience.BreakerClosed, resilience.BreakerOpen, resilience.BreakerHalfOpen, resilience.BreakerClosed}[i:i+2],
				[]resilience.BreakerState{c.From, c.To})
		}
		require.Equal(w, 2, all[0].Failures)
		require.WithinDuration(w, began.Add(time.Minute), all[0].Until, 5*time.Second)
		require.Len(w, told.all(), 3)
	})
}

// The handlers of BreakerChanged itself may fail, with a circuit of their own.
func TestChangesOfCircuitsDoNotFeedOnThemselves(t *testing.T) {
	everywhere(t, func(w *world) {
		policy := &resilience.Breaker{FailureThreshold: 1, Recovery: time.Second}
		b := w.bus(bus.Config{EventBreaker: policy})
		alarms := newRecord[bus.BreakerChanged]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, c bus.BreakerChanged) error {
			alarms.add(c)
			return errOops
		}, bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return errOops },
			bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		w.publish(b, 1, 1)
		w.Wait()
		settle(time.Hour)
		for _, c := range alarms.all() {
			require.Equal(w, "user.created", c.Name)
		}
		require.Len(w, alarms.all(), 2, "opened, half-open")
	})
}

func TestBreakerOptionsThatContradict(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{EventBreaker: &resilience.Breaker{}})
		h := func(context.Context, userCreated) error { return nil }
		_, err := bus.Subscribe(w.Context(), b, h, bus.WithPrivate(), bus.WithBreaker(resilience.Breaker{}))
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(w, err, "WithBreaker is for groups")
		s, err := b.Session(w.Context(), "a")
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), s, h, bus.WithBreaker(resilience.Breaker{}))
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		_, err = bus.Subscribe(w.Context(), b, h, bus.WithBreaker(resilience.Breaker{Window: -1}))
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))

		_, err = bus.Subscribe(w.Context(), b, h, bus.WithPrivate())
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), s, h)
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, h, bus.WithGroup("steady"), bus.WithBreaker(resilience.Breaker{FailureThreshold: resilience.NeverOpens}))
		require.NoError(w, err)
		require.Empty(w, b.Breakers(), "none has one")

		_, err = bus.Subscribe(w.Context(), b, h)
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, h, bus.WithName("b"), bus.WithBreaker(resilience.Breaker{FailureThreshold: 5}))
		require.NoError(w, err, "the same in other words")
		_, err = bus.Subscribe(w.Context(), b, h, bus.WithName("c"), bus.WithBreaker(resilience.Breaker{FailureThreshold: 6}))
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		require.ErrorContains(w, err, "opens at 5 failures in 1m for 1m")
		require.Len(w, b.Breakers(), 1)
		require.Equal(w, b.Breakers(), b.Stats().Breakers)

		var described []string
		for _, h := range b.Describe().Handlers {
			described = append(described, h.Handler+": "+h.Breaker)
		}
		const policy = "opens at 5 failures in 1m for 1m, closes after 3 successes"
		require.ElementsMatch(w, []string{"default: ", "default: ", "listener-1: ", "default: " + policy, "b: " + policy}, described)
	})
}
