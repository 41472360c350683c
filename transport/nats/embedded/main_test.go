package embedded_test

import (
	"testing"

	"go.uber.org/goleak"
)

// Every test must leave nothing running.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
