package nats_test

import (
	"flag"
	"testing"

	"github.com/jitney-bus/jitney/internal/natstest"
)

// Tests run NATS servers in bubbles, and none may leave anything running. The
// real-time lane of the suite mostly waits, so more of it may run side by side
// than there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "12")
	}
	natstest.Main(m)
}
