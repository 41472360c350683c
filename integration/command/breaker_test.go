package command_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
)

// ways are how a command of this process comes to its handler.
var ways = map[string]struct {
	opts   []bus.ExecuteOption
	cancel bool // the context has a Done
	other  bool // the handler is in another process
}{
	"direct":              {},
	"direct, cancellable": {cancel: true},
	"the long way":        {opts: []bus.ExecuteOption{bus.WithHeader("A", "b")}},
	"another process":     {other: true},
}

// throughEach runs f with a caller that has a circuit breaker and a handler that
// returns what *result says, for each way between them. execute is a call, runs
// counts the handler's.
func throughEach(t *testing.T, policy resilience.Breaker, f func(w *world.World, b *bus.Bus, result *error, execute func() error, runs *world.Record[int])) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				cfg := bus.Config{CommandBreaker: &policy, Errors: map[string]error{"oops": world.ErrOops}}
				b := w.BusOn(w.Open(), cfg)
				if w.InProcess {
					b = w.Bare(w.Open(), cfg) // without middleware in the way
				}
				handler := b
				if way.other {
					handler = w.Bus(bus.Config{Service: "other", Errors: cfg.Errors})
				}
				var result error
				runs := world.NewRecord[int]()
				require.NoError(w, bus.Handle(w.Context(), handler, func(context.Context, world.CreateUser) (world.UserID, error) {
					runs.Add(1)
					return "a", result
				}))
				ctx := context.Background()
				if way.cancel {
					ctx = w.Context()
				}
				f(w, b, &result, func() error {
					_, err := bus.Execute(ctx, b, world.CreateUser{Name: "a"}, way.opts...)
					return err
				}, runs)
			})
		})
	}
}

func nameOf[T any](w *world.World) string {
	name, err := bus.NameOf[T]()
	require.NoError(w, err)
	return name
}

func TestCircuitOfACommand(t *testing.T) {
	throughEach(t, resilience.Breaker{}, func(w *world.World, b *bus.Bus, result *error, execute func() error, runs *world.Record[int]) {
		state := func() bus.BreakerStats {
			all := b.Breakers()
			require.Len(w, all, 1)
			require.Equal(w, bus.KindCommand, all[0].Kind)
			require.Equal(w, nameOf[world.CreateUser](w), all[0].Name)
			return all[0]
		}
		require.NoError(w, execute())
		require.Equal(w, resilience.BreakerClosed, state().State)

		*result = errors.New("down")
		for i := range 4 {
			require.Equal(w, bus.CodeFailed, bus.CodeOf(execute()))
			require.Equal(w, i+1, state().Failures)
		}
		time.Sleep(time.Minute) // they do not count any more
		for range 4 {
			require.Equal(w, bus.CodeFailed, bus.CodeOf(execute()))
		}
		time.Sleep(time.Minute - 1)
		require.Equal(w, bus.CodeFailed, bus.CodeOf(execute()))
		require.Equal(w, resilience.BreakerOpen, state().State)

		runs.Reset()
		time.Sleep(18 * time.Second)
		began := time.Now()
		err := execute()
		require.Equal(w, bus.CodeOpen, bus.CodeOf(err))
		require.Zero(w, time.Since(began), "at once")
		var e *bus.Error
		require.ErrorAs(w, err, &e)
		require.Equal(w, 42*time.Second, e.RetryIn)
		require.Equal(w, 42*time.Second, state().Remaining)
		require.Zero(w, e.Attempts)
		require.NotEmpty(w, e.ID)
		after, ok := bus.RetryDelay(err)
		require.True(w, ok)
		require.Equal(w, e.RetryIn, after)
		require.Contains(w, err.Error(), "for 42s more; nothing ran")
		require.Empty(w, runs.All())
		require.EqualValues(w, 1, state().Refused)

		time.Sleep(42 * time.Second) // half-open: one failure opens it again
		require.Equal(w, resilience.BreakerHalfOpen, state().State)
		require.Equal(w, bus.CodeFailed, bus.CodeOf(execute()))
		require.Equal(w, bus.CodeOpen, bus.CodeOf(execute()))
		require.Equal(w, time.Minute, state().Remaining)

		time.Sleep(time.Minute)
		*result = nil
		require.NoError(w, execute())
		require.NoError(w, execute())
		require.Equal(w, resilience.BreakerHalfOpen, state().State)
		require.Equal(w, 2, state().Successes)
		require.NoError(w, execute())
		require.Equal(w, resilience.BreakerClosed, state().State)
		require.EqualValues(w, 2, state().Opened)
		require.Len(w, runs.All(), 4)
	})
}

// What says nothing of the handler's health leaves the circuit as it is.
func TestWhatDoesNotOpenTheCircuitOfACommand(t *testing.T) {
	for name, err := range map[string]error{
		"a registered error":     fmt.Errorf("no: %w", world.ErrOops),
		"a code of its own":      &bus.Error{Code: "quota"},
		"the caller's mistake":   &bus.Error{Code: bus.CodeInvalid, Message: "no such colour"},
		"nothing of the kind":    &bus.Error{Code: bus.CodeNotFound},
		"the caller may not":     &bus.Error{Code: bus.CodePermission},
		"no failure at all":      nil,
		"what no retry can mend": bus.Permanent(errors.New("this one not")),
		"what says so itself":    hopeless{},
	} {
		t.Run(name, func(t *testing.T) {
			throughEach(t, resilience.Breaker{FailureThreshold: 1}, func(w *world.World, b *bus.Bus, result *error, execute func() error, runs *world.Record[int]) {
				*result = err
				for range 10 {
					require.NotEqual(w, bus.CodeOpen, bus.CodeOf(execute()))
				}
				require.Len(w, runs.All(), 10)
				require.Equal(w, resilience.BreakerClosed, b.Breakers()[0].State)
			})
		})
	}
}

func TestWhatTheCallerDoesLeavesTheCircuitAsItIs(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CommandBreaker: &resilience.Breaker{FailureThreshold: 1}})
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err))
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			time.Sleep(time.Second)
			return "a", nil
		}))
		ctx, cancel := context.WithCancel(w.Context())
		time.AfterFunc(time.Millisecond, cancel)
		_, err = bus.Execute(ctx, b, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeCancelled, bus.CodeOf(err))
		_, err = bus.Execute(ctx, b, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeCancelled, bus.CodeOf(err))
		late, cancel := context.WithTimeout(w.Context(), time.Nanosecond)
		defer cancel()
		time.Sleep(time.Millisecond)
		_, err = bus.Execute(late, b, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "it was never sent")
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.NoError(w, err)

		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithTimeout(time.Millisecond))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeOpen, bus.CodeOf(err), "no answer in time opens it")
	})
}

func TestPanicOpensTheCircuitAndWedgesNothing(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CommandBreaker: &resilience.Breaker{FailureThreshold: 1, SuccessThreshold: 1}})
		panics := true
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			if panics {
				panic("bug")
			}
			return "a", nil
		}))
		for range 3 {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodePanic, bus.CodeOf(err))
			_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodeOpen, bus.CodeOf(err))
			time.Sleep(time.Minute)
		}
		panics = false
		for range 3 {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.NoError(w, err)
		}
	})
}

// A handler that ends its goroutine, which may be its caller's, does not keep the
// place of a probe.
func TestHandlerThatEndsItsGoroutineWedgesNothing(t *testing.T) {
	throughEach(t, resilience.Breaker{FailureThreshold: 1, SuccessThreshold: 1}, func(w *world.World, b *bus.Bus, result *error, execute func() error, runs *world.Record[int]) {
		ends := true
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.Pong) (int, error) {
			if ends {
				runtime.Goexit()
			}
			return 1, nil
		}))
		ping := func() (code bus.Code) {
			code = "ended"
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, err := bus.Execute(context.Background(), b, world.Pong{})
				code = bus.CodeOf(err)
			}()
			<-done
			return code
		}
		for range 3 {
			require.Contains(w, []bus.Code{"ended", bus.CodePanic}, ping())
			require.Equal(w, bus.CodeOpen, ping())
			time.Sleep(time.Minute)
		}
		ends = false
		require.Empty(w, ping())
		require.Empty(w, ping())
	})
}

func TestHalfOpenCircuitOfACommandLetsOneThroughAtATime(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CommandBreaker: &resilience.Breaker{FailureThreshold: 1}})
		fails := true
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			if fails {
				return "", errors.New("down")
			}
			time.Sleep(time.Second)
			return "a", nil
		}))
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		fails = false
		time.Sleep(time.Minute)
		results := world.NewRecord[bus.Code]()
		for range 10 {
			go func() {
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
				var e *bus.Error
				if errors.As(err, &e) && e.RetryIn != 0 {
					results.Add("a time that nobody knows")
				} else {
					results.Add(bus.CodeOf(err))
				}
			}()
		}
		var through int
		for _, c := range results.Wait(w, 10) {
			if c == "" {
				through++
			} else {
				require.Equal(w, bus.CodeOpen, c)
			}
		}
		require.Equal(w, 1, through)
	})
}

func TestOpenCircuitSendsNothing(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{CommandBreaker: &resilience.Breaker{}})
		require.NoError(w, bus.Handle(w.Context(), w.Bus(bus.Config{Service: "other"}), func(context.Context, world.CreateUser) (world.UserID, error) {
			return "", errors.New("down")
		}))
		for range 5 {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		}
		sent := tr.Count("request")
		for range 100 {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodeOpen, bus.CodeOf(err))
		}
		require.Equal(w, sent, tr.Count("request"))
	})
}

// Each command has its own, and some may have none.
func TestCircuitsOfCommandsByName(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{
			CommandBreaker: &resilience.Breaker{FailureThreshold: 1},
			CommandBreakers: map[string]resilience.Breaker{
				nameOf[world.Pong](w): {FailureThreshold: resilience.NeverOpens},
				"reset.all":           {FailureThreshold: 2},
			},
		})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) { return "", errors.New("down") }))
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.Pong) (int, error) { return 0, errors.New("down") }))
		require.NoError(w, bus.HandleNone(w.Context(), b, func(context.Context, world.ResetAll) error { return errors.New("down") }))
		var got []string
		for range 3 {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			_, err2 := bus.Execute(w.Context(), b, world.Pong{})
			err3 := bus.Do(w.Context(), b, world.ResetAll{})
			got = append(got, fmt.Sprint(bus.CodeOf(err), " ", bus.CodeOf(err2), " ", bus.CodeOf(err3)))
		}
		require.Equal(w, []string{"failed failed failed", "circuit_open failed failed", "circuit_open failed circuit_open"}, got)
		require.Len(w, b.Breakers(), 2, "what never opens is none")
	})
}

// An event handler whose command is kept back runs again when that may pass.
func TestEventWaitsForTheCircuitOfItsCommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CommandBreaker: &resilience.Breaker{FailureThreshold: 1, Recovery: 20 * time.Second}})
		fails := true
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			if fails {
				return "", errors.New("down")
			}
			return "a", nil
		}))
		ran := world.NewRecord[time.Duration]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			ran.Add(time.Since(began).Round(time.Second))
			_, err := bus.Execute(ctx, b, world.CreateUser{Name: "a"})
			return err
		}, bus.WithRetry(resilience.Retry{MaxRetries: 2, Jitter: resilience.NoJitter}))
		require.NoError(w, err)
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		fails = false
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "1"}))
		require.Equal(w, []time.Duration{0, 20 * time.Second}, ran.Wait(w, 2))
		w.Wait()
		require.Len(w, ran.All(), 2)
	})
}
