package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/resilience"
)

// steady waits 1 s, 2 s, 4 s and so on.
var steady = resilience.Retry{MaxRetries: 5, Initial: time.Second, Max: time.Hour, Jitter: resilience.NoJitter}

func repeat(err error, n int) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

func TestRetryRunsACommandAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a := &answers{errs: repeat(errOops, 2)}
		m := handledCommand()
		v, err := middleware.Retry(steady)(a.handle)(t.Context(), m)
		require.NoError(t, err)
		require.Equal(t, "done", v)
		require.Equal(t, 3, a.runs)
		require.Equal(t, 3*time.Second, time.Since(began), "1 s and 2 s")
		require.Same(t, m, a.messages[0])
		for i, seen := range a.messages {
			require.Equal(t, i+1, seen.Attempt)
			require.Equal(t, "c1", seen.ID)
		}
		require.Equal(t, 1, m.Attempt, "the caller's message is left alone")
	})
}

func TestRetryGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := errors.New("the last")
		a := &answers{errs: append(repeat(errOops, 5), last, nil)}
		_, err := middleware.Retry(steady)(a.handle)(t.Context(), handledCommand())
		require.Equal(t, last, err, "as it is")
		require.Equal(t, 6, a.runs)

		a = &answers{errs: repeat(errOops, 1)}
		_, err = middleware.Retry(resilience.Retry{MaxRetries: resilience.NoRetries})(a.handle)(t.Context(), handledCommand())
		require.Equal(t, errOops, err)
		require.Equal(t, 1, a.runs)
	})
}

func TestWhatRetryRunsAgain(t *testing.T) {
	is := middleware.OnlyIf(func(err error) bool { return errors.Is(err, errOops) })
	never := middleware.OnlyIf(func(error) bool { return false })
	code := func(c bus.Code) error { return &bus.Error{Code: c, Op: "execute", Message: string(c)} }
	tests := []struct {
		what string
		m    *bus.Message
		err  error
		opts []middleware.RetryOption
		want int
	}{
		{"a failure", handledCommand(), errOops, nil, 2},
		{"a timeout further in", handledCommand(), context.DeadlineExceeded, nil, 2},
		{"a code of its own", handledCommand(), code("quota"), nil, 2},
		{"permanent", handledCommand(), fmt.Errorf("x: %w", bus.Permanent(errOops)), nil, 1},
		{"invalid", handledCommand(), code(bus.CodeInvalid), nil, 1},
		{"a match", handledCommand(), fmt.Errorf("x: %w", errOops), []middleware.RetryOption{is}, 2},
		{"no match", handledCommand(), errors.New("y"), []middleware.RetryOption{is}, 1},
		{"both have to match", handledCommand(), errOops, []middleware.RetryOption{is, never}, 1},
		{"an event is the bus's to retry", handledEvent(), errOops, nil, 1},

		{"command sent: nobody handles it", sentCommand(), code(bus.CodeNoHandler), nil, 2},
		{"command sent: busy", sentCommand(), code(bus.CodeBusy), nil, 2},
		{"command sent: unavailable", sentCommand(), code(bus.CodeUnavailable), nil, 2},
		{"command sent: unavailable, no match", sentCommand(), code(bus.CodeUnavailable), []middleware.RetryOption{is}, 1},
		{"command sent: timeout", sentCommand(), code(bus.CodeTimeout), nil, 1},
		{"command sent: cancelled", sentCommand(), code(bus.CodeCancelled), nil, 1},
		{"command sent: unknown", sentCommand(), code(bus.CodeUnknown), nil, 1},
		{"command sent: failed", sentCommand(), code(bus.CodeFailed), nil, 1},
		{"command sent: panic", sentCommand(), code(bus.CodePanic), nil, 1},
		{"command sent: an error of no code", sentCommand(), errOops, nil, 1},
		{"command sent: backlog is not for commands", sentCommand(), code(bus.CodeBacklog), nil, 1},

		{"event sent: backlog", sentEvent(), code(bus.CodeBacklog), nil, 2},
		{"event sent: unavailable", sentEvent(), code(bus.CodeUnavailable), nil, 2},
		{"event sent: busy", sentEvent(), code(bus.CodeBusy), nil, 2},
		{"event sent: timeout", sentEvent(), code(bus.CodeTimeout), nil, 2},
		{"event sent: cancelled", sentEvent(), code(bus.CodeCancelled), nil, 2},
		{"event sent: unknown", sentEvent(), code(bus.CodeUnknown), nil, 2},
		{"event sent: too large", sentEvent(), code(bus.CodeTooLarge), nil, 1},
		{"event sent: permission", sentEvent(), code(bus.CodePermission), nil, 1},
		{"event sent: closed", sentEvent(), code(bus.CodeClosed), nil, 1},
		{"event sent: invalid", sentEvent(), code(bus.CodeInvalid), nil, 1},
		{"event sent: nobody listens is no error", sentEvent(), code(bus.CodeNoHandler), nil, 1},
		{"event sent: an error of no code", sentEvent(), errOops, nil, 1},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			a := &answers{errs: repeat(tt.err, 1)}
			_, err := middleware.Retry(steady, tt.opts...)(a.handle)(t.Context(), tt.m)
			require.Equal(t, tt.want, a.runs, tt.what)
			require.Equal(t, tt.want == 2, err == nil, tt.what)
			if err != nil {
				require.Equal(t, tt.err, err, tt.what)
			}
		})
	}
}

// An event that may be stored is sent again only while its id is remembered; one
// that is not stored, for as long as the caller waits.
func TestRetryOfAnEventThatMayBeStored(t *testing.T) {
	minutes := resilience.Retry{MaxRetries: 10, Initial: 50 * time.Second, Base: 1, Max: time.Hour, Jitter: resilience.NoJitter}
	for code, want := range map[bus.Code]int{bus.CodeUnknown: 3, bus.CodeUnavailable: 11} {
		synctest.Test(t, func(t *testing.T) {
			a := &answers{errs: repeat(&bus.Error{Code: code}, 20)}
			_, err := middleware.Retry(minutes)(a.handle)(t.Context(), sentEvent())
			require.Equal(t, code, bus.CodeOf(err))
			require.Equal(t, want, a.runs)
		})
	}
}

func TestRetryHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a := &answers{errs: []error{fmt.Errorf("x: %w", bus.RetryAfter(time.Minute, errOops)), bus.RetryAfter(0, errOops), errOops}}
		_, err := middleware.Retry(steady)(a.handle)(t.Context(), handledCommand())
		require.NoError(t, err)
		require.Equal(t, time.Minute+4*time.Second, time.Since(began), "1 min, nothing, and the third delay of the policy")
	})
}

// A delay that would reach the deadline is not begun.
func TestRetryStaysWithinTheDeadline(t *testing.T) {
	for deadline, want := range map[time.Duration]struct {
		runs int
		took time.Duration
	}{
		time.Second:                     {1, 0},
		time.Second + 1:                 {2, time.Second},
		3 * time.Second:                 {2, time.Second},
		3*time.Second + 1:               {3, 3 * time.Second},
		100 * time.Second:               {6, 31 * time.Second},
		500 * time.Millisecond:          {1, 0},
		-time.Second:                    {1, 0},
		6999 * time.Millisecond:         {3, 3 * time.Second},
		7*time.Second + time.Nanosecond: {4, 7 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			began := time.Now()
			a := &answers{errs: repeat(errOops, 100)}
			_, err := middleware.Retry(steady)(a.handle)(ctx, handledCommand())
			require.Equal(t, errOops, err)
			require.Equal(t, want.runs, a.runs, deadline)
			require.Equal(t, want.took, time.Since(began), deadline)
		})
	}
}

// Once the caller has gone, or the bus stops, nothing runs again.
func TestRetryEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a := &answers{errs: repeat(errOops, 100)}
		time.AfterFunc(1500*time.Millisecond, cancel)
		began := time.Now()
		_, err := middleware.Retry(steady)(a.handle)(ctx, handledCommand())
		require.Equal(t, errOops, err)
		require.Equal(t, 2, a.runs)
		require.Equal(t, 1500*time.Millisecond, time.Since(began), "in the middle of a delay")

		a = &answers{errs: repeat(context.Canceled, 100)}
		_, err = middleware.Retry(steady)(a.handle)(ctx, handledCommand())
		require.Equal(t, context.Canceled, err)
		require.Equal(t, 1, a.runs)

		for range 50 { // also when there is no delay to be cut short
			a = &answers{errs: repeat(bus.RetryAfter(0, errOops), 100)}
			_, err = middleware.Retry(steady)(a.handle)(ctx, handledCommand())
			require.ErrorIs(t, err, errOops)
			require.Equal(t, 1, a.runs)
		}
	})
}
