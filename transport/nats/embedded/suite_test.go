package embedded_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/transporttest"
)

// The bodies that fit a server with the default maximum payload.
const maxBody = 1<<20 - 64<<10

// TestSuite runs the conformance suite in real time, with a server that keeps its
// streams in files and is reached over loopback TCP. The package nats runs it in
// fake time.
func TestSuite(t *testing.T) {
	transporttest.Run(t, transporttest.Config{
		Backend: func(t *testing.T) func(t *testing.T) transport.Transport {
			s := natstest.Server(t)
			return func(t *testing.T) transport.Transport {
				tr, err := nats.Open(t.Context(), nats.Config{URL: s.URL(), DeadLetterMaxMessages: 200, DropDeadLetters: true})
				require.NoError(t, err)
				return tr
			}
		},
		Features: transporttest.Features{MaxBody: maxBody, Parallel: true, Sessions: 100, MaxDeadLetters: 200, DropDeadLetters: true},
	})
}
