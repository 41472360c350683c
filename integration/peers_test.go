package integration_test

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
)

// What other buses were found to do wrong, each reproduced with theirs, and the test
// that fails here if jitney did it.
var peers = []struct{ wrong, file, test string }{
	{"a deduplicator records an event before its handler has succeeded, so that its retry is dropped", "middleware_dedup_test.go", "TestDeduplicateRecordsSuccessOnly"},
	{"hooks on retries change their schedule", "peers_test.go", "TestHooksDoNotBendTheSchedule"},
	{"a multiplier of 1.5 is cut to 1, and delays do not grow", "peers_test.go", "TestFractionalDelaysGrow"},
	{"a shutdown makes dead letters", "peers_test.go", "TestShutdownMakesNoDeadLetters"},
	{"a clean close deletes the durable consumer, or it was none, and everything comes again", "peers_test.go", "TestCleanCloseKeepsTheGroup"},
	{"stopping discards what was prefetched", "close_test.go", "TestCloseHandsBackWhatNobodyStarted"},
	{"stopping discards what was prefetched, also in the driver's buffer", "../transport/nats/fault_test.go", "TestBufferedCopiesGoBack"},
	{"immediate hand-backs use up the attempts within milliseconds", "peers_test.go", "TestHandBacksBurnNoAttempts"},
	{"an open breaker does not pause: redeliveries spin", "breaker_event_test.go", "TestOpenCircuitPausesAGroup"},
	{"failures are redelivered at once, for ever", "peers_test.go", "TestFailuresDoNotSpin"},
	{"one message that cannot be decoded ends the process", "failure_test.go", "TestUndecodableEventsBecomeDeadLetters"},
	{"cancelling a subscription with a full buffer panics", "fault_close_test.go", "TestSubscriptionsThatComeAndGo"},
	{"a handler that runs for longer than AckWait runs twice", "failure_test.go", "TestLongHandlerRunsOnce"},
	{"one message at a time, however many workers", "event_test.go", "TestConcurrencyOfAListener"},
	{"concurrency is not bounded", "event_test.go", "TestConcurrencyOfAListener"},
	{"an in-memory bus has no order", "event_test.go", "TestSerialListenerSeesOrder"},
	{"a second handler of a command runs it a second time", "command/command_test.go", "TestAnotherServiceIsRefused"},
	{"a command that nobody handles waits for its deadline", "command/command_test.go", "TestNoHandler"},
	{"a handler's error arrives as a text", "command/command_test.go", "TestHandlerErrorCrossesTheWire"},
	{"a graceful close cancels what runs", "close_test.go", "TestCloseWaitsForRunningHandlersWithALiveContext"},
	{"after the last attempt an event is given up without a trace", "failure_test.go", "TestRetriesWaitAndEndAsADeadLetter"},
	{"an event whose handler ends the process comes again for ever", "failure_test.go", "TestCrashLoopIsDeadLetteredUnrun"},
	{"the same, with processes that are killed", "process/crash_test.go", "TestEventThatKillsItsProcessesIsDeadLettered"},
	{"what was in a process with such an event shares its fate", "process/crash_test.go", "TestEventThatKillsItsProcessesIsDeadLettered"},
	{"a dead letter that cannot be written is lost", "failure_test.go", "TestRefusedDeadLetterKeepsTheEvent"},
	{"a redrive goes to everybody", "deadletter/redrive_test.go", "TestRedriveGoesToWhatFailed"},
	{"a redrive that dies halfway loses or doubles its message", "deadletter/crash_test.go", "TestRedriveThatDiesIsRepeated"},
	{"a slow group holds another one up", "fault_event_test.go", "TestSlowGroupBlocksNoOther"},
	{"a waiting retry holds a worker", "failure_test.go", "TestWaitingRetriesHoldNoWorker"},
}

// The tests that are named above are there.
func TestPeersAreTested(t *testing.T) {
	parsed := map[string]*ast.File{}
	for _, p := range peers {
		f := parsed[p.file]
		if f == nil {
			var err error
			f, err = parser.ParseFile(token.NewFileSet(), p.file, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			parsed[p.file] = f
		}
		found := false
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			found = found || ok && fn.Recv == nil && fn.Name.Name == p.test
		}
		require.True(t, found, "%s: no %s in %s", p.wrong, p.test, p.file)
	}
}

// schedule is when an event that always fails runs, in milliseconds since it was sent.
func schedule(w *world.World, b *bus.Bus, runs int, opts ...bus.SubscribeOption) []int64 {
	w.Helper()
	at := world.NewRecord[time.Time]()
	_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { at.Add(time.Now()); return world.ErrOops }, opts...)
	require.NoError(w, err)
	sent := time.Now()
	require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
	at.Wait(w, runs)
	world.Settle(20 * time.Minute)
	var ms []int64
	for _, t := range at.All() {
		ms = append(ms, t.Sub(sent).Milliseconds())
	}
	require.Len(w, ms, runs)
	return ms
}

// inSchedule allows for what a broker is late.
func inSchedule(w *world.World, want, got []int64) {
	w.Helper()
	require.Len(w, got, len(want))
	for i := range want {
		require.GreaterOrEqual(w, got[i], want[i], "never early: %v", got)
		require.LessOrEqual(w, got[i], want[i]+300*int64(i+1), "%v", got)
	}
}

func TestHooksDoNotBendTheSchedule(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var hooks atomic.Int64
		hook := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				hooks.Add(1)
				v, err := next(ctx, m)
				hooks.Add(1)
				return v, err
			}
		}
		cfg := bus.Config{
			Service: "hooked", Retry: world.Steady,
			Receiving: []bus.Middleware{hook, hook}, Sending: []bus.Middleware{hook},
			Observers: []bus.Observer{func(bus.Record) { hooks.Add(1) }, func(bus.Record) { hooks.Add(1) }},
			Journal:   bus.JournalConfig{Size: 100},
		}
		for _, b := range []*bus.Bus{w.Bus(bus.Config{Service: "plain", Retry: world.Steady}), w.Bus(cfg)} {
			inSchedule(w, []int64{0, 1000, 3000, 7000}, schedule(w, b, 4, bus.WithMiddleware(hook)))
		}
		require.NotZero(w, hooks.Load())
	})
}

func TestFractionalDelaysGrow(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		for base, want := range map[float64][]int64{
			1.5: {0, 1000, 2500, 4750, 8125},
			2.5: {0, 1000, 3500, 9750, 25375},
			1:   {0, 1000, 2000, 3000, 4000},
		} {
			b := w.Bus(bus.Config{Service: strings.ReplaceAll(fmt.Sprint("s", base), ".", "-"), Retry: resilience.Retry{
				MaxRetries: 4, Initial: time.Second, Max: time.Hour, Base: base, Jitter: resilience.NoJitter}})
			inSchedule(w, want, schedule(w, b, 5))
			require.NoError(w, b.Close(w.Context()))
		}
	})
}

// However a process stops, and whatever its handlers return because of it.
func TestShutdownMakesNoDeadLetters(t *testing.T) {
	for name, returned := range map[string]func(context.Context) error{
		"the context's error": context.Context.Err,
		"for good":            func(context.Context) error { return bus.Permanent(world.ErrOops) },
		"a panic":             func(context.Context) error { panic("shutting down") },
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				never := resilience.Retry{MaxRetries: resilience.NoRetries}
				b := w.BusOn(w.Open(), bus.Config{CloseTimeout: time.Second, Retry: never})
				started := world.NewRecord[int]()
				for _, group := range []string{"one", "two"} {
					_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
						started.Add(1)
						<-ctx.Done()
						return returned(ctx)
					}, bus.WithGroup(group), bus.WithConcurrency(2))
					require.NoError(w, err)
				}
				for range 5 {
					require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
				}
				started.Wait(w, 4)
				require.NoError(w, b.Close(w.Context()))
				world.Settle(20 * time.Minute)
				w.DeadLetters(tr, 0)
				attempts := world.NewRecord[int]()
				for _, group := range []string{"one", "two"} {
					_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{Retry: never}), func(ctx context.Context, _ world.UserCreated) error {
						m, _ := bus.MetaFrom(ctx)
						attempts.Add(m.Attempt)
						return nil
					}, bus.WithGroup(group))
					require.NoError(w, err)
				}
				require.Equal(w, []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, attempts.Wait(w, 10))
				require.NoError(w, tr.Close(w.Context()))
			})
		})
	}
}

// After a pause of any length a group goes on where it was: it has what it missed and
// nothing that it has had.
func TestCleanCloseKeepsTheGroup(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		publisher := w.Bus(bus.Config{Service: "publisher"})
		got := world.NewRecord[world.UserID]()
		n := 0
		publish := func() {
			for range 10 {
				n++
				require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{ID: world.UserID(fmt.Sprint(n))}))
			}
		}
		for i, pause := range []time.Duration{0, 8 * time.Second, time.Minute, 24 * time.Hour} {
			world.Settle(pause)
			b := w.Bus(bus.Config{Service: "mailer"})
			sub, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil })
			require.NoError(w, err)
			publish()
			got.Wait(w, n)
			if i%2 == 0 {
				require.NoError(w, sub.Close(w.Context()))
			}
			require.NoError(w, b.Close(w.Context()))
			publish()
		}
		_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{Service: "mailer"}), func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil })
		require.NoError(w, err)
		got.Wait(w, n)
		world.Settle(20 * time.Minute)
		times := map[world.UserID]int{}
		for _, id := range got.All() {
			times[id]++
		}
		require.Len(w, times, n)
		require.Len(w, got.All(), n, "each once")
	})
}

// A process that starts and stops hands back what it has not begun, as often as it
// likes.
func TestHandBacksBurnNoAttempts(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		publisher := w.Bus(bus.Config{Service: "publisher"})
		for round := range 20 {
			b := w.Bus(bus.Config{CloseTimeout: time.Millisecond})
			started := world.NewRecord[int]()
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
				started.Add(1)
				<-ctx.Done()
				return ctx.Err()
			}, bus.WithConcurrency(1))
			require.NoError(w, err)
			if round == 0 {
				for range 8 {
					require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{}))
				}
			}
			started.Wait(w, 1)
			require.NoError(w, b.Close(w.Context()))
		}
		attempts := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{}), func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			attempts.Add(m.Attempt)
			return nil
		})
		require.NoError(w, err)
		require.Equal(w, []int{1, 1, 1, 1, 1, 1, 1, 1}, attempts.Wait(w, 8))
		w.DeadLetters(tr, 0)
		require.NoError(w, tr.Close(w.Context()))
	})
}

// An event that always fails runs as often as its policy says and no more, in whatever
// way it fails, and costs nothing between.
func TestFailuresDoNotSpin(t *testing.T) {
	for name, fail := range map[string]func() error{
		"an error":            func() error { return world.ErrOops },
		"a panic":             func() error { panic("oh") },
		"again without delay": func() error { return bus.RetryAfter(0, world.ErrOops) },
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, bus.Config{Retry: world.Steady})
				var runs atomic.Int64
				for _, group := range []string{"one", "two"} {
					_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { runs.Add(1); return fail() }, bus.WithGroup(group))
					require.NoError(w, err)
				}
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
				world.Settle(20 * time.Minute)
				require.EqualValues(w, 8, runs.Load())
				require.Equal(w, 6, tr.Count("nak"))
				require.Equal(w, 2, tr.Count("term"))
				w.DeadLetters(tr.Transport, 2)
			})
		})
	}
}
