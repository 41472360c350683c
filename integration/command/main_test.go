package command_test

import (
	"testing"

	"github.com/jitney-bus/jitney/internal/natstest"
)

func TestMain(m *testing.M) { natstest.MainOfBubbles(m) }
