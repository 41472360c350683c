package bus

import (
	"errors"
	"time"

	"github.com/jitney-bus/jitney/resilience"
)

// fate is what is to become of one listener's run.
type fate uint8

const (
	fateReturn fate = iota // not run, or cut short by Close: hand it back
	fateDone               // handled
	fateRetry              // run again after a delay
	fateDead               // a dead letter
	fateLost               // another process may have it: say nothing
	fateWait               // not run: a listener of higher priority stopped the event
)

// verdict is a fate with its delay.
type verdict struct {
	fate  fate
	delay time.Duration
}

// judge decides from a listener's outcome. It is pure: attempt counts from 1,
// aborted is the cause with which the run was cancelled, and stopping says that
// Close has stopped waiting.
func judge(err error, attempt int, retry resilience.Retry, aborted error, stopping bool) verdict {
	if err == nil {
		// Done is done, even if it came late: settling fails if it came too late.
		return verdict{fate: fateDone}
	}
	var permanent *permanentError
	var after *retryAfterError
	switch {
	case errors.Is(aborted, ErrLeaseLost):
		return verdict{fate: fateLost}
	case stopping:
		return verdict{fate: fateReturn}
	case errors.As(err, &permanent), attempt >= retry.Attempts():
		return verdict{fate: fateDead}
	case errors.As(err, &after):
		return verdict{fate: fateRetry, delay: after.after}
	default:
		return verdict{fate: fateRetry, delay: retry.Delay(attempt)}
	}
}
