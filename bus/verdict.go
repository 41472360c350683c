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
	alone bool // the retry is of this event alone, though it failed in a batch
	delay time.Duration
}

// judge decides from a listener's outcome. It is pure: attempt counts from 1, since
// is how long ago it first failed, aborted is the cause with which the run was
// cancelled, and stopping says that Close has stopped waiting.
func judge(err error, attempt int, retry *resilience.Retry, since time.Duration, aborted error, stopping bool) verdict {
	if err == nil {
		// Done is done, even if it came late: settling fails if it came too late.
		return verdict{fate: fateDone}
	}
	switch {
	case errors.Is(aborted, ErrLeaseLost):
		return verdict{fate: fateLost}
	case stopping:
		return verdict{fate: fateReturn}
	}
	delay, again := retryDelay(err, attempt, retry, since)
	if !again {
		return verdict{fate: fateDead}
	}
	return verdict{fate: fateRetry, delay: delay}
}

// retryDelay is the delay of the retry after a failure, for events and commands; false
// if there is none.
func retryDelay(err error, attempt int, retry *resilience.Retry, since time.Duration) (delay time.Duration, again bool) {
	if IsPermanent(err) || attempt >= retry.Attempts() || retry.IsFinal(err) {
		return 0, false
	}
	delay, ok := RetryDelay(err)
	if !ok {
		delay = retry.Delay(attempt)
	}
	return delay, retry.Allows(since, delay)
}

// judge gives a run its verdict. With a limit of time it notes the first failure.
func (run *run) judge(aborted error, stopping bool) {
	retry := &run.l.retry
	run.verdict = judge(run.err, run.attempt, retry, run.first.passed(), aborted, stopping)
	if retry.Within > 0 && run.first == 0 && run.verdict.fate == fateRetry {
		run.first, run.untold = since(time.Now().UnixNano()), true
	}
}
