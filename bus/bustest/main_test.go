package bustest_test

import (
	"flag"
	"os"
	"testing"
)

// Tests that wait for goroutines which do not end run side by side, more than there
// are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "8")
	}
	os.Exit(m.Run())
}
