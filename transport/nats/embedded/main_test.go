package embedded_test

import (
	"testing"

	"github.com/jitney-bus/jitney/internal/natstest"
)

// No test may leave anything running. The suite mostly waits, so more of it may run
// side by side than there are processors; under the race detector, which makes all cost
// several times as much, fewer, or leases of a second end on a busy machine.
func TestMain(m *testing.M) {
	natstest.SideBySide(sideBySide)
	natstest.Main(m)
}
