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
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

var errBadName = errors.New("bad name")

// slowRetries are retries that are due while the circuit is open.
var slowRetries = bus.WithRetry(resilience.Retry{MaxRetries: 10, Initial: 10 * time.Second, Max: 10 * time.Second, Jitter: resilience.NoJitter})

// attempt is one run of a handler.
type attempt struct {
	id world.UserID
	n  int
}

// flaky is a handler that fails until it is told to heal.
type flaky struct {
	healthy atomic.Bool
	runs    *world.Record[attempt] // all
	done    *world.Record[attempt] // that succeeded
	now     atomic.Int64           // that run
	most    atomic.Int64
	takes   atomic.Int64 // nanoseconds
}

func newFlaky() *flaky {
	return &flaky{runs: world.NewRecord[attempt](), done: world.NewRecord[attempt]()}
}

func (f *flaky) handle(ctx context.Context, e world.UserCreated) error {
	n := f.now.Add(1)
	defer f.now.Add(-1)
	for m := f.most.Load(); n > m && !f.most.CompareAndSwap(m, n); m = f.most.Load() {
	}
	m, _ := bus.MetaFrom(ctx)
	a := attempt{e.ID, m.Attempt}
	f.runs.Add(a)
	time.Sleep(time.Duration(f.takes.Load()))
	if !f.healthy.Load() {
		return world.ErrOops
	}
	f.done.Add(a)
	return nil
}

// publish publishes events with the numbers from first to last.
func publishUsers(w *world.World, b *bus.Bus, first, last int) {
	w.Helper()
	for i := first; i <= last; i++ {
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
	}
}

// breaker returns how the one circuit of b stands.
func breaker(w *world.World, b *bus.Bus) bus.BreakerStats {
	w.Helper()
	all := b.Breakers()
	require.Len(w, all, 1)
	return all[0]
}

// once checks that each event from first to last was handled once, and returns the
// attempt that was.
func once(w *world.World, all []attempt, first, last int) map[world.UserID]int {
	w.Helper()
	byID := map[world.UserID]int{}
	for _, a := range all {
		require.Zero(w, byID[a.id], "%s was handled twice", a.id)
		byID[a.id] = a.n
	}
	for i := first; i <= last; i++ {
		require.NotZero(w, byID[world.UserID(fmt.Sprint(i))], "event %d is lost", i)
	}
	require.Len(w, byID, last-first+1)
	return byID
}

func TestOpenCircuitPausesAGroup(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithConcurrency(1), slowRetries,
			bus.WithBreaker(resilience.Breaker{Recovery: time.Hour}))
		require.NoError(w, err)
		require.Equal(w, resilience.BreakerClosed, breaker(w, b).State)

		publishUsers(w, b, 1, 4)
		f.runs.Wait(w, 4)
		world.Settle(time.Second)
		require.Equal(w, resilience.BreakerClosed, breaker(w, b).State)
		publishUsers(w, b, 5, 20)
		world.Settle(5 * time.Second)
		st := breaker(w, b)
		require.Equal(w, resilience.BreakerOpen, st.State)
		require.Equal(w, "svc", st.Group)
		require.Len(w, f.runs.All(), 5, "the fifth event opened it")
		require.Equal(w, bus.Degraded, conditions(b.Health(w.Context()))["breakers"])
		require.True(w, b.Health(w.Context()).Ready())

		next, subscribes, releases := tr.Count("next"), tr.Count("subscribe"), tr.Count("release")
		world.Settle(30 * time.Minute) // the retries are due after 10 s
		require.Len(w, f.runs.All(), 5, "an attempt was burnt")
		require.Equal(w, []int{next, subscribes, releases}, []int{tr.Count("next"), tr.Count("subscribe"), tr.Count("release")},
			"the transport was asked while the circuit is open")

		f.healthy.Store(true)
		f.takes.Store(int64(time.Second))
		f.most.Store(0)
		world.Settle(29 * time.Minute)
		require.Empty(w, f.done.All())
		world.Settle(2 * time.Minute)
		attempts := once(w, f.done.Wait(w, 20), 1, 20)
		for i := 1; i <= 20; i++ {
			want := 1
			if i <= 5 {
				want = 2
			}
			require.Equal(w, want, attempts[world.UserID(fmt.Sprint(i))], "event %d", i)
		}
		require.Equal(w, resilience.BreakerClosed, breaker(w, b).State)
		require.EqualValues(w, 1, breaker(w, b).Opened)
		require.Equal(w, bus.OK, conditions(b.Health(w.Context()))["breakers"])
		w.Wait()
		require.Empty(w, w.DeadLetters(tr, 0))
	})
}

func TestHalfOpenCircuitHandlesOneEventAtATime(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{SuccessThreshold: 3}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithConcurrency(10), slowRetries)
		require.NoError(w, err)
		publishUsers(w, b, 1, 30)
		world.Settle(20 * time.Second)
		require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)
		before := len(f.runs.All())
		require.LessOrEqual(w, before, 15, "those that were running when it opened")

		for i := range 3 { // each failed probe begins the pause anew
			f.takes.Store(int64(10 * time.Second))
			f.most.Store(0)
			world.Settle(time.Minute + 15*time.Second)
			require.Len(w, f.runs.All(), before+i+1)
			require.EqualValues(w, 1, f.most.Load())
			require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)
			require.EqualValues(w, i+2, breaker(w, b).Opened)
		}

		f.healthy.Store(true)
		f.most.Store(0)
		for breaker(w, b).State == resilience.BreakerOpen {
			world.Settle(time.Second)
		}
		f.done.Wait(w, 2)
		world.Settle(5 * time.Second)
		require.Equal(w, resilience.BreakerHalfOpen, breaker(w, b).State)
		require.Equal(w, 2, breaker(w, b).Successes)
		require.EqualValues(w, 1, f.most.Load(), "one at a time")
		f.done.Wait(w, 3)
		world.Settle(5 * time.Second)
		require.Equal(w, resilience.BreakerClosed, breaker(w, b).State)
		once(w, f.done.Wait(w, 30), 1, 30)
		require.EqualValues(w, 10, f.most.Load(), "and then as many as before")
	})
}

func TestFailuresOutsideOfTheWindowDoNotOpenTheCircuitOfAGroup(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		for i := range 20 {
			publishUsers(w, b, i, i)
			world.Settle(16 * time.Second)
		}
		require.Len(w, f.runs.All(), 20)
		require.Equal(w, resilience.BreakerClosed, breaker(w, b).State)
	})
}

// What is the event's fault does not pause the group: an event that fails again and
// again, one that no retry will mend, one that is invalid.
func TestPoisonDoesNotPauseTheGroup(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 2}})
		runs := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
			runs.Add(e.ID)
			switch e.ID {
			case "poison":
				return world.ErrOops
			case "permanent":
				return bus.Permanent(world.ErrOops)
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
		for _, id := range []world.UserID{"poison", "permanent", "permanent", "permanent", "final", "final", "invalid", "invalid", "cancelled", "cancelled", "good"} {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: id}))
		}
		w.Wait()
		require.Len(w, runs.All(), 3+2+1+5*21)
		require.Equal(w, resilience.BreakerClosed, breaker(w, b).State)
		require.Zero(w, breaker(w, b).Opened)
	})
}

func TestOtherProcessesOfThePausedGroupGoOn(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		ill, well := newFlaky(), newFlaky()
		well.healthy.Store(true)
		b := w.Bus(bus.Config{})
		policy := bus.WithBreaker(resilience.Breaker{Recovery: time.Hour})
		_, err := bus.Subscribe(w.Context(), b, ill.handle, slowRetries, policy)
		require.NoError(w, err)
		publishUsers(w, b, 1, 10)
		world.Settle(time.Second)
		require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)

		other := w.Bus(bus.Config{})
		_, err = bus.Subscribe(w.Context(), other, well.handle, slowRetries, policy)
		require.NoError(w, err)
		publishUsers(w, b, 11, 30)
		once(w, well.done.Wait(w, 30), 1, 30)
		require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)
		require.Equal(w, resilience.BreakerClosed, breaker(w, other).State)
		require.LessOrEqual(w, len(ill.runs.All()), 10, "those that were running when it opened")
	})
}

// What has failed in one handler and not in another waits in the process. While the
// circuit is open it goes to the broker instead of running, and loses no attempt.
func TestRetryThatWaitsInTheProcessDoesNotRunWhileThePauseLasts(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{EventBreaker: &resilience.Breaker{Recovery: time.Hour}})
		f := newFlaky()
		good := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { good.Add(e.ID); return nil },
			bus.WithName("good"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, f.handle, bus.WithName("flaky"), slowRetries, bus.WithConcurrency(1))
		require.NoError(w, err)
		publishUsers(w, b, 1, 5)
		world.Settle(5 * time.Second)
		require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)
		require.Len(w, f.runs.All(), 5)
		world.Settle(50 * time.Minute)
		require.Len(w, f.runs.All(), 5)
		f.healthy.Store(true)
		world.Settle(9 * time.Minute)
		for _, n := range once(w, f.done.Wait(w, 5), 1, 5) {
			require.Equal(w, 2, n)
		}
		w.Wait()
		require.Len(w, good.All(), 5, "who had succeeded does not run again")
	})
}

func TestClosingAPausedGroupLosesNothing(t *testing.T) {
	for name, end := range map[string]func(w *world.World, b *bus.Bus, sub *bus.Subscription) error{
		"bus":          func(w *world.World, b *bus.Bus, _ *bus.Subscription) error { return b.Close(w.Context()) },
		"subscription": func(w *world.World, _ *bus.Bus, sub *bus.Subscription) error { return sub.Close(w.Context()) },
	} {
		for _, at := range []time.Duration{time.Second, time.Minute + time.Second} { // open, half-open
			t.Run(fmt.Sprint(name, " after ", at), func(t *testing.T) {
				world.Everywhere(t, func(w *world.World) {
					b := w.Bus(bus.Config{})
					f := newFlaky()
					sub, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithBreaker(resilience.Breaker{}), bus.WithConcurrency(1),
						bus.WithRetry(resilience.Retry{MaxRetries: 10, Initial: 5 * time.Minute, Max: 5 * time.Minute, Jitter: resilience.NoJitter}))
					require.NoError(w, err)
					publishUsers(w, b, 1, 5)
					world.Settle(at)
					if at > time.Minute {
						require.Equal(w, resilience.BreakerHalfOpen, breaker(w, b).State)
					} else {
						publishUsers(w, b, 6, 10)
						require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)
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
					next := w.Bus(bus.Config{})
					_, err = bus.Subscribe(w.Context(), next, again.handle)
					require.NoError(w, err)
					world.Settle(10 * time.Minute)
					for id, n := range once(w, again.done.All(), 1, last) {
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
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{}})
		slow := world.NewRecord[time.Duration]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			if e.ID == "slow" {
				time.Sleep(10 * time.Minute)
				slow.Add(time.Since(began).Round(time.Second))
				return ctx.Err()
			}
			return world.ErrOops
		}, bus.WithRetry(resilience.Retry{MaxRetries: 10, Initial: time.Hour, Max: time.Hour, Jitter: resilience.NoJitter}))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "slow"}))
		world.Settle(time.Millisecond)
		publishUsers(w, b, 1, 5)
		world.Settle(15 * time.Minute)
		require.Equal(w, []time.Duration{10 * time.Minute}, slow.All())
		require.Equal(w, resilience.BreakerHalfOpen, breaker(w, b).State)
		require.Zero(w, breaker(w, b).Successes)
	})
}

func TestPausedBatches(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 3, Recovery: time.Hour}})
		var healthy atomic.Bool
		sizes, done := world.NewRecord[int](), world.NewRecord[attempt]()
		_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, es []world.UserCreated) error {
			sizes.Add(len(es))
			if !healthy.Load() {
				return world.ErrOops
			}
			for i, e := range es {
				m, _ := bus.MetaAt(ctx, i)
				done.Add(attempt{e.ID, m.Attempt})
			}
			return nil
		}, bus.WithBatchSize(10), slowRetries)
		require.NoError(w, err)
		publishUsers(w, b, 1, 50)
		world.Settle(5 * time.Second)
		require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)
		require.Equal(w, []int{10, 10, 10}, sizes.All())
		next := tr.Count("next")
		world.Settle(50 * time.Minute)
		require.Equal(w, next, tr.Count("next"))
		require.Len(w, sizes.All(), 3)

		healthy.Store(true)
		sizes.Reset()
		world.Settle(9 * time.Minute)
		attempts := once(w, done.Wait(w, 50), 1, 50)
		require.Equal(w, []int{1, 1, 1}, sizes.All()[:3], "single events probe")
		require.Less(w, len(sizes.All()), 20, "and then they come together again")
		for i := 1; i <= 50; i++ {
			want := 1
			if i <= 30 {
				want = 2
			}
			require.Equal(w, want, attempts[world.UserID(fmt.Sprint(i))], "event %d", i)
		}
	})
}

// A batch that is being gathered when the circuit opens goes back.
func TestBatchThatHasNotBegunWhenTheCircuitOpensGoesBack(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 1}})
		var healthy atomic.Bool
		sizes, done := world.NewRecord[int](), world.NewRecord[attempt]()
		_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, es []world.UserCreated) error {
			sizes.Add(len(es))
			time.Sleep(time.Second)
			if !healthy.Load() {
				return world.ErrOops
			}
			for i, e := range es {
				m, _ := bus.MetaAt(ctx, i)
				done.Add(attempt{e.ID, m.Attempt})
			}
			return nil
		}, bus.WithBatchSize(10), bus.WithLinger(5*time.Second), bus.WithConcurrency(2), slowRetries)
		require.NoError(w, err)
		publishUsers(w, b, 1, 15)
		world.Settle(30 * time.Second)
		require.Equal(w, []int{10}, sizes.All())
		healthy.Store(true)
		attempts := once(w, done.Wait(w, 15), 1, 15)
		for i := 11; i <= 15; i++ {
			require.Equal(w, 1, attempts[world.UserID(fmt.Sprint(i))])
		}
	})
}

// A batch in which some events fail says that the handler is well.
func TestBatchThatPartlyFailsDoesNotPause(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 1}})
		_, err := bus.SubscribeBatch(w.Context(), b, func(_ context.Context, es []world.UserCreated) error {
			failed := bus.ItemErrors{}
			for i, e := range es {
				if e.ID == "1" {
					failed[i] = world.ErrOops
				}
			}
			return failed
		}, bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		publishUsers(w, b, 1, 3)
		world.Settle(time.Minute)
		require.Zero(w, breaker(w, b).Opened)
	})
}

// The broker may be away when the pause is over.
func TestPausedGroupIsReadAgainWhenTheBrokerIsBack(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 1, SuccessThreshold: 1}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, slowRetries)
		require.NoError(w, err)
		publishUsers(w, b, 1, 1)
		world.Settle(time.Second)
		f.healthy.Store(true)
		tr.Set(world.Failing("subscribe", transport.ErrUnavailable))
		world.Settle(10 * time.Minute)
		require.Empty(w, f.done.All())
		require.Less(w, tr.Count("subscribe"), 40, "tried again, and not too often")
		tr.Set(nil)
		require.Len(w, f.done.Wait(w, 1), 1)
		publishUsers(w, b, 2, 10)
		f.done.Wait(w, 10)
	})
}

// A process that dies while it pauses has nothing that others need to wait for.
func TestProcessThatDiesWhilePausedHoldsNothing(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{EventBreaker: &resilience.Breaker{}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, slowRetries, bus.WithConcurrency(1))
		require.NoError(w, err)
		publishUsers(w, b, 1, 5)
		world.Settle(time.Second)
		require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)
		publishUsers(w, b, 6, 20)
		tr.Kill()
		again := newFlaky()
		again.healthy.Store(true)
		_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), again.handle)
		require.NoError(w, err)
		once(w, again.done.Wait(w, 20), 1, 20)
	})
}

func TestChangesOfCircuitsAreTold(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		changes, told := world.NewRecord[bus.BreakerChanged](), world.NewRecord[bus.BreakerChanged]()
		_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{Service: "alarm"}), func(_ context.Context, c bus.BreakerChanged) error {
			changes.Add(c)
			return nil
		}, bus.WithConcurrency(1))
		require.NoError(w, err)
		b := w.Bus(bus.Config{
			EventBreaker: &resilience.Breaker{FailureThreshold: 2, SuccessThreshold: 1},
			OnBreaker: func(c bus.BreakerChanged) {
				told.Add(c)
				panic("a bug in there")
			},
		})
		f := newFlaky()
		_, err = bus.Subscribe(w.Context(), b, f.handle, slowRetries, bus.WithGroup("mailer"))
		require.NoError(w, err)
		began := time.Now()
		publishUsers(w, b, 1, 2)
		world.Settle(time.Second)
		f.healthy.Store(true)
		f.done.Wait(w, 2)
		w.Wait()
		all := changes.Wait(w, 3)
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
		require.Len(w, told.All(), 3)
	})
}

// The handlers of BreakerChanged itself may fail, with a circuit of their own.
func TestChangesOfCircuitsDoNotFeedOnThemselves(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		policy := &resilience.Breaker{FailureThreshold: 1, Recovery: time.Second}
		b := w.Bus(bus.Config{EventBreaker: policy})
		alarms := world.NewRecord[bus.BreakerChanged]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, c bus.BreakerChanged) error {
			alarms.Add(c)
			return world.ErrOops
		}, bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return world.ErrOops },
			bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		publishUsers(w, b, 1, 1)
		w.Wait()
		world.Settle(20 * time.Minute)
		for _, c := range alarms.All() {
			require.Equal(w, "user.created", c.Name)
		}
		require.Len(w, alarms.All(), 2, "opened, half-open")
	})
}

func TestBreakerOptionsThatContradict(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{}})
		h := func(context.Context, world.UserCreated) error { return nil }
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
