package nats_test

import (
	"testing"

	"github.com/jitney-bus/jitney/internal/natstest"
)

// Tests run NATS servers in bubbles, and none may leave anything running.
func TestMain(m *testing.M) { natstest.MainOfBubbles(m) }
