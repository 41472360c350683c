package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/resilience"
)

func TestJudge(t *testing.T) {
	policy := resilience.Retry{MaxRetries: 2, Initial: time.Second, Jitter: resilience.NoJitter}
	oops := errors.New("oops")
	for _, c := range []struct {
		name     string
		err      error
		attempt  int
		aborted  error
		stopping bool
		want     verdict
	}{
		{"success", nil, 1, nil, false, verdict{fate: fateDone}},
		{"late success", nil, 9, ErrLeaseLost, true, verdict{fate: fateDone}},
		{"first failure", oops, 1, nil, false, verdict{fate: fateRetry, delay: time.Second}},
		{"second failure", oops, 2, nil, false, verdict{fate: fateRetry, delay: 2 * time.Second}},
		{"last failure", oops, 3, nil, false, verdict{fate: fateDead}},
		{"beyond the last", oops, 7, nil, false, verdict{fate: fateDead}},
		{"permanent", fmt.Errorf("a: %w", Permanent(oops)), 1, nil, false, verdict{fate: fateDead}},
		{"retry after", RetryAfter(time.Hour, oops), 1, nil, false, verdict{fate: fateRetry, delay: time.Hour}},
		{"retry after, last", RetryAfter(time.Hour, oops), 3, nil, false, verdict{fate: fateDead}},
		{"negative retry after", RetryAfter(-1, oops), 1, nil, false, verdict{fate: fateRetry, delay: 0}},
		{"ran too long", context.Canceled, 1, ErrMaxRun, false, verdict{fate: fateRetry, delay: time.Second}},
		{"own deadline", context.DeadlineExceeded, 1, nil, false, verdict{fate: fateRetry, delay: time.Second}},
		{"panic", &panicError{value: 1}, 1, nil, false, verdict{fate: fateRetry, delay: time.Second}},
		{"shutdown never consumes", oops, 3, nil, true, verdict{fate: fateReturn}},
		{"shutdown never dead-letters", Permanent(oops), 1, nil, true, verdict{fate: fateReturn}},
		{"lease lost", oops, 3, ErrLeaseLost, false, verdict{fate: fateLost}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, judge(c.err, c.attempt, &policy, 0, c.aborted, c.stopping))
		})
	}
	for _, c := range []struct {
		name    string
		err     error
		attempt int
		since   time.Duration
		want    verdict
	}{
		{"immediate", oops, 2, 0, verdict{fate: fateRetry}},
		{"after the immediate ones", oops, 3, 0, verdict{fate: fateRetry, delay: time.Second}},
		{"just within the limit", oops, 3, 9 * time.Second, verdict{fate: fateRetry, delay: time.Second}},
		{"over the limit", oops, 3, 9*time.Second + 1, verdict{fate: fateDead}},
		{"immediate at the limit", oops, 2, 10 * time.Second, verdict{fate: fateRetry}},
		{"immediate over the limit", oops, 2, 10*time.Second + 1, verdict{fate: fateDead}},
		{"retry after, within the limit", RetryAfter(10*time.Second, oops), 1, 0, verdict{fate: fateRetry, delay: 10 * time.Second}},
		{"retry after, over the limit", RetryAfter(10*time.Second+1, oops), 1, 0, verdict{fate: fateDead}},
		{"retry after instead of at once", RetryAfter(time.Second, oops), 1, 0, verdict{fate: fateRetry, delay: time.Second}},
		{"retry after the largest delay", RetryAfter(math.MaxInt64, oops), 1, math.MaxInt64, verdict{fate: fateDead}},
		{"final", fmt.Errorf("a: %w", io.EOF), 1, 0, verdict{fate: fateDead}},
		{"final, with a delay", RetryAfter(0, io.EOF), 1, 0, verdict{fate: fateDead}},
		{"unrecoverable", fmt.Errorf("a: %w", lostCause{}), 1, 0, verdict{fate: fateDead}},
		{"panic with a final error", &panicError{value: io.EOF}, 1, 0, verdict{fate: fateDead}},
		{"late success", nil, 9, time.Hour, verdict{fate: fateDone}},
	} {
		t.Run(c.name, func(t *testing.T) {
			full := resilience.Retry{
				MaxRetries: 4, Immediate: 2, Initial: time.Second, Jitter: resilience.NoJitter,
				Within: 10 * time.Second, Final: []error{io.EOF},
			}
			require.NoError(t, full.Validate())
			require.Equal(t, c.want, judge(c.err, c.attempt, &full, c.since, nil, false))
		})
	}
	require.NoError(t, Permanent(nil))
	require.NoError(t, RetryAfter(1, nil))
}

// lostCause says itself that no retry helps.
type lostCause struct{}

func (lostCause) Error() string       { return "lost cause" }
func (lostCause) Unrecoverable() bool { return true }
