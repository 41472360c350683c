package memory_test

import (
	"flag"
	"os"
	"testing"
)

// The real-time lane of the suite waits, so more of it may run side by side than
// there are processors; fewer under the race detector, or leases end on a busy machine.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", sideBySide)
	}
	os.Exit(m.Run())
}
