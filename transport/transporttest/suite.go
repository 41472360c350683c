package transporttest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Config says what to test.
type Config struct {
	// Backend is called once for each case. It starts an empty broker, or
	// whatever the driver keeps its messages in, and returns a function that
	// opens one more transport on it: one more process. The suite closes what
	// open returns; Backend stops its broker with t.Cleanup. With
	// Features.Bubble both are called inside the bubble.
	Backend func(t *testing.T) (open func(t *testing.T) transport.Transport)
	// Features declares what the driver does not do, and its limits.
	Features Features
}

// Features declares what a driver does not do, and its limits, so that the
// suite runs the cases that apply. The zero value is a driver that several
// processes share, tested in real time, with no limit within the suite's reach.
type Features struct {
	// Bubble runs every case in a testing/synctest bubble.
	Bubble bool
	// Parallel runs the cases side by side. It has no effect with Bubble.
	Parallel bool
	// AckWait is the AckWait of a run in real time; the other waits grow and
	// shrink with it. Default one second. No effect with Bubble.
	AckWait time.Duration
	// SingleProcess: open returns the same transport each time, because the
	// messages live in it.
	SingleProcess bool
	// NoCatchUp: the source of a private reader is no transport.CatchUpper, so
	// that a session may end before its listeners have seen its last events.
	NoCatchUp bool
	// NoGroups: the transport is no transport.GroupLister and GroupRetirer.
	NoGroups bool
	// MaxBody is the largest body that is carried; one byte more is a
	// *transport.SizeError. 0: there is no limit worth a case.
	MaxBody int
	// MaxEvents is how many events the backend stores while a group that does
	// not read holds them, before Publish reports transport.ErrBacklog. 0: there
	// is no limit worth a case.
	MaxEvents int
	// MaxDeadLetters is how many dead letters the backend stores before Add
	// reports transport.ErrBacklog or, with DropDeadLetters, drops the oldest: at
	// least 200. 0: there is no limit worth a case.
	MaxDeadLetters  int
	DropDeadLetters bool
	// DeadLetterMaxAge is the age at which the backend drops a dead letter, by the
	// time of the bubble: an hour or more. 0, or without Bubble: it is not tested.
	DeadLetterMaxAge time.Duration
	// Sessions is how many sessions are opened and closed one after another, to see
	// that they leave nothing behind. Default 1,000.
	Sessions int
	// DedupWindow is how long the backend remembers an event's ID. 0, or more
	// than two seconds without Bubble: the window's end is not tested.
	DedupWindow time.Duration
}

// Run runs the suite: every case that applies is a subtest of t.
func Run(t *testing.T, c Config) {
	for _, k := range cases() {
		if k.needs != nil && !k.needs(c.Features) {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			if c.Features.Bubble {
				synctest.Test(t, func(t *testing.T) { k.run(newEnv(t, c)) })
				return
			}
			if c.Features.Parallel {
				t.Parallel()
			}
			k.run(newEnv(t, c))
		})
	}
}

// testCase is one named behaviour of the seam.
type testCase struct {
	name  string
	run   func(*env)
	needs func(Features) bool // nil: every driver
}

func cases() []testCase {
	var all []testCase
	for _, group := range [][]testCase{
		requestCases(), serveCases(), publishCases(), dedupCases(), messageCases(),
		groupCases(), groupStateCases(), addressedCases(), settleCases(), leaseCases(), delayCases(), privateCases(),
		catchUpCases(), sessionCases(), closeCases(), contextCases(), deadLetterCases(),
		storeCases(), watchCases(), healthCases(),
	} {
		all = append(all, group...)
	}
	return all
}

func severalProcesses(f Features) bool { return !f.SingleProcess }
