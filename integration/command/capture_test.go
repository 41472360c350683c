package command_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// Which failures are kept, on every way to the handler, and what the caller is told.
func TestFailedCommandsBecomeDeadLetters(t *testing.T) {
	once := resilience.Retry{MaxRetries: 1, Immediate: 1, Final: patient.Final}
	for name, c := range map[string]struct {
		retry   *resilience.Retry
		capture bus.Capture
		kept    map[string]int // error to attempts; those that are not here are not kept
	}{
		"by default":       {nil, bus.CaptureExhausted, map[string]int{"panic": 1, "goexit": 1}},
		"with retries":     {&once, bus.CaptureExhausted, map[string]int{"panic": 2, "goexit": 1, "": 2, "own deadline": 2}},
		"every failure":    {nil, bus.CaptureFailures, map[string]int{"panic": 1, "goexit": 1, "": 1, "own deadline": 1, "final": 1}},
		"none, or retried": {&once, bus.CaptureNone, nil},
	} {
		t.Run(name, func(t *testing.T) {
			everyWay(t, func(w *world.World, b *bus.Bus, exec func(time.Duration, tryIt) (int, error)) {
				ran := world.NewRecord[string]()
				began := time.Now()
				try := trying(ran, &began)
				onCaller := w.InProcess && strings.Contains(w.T.Name(), "no_done")
				require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c tryIt) (int, error) {
					if c.Error == "goexit" {
						runtime.Goexit()
					}
					if c.Error == "chosen" {
						return 0, &bus.Error{Code: "quota"}
					}
					return try(ctx, c)
				}))
				for _, how := range []string{
					"", "panic", "goexit", "permanent", "final", "hopeless", "registered", "invalid", "refused", "chosen", "deadline", "own deadline",
				} {
					if how == "goexit" && onCaller {
						continue // it would end the test's goroutine
					}
					timeout := time.Minute
					if how == "deadline" {
						timeout = 30 * time.Second
					}
					_, err := exec(timeout, tryIt{Fail: 99, Error: how})
					var e *bus.Error
					require.ErrorAs(w, err, &e, how)
					attempts, kept := c.kept[how]
					require.Equal(w, kept, e.DeadLetter != "", "%q: %v", how, err)
					world.Settle(time.Second)
					n, err := b.DeadLetters().Count(w.Context(), bus.DeadLetterFilter{})
					require.NoError(w, err)
					if !kept {
						require.Zero(w, n, how)
						continue
					}
					require.Equal(w, 1, n, "%q: stored once", how)
					d, err := b.DeadLetters().Get(w.Context(), e.DeadLetter)
					require.NoError(w, err)
					require.Equal(w, []any{bus.KindCommand, "test.try", "", "svc", e.Code, attempts},
						[]any{d.Kind, d.Name, d.Group, d.Handler, d.Code, d.Attempts}, how)
					require.Equal(w, how == "panic" || how == "goexit", d.Stack != "" || how == "goexit", how)
					v, err := bus.DeadLetterValue[tryIt](d)
					require.NoError(w, err)
					require.Equal(w, tryIt{Fail: 99, Error: how}, v)
					require.NoError(w, b.DeadLetters().Discard(w.Context(), d.ID))
				}
			}, bus.Config{CommandRetry: c.retry, Capture: c.capture, Errors: map[string]error{"user.taken": errTaken}})
		})
	}
}

// The record has what is needed to execute the command again, and is told of.
func TestRecordOfAFailedCommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		lines := world.NewLogs()
		b := w.BusOn(tr, bus.Config{Logger: lines.Logger()})
		told := world.NewRecord[bus.DeadLettered]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e bus.DeadLettered) error { told.Add(e); return nil })
		require.NoError(w, err)
		fail := true
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, tryIt) (int, error) {
			if fail {
				panic("boom")
			}
			return 1, nil
		}))
		s, err := b.Session(w.Context(), "import/42")
		require.NoError(w, err)
		var receipt bus.Receipt
		_, err = bus.Execute(w.Context(), s, tryIt{Fail: 7}, bus.WithID("cmd-1"), bus.WithHeader("Tenant", "t1"), bus.WithReceipt(&receipt))
		var e *bus.Error
		require.ErrorAs(w, err, &e)
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, e.DeadLetter, d.ID)
		require.Equal(w, []any{"cmd-1", "import/42", transport.Address{Name: "test.try"}, transport.Header{"Tenant": {"t1"}}},
			[]any{d.Message.ID, d.Message.Session, d.Message.To, d.Message.Header})
		require.False(w, d.First.IsZero())
		require.Equal(w, e.DeadLetter, told.Wait(w, 1)[0].ID)
		errorLines := 0
		for _, l := range lines.All() {
			if l.Text == "command dead-lettered" {
				errorLines++
				require.Equal(w, e.DeadLetter, l.Attrs["dead_letter"].String())
			}
			require.NotEqual(w, "handler panicked", l.Text, "one line")
		}
		require.Equal(w, 1, errorLines)

		// The same id fails again: another failure, and another record.
		_, err = bus.Execute(w.Context(), s, tryIt{Fail: 8}, bus.WithID("cmd-1"))
		require.Error(w, err)
		w.DeadLetters(tr, 2)
		fail = false
		_, err = b.DeadLetters().Redrive(w.Context(), e.DeadLetter, bus.WithForce())
		require.NoError(w, err)
		w.DeadLetters(tr, 1)
		require.NoError(w, s.Close(w.Context()))
	})
}

// While the dead letters are half full no command takes a place that an event may need.
func TestCommandsLeaveRoomForEvents(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		half := false
		limited := limitedLetters{tr, func() (count, limit int) {
			if half {
				return 500, 1000
			}
			return 499, 1000
		}}
		lines := world.NewLogs()
		b := w.BusOn(limited, bus.Config{Capture: bus.CaptureFailures, Logger: lines.Logger()})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, tryIt) (int, error) { return 0, world.ErrOops }))
		fail := func() *bus.Error {
			_, err := bus.Execute(w.Context(), b, tryIt{})
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.ErrorContains(w, err, "oops")
			return e
		}
		require.NotEmpty(w, fail().DeadLetter)
		half = true
		require.Empty(w, fail().DeadLetter, "there was room for one")
		world.Settle(2 * time.Second)
		require.Empty(w, fail().DeadLetter)
		w.DeadLetters(tr, 1)
		refused := 0
		for _, l := range lines.All() {
			if l.Text == "command failed, and its dead letter is not stored" {
				refused++
			}
		}
		require.Equal(w, 2, refused)
		s := b.Stats().Handlers[0]
		require.Equal(w, []uint64{1, 2}, []uint64{s.DeadLettered, s.Uncaptured})
		half = false
		world.Settle(2 * time.Second)
		require.NotEmpty(w, fail().DeadLetter)
	})
}

// limitedLetters says of its dead letters how many there are.
type limitedLetters struct {
	*world.Faulty
	figures func() (count, limit int)
}

func (l limitedLetters) DeadLetters() transport.DeadLetters {
	return counted{l.Faulty.DeadLetters(), l.figures}
}

type counted struct {
	transport.DeadLetters
	figures func() (count, limit int)
}

func (c counted) Stats(context.Context) (transport.DeadLetterStats, error) {
	n, limit := c.figures()
	return transport.DeadLetterStats{Count: n, Max: limit, DropOldest: true}, nil
}

// slowLetters takes its time.
type slowLetters struct {
	*world.Faulty
	wait *time.Duration
	err  *error
}

func (l slowLetters) DeadLetters() transport.DeadLetters { return tardily{l.Faulty.DeadLetters(), l} }

type tardily struct {
	transport.DeadLetters
	l slowLetters
}

func (s tardily) Add(ctx context.Context, d *transport.DeadLetter) error {
	if d.Kind != "command" {
		return s.DeadLetters.Add(ctx, d)
	}
	t := time.NewTimer(*s.l.wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return fmt.Errorf("slow: %w", ctx.Err())
	}
	if *s.l.err != nil {
		return *s.l.err
	}
	return s.DeadLetters.Add(ctx, d)
}

// A caller has its answer in time, whatever the store does.
func TestSlowStoreDoesNotKeepTheAnswer(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		wait, refuse := 1500*time.Millisecond, error(nil)
		tr := slowLetters{world.NewFaulty(w.Open()), &wait, &refuse}
		b := w.BusOn(tr, bus.Config{Capture: bus.CaptureFailures})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, tryIt) (int, error) { return 0, world.ErrOops }))
		fail := func(timeout time.Duration) (*bus.Error, time.Duration) {
			ctx, cancel := context.WithTimeout(w.Context(), timeout)
			defer cancel()
			began := time.Now()
			_, err := bus.Execute(ctx, b, tryIt{})
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.ErrorContains(w, err, "oops")
			return e, time.Since(began).Round(100 * time.Millisecond)
		}
		e, took := fail(time.Minute)
		require.Equal(w, time.Second, took)
		require.Empty(w, e.DeadLetter)
		world.Settle(5 * time.Second)
		w.DeadLetters(tr, 1) // after the answer

		e, took = fail(time.Second)
		require.Equal(w, 500*time.Millisecond, took)
		require.Empty(w, e.DeadLetter)
		world.Settle(5 * time.Second)
		w.DeadLetters(tr, 2)

		wait = 100 * time.Millisecond
		e, took = fail(time.Second)
		require.Equal(w, 100*time.Millisecond, took)
		require.NotEmpty(w, e.DeadLetter)
		w.DeadLetters(tr, 3)

		refuse = fmt.Errorf("full: %w", transport.ErrBacklog)
		e, _ = fail(time.Second)
		require.Empty(w, e.DeadLetter)

		// Close waits for what is stored after the answer.
		wait, refuse = 1500*time.Millisecond, nil
		_, took = fail(time.Second)
		require.Equal(w, 500*time.Millisecond, took)
		keeper := w.Open()
		w.BusOn(keeper, bus.Config{Service: "keeper"})
		require.NoError(w, b.Close(context.Background()))
		w.DeadLetters(keeper, 4)
	})
}

// Who has a command with a key fail is told of one dead letter.
func TestFailedCommandWithAKey(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, tryIt) (int, error) { panic("boom") }))
		_, err := bus.Execute(w.Context(), b, tryIt{}, bus.WithIdempotencyKey("k"))
		var e *bus.Error
		require.ErrorAs(w, err, &e)
		require.Equal(w, bus.CodePanic, e.Code)
		require.NotEmpty(w, e.DeadLetter)
		require.Equal(w, e.DeadLetter, w.DeadLetters(tr, 1)[0].ID)
	})
}

func TestWrongCaptures(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		err := bus.Handle(w.Context(), b, func(context.Context, tryIt) (int, error) { return 0, nil }, bus.WithCapture(7))
		require.ErrorContains(w, err, "Capture(7) is no Capture")
	})
	require.ErrorContains(t, bus.Config{Capture: 9}.Validate(), "Config.Capture: Capture(9)")
	require.Error(t, errors.Join(bus.Config{Capture: 9}.Validate()))
	require.Equal(t, "exhausted failures none", fmt.Sprint(bus.CaptureExhausted, bus.CaptureFailures, bus.CaptureNone))
}
