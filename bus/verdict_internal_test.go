package bus

import (
	"context"
	"errors"
	"fmt"
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
		{"first failure", oops, 1, nil, false, verdict{fateRetry, time.Second}},
		{"second failure", oops, 2, nil, false, verdict{fateRetry, 2 * time.Second}},
		{"last failure", oops, 3, nil, false, verdict{fate: fateDead}},
		{"beyond the last", oops, 7, nil, false, verdict{fate: fateDead}},
		{"permanent", fmt.Errorf("a: %w", Permanent(oops)), 1, nil, false, verdict{fate: fateDead}},
		{"retry after", RetryAfter(time.Hour, oops), 1, nil, false, verdict{fateRetry, time.Hour}},
		{"retry after, last", RetryAfter(time.Hour, oops), 3, nil, false, verdict{fate: fateDead}},
		{"negative retry after", RetryAfter(-1, oops), 1, nil, false, verdict{fateRetry, 0}},
		{"ran too long", context.Canceled, 1, ErrMaxRun, false, verdict{fateRetry, time.Second}},
		{"own deadline", context.DeadlineExceeded, 1, nil, false, verdict{fateRetry, time.Second}},
		{"panic", &panicError{value: 1}, 1, nil, false, verdict{fateRetry, time.Second}},
		{"shutdown never consumes", oops, 3, nil, true, verdict{fate: fateReturn}},
		{"shutdown never dead-letters", Permanent(oops), 1, nil, true, verdict{fate: fateReturn}},
		{"lease lost", oops, 3, ErrLeaseLost, false, verdict{fate: fateLost}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, judge(c.err, c.attempt, policy, c.aborted, c.stopping))
		})
	}
	require.NoError(t, Permanent(nil))
	require.NoError(t, RetryAfter(1, nil))
}
