package bustest

import (
	"testing"
	"testing/synctest"
)

// Run runs f with a harness in a bubble of fake time (testing/synctest): timers
// fire as soon as every goroutine of the bubble waits, so that retries, delays and
// Advance take as many milliseconds as they do work. The clock starts at midnight
// UTC of 2000-01-01. What testing/synctest says holds here too: goroutines of the
// bubble must not wait for anything outside it, such as a network, and all have to
// be gone when f returns and the harness has closed: if not, the harness says which
// are left, and then testing/synctest panics, which ends the test binary.
func Run(t *testing.T, f func(t *testing.T, h *Harness), opts ...Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, New(t, opts...)) })
}
