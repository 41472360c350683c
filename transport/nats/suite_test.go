package nats_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
	"github.com/jitney-bus/jitney/transport/transporttest"
)

// The bodies that fit a server with the default maximum payload.
const maxBody = 1<<20 - 64<<10

// TestSuite runs the conformance suite in bubbles: hours of leases and delays
// pass in milliseconds. The package embedded runs it in real time.
func TestSuite(t *testing.T) {
	natstest.Outside(t)
	transporttest.Run(t, transporttest.Config{
		Backend: func(t *testing.T) func(t *testing.T) transport.Transport {
			natstest.DropPooledTimers() // none may come from another case's bubble
			s, err := embedded.Start(embedded.Config{})
			require.NoError(t, err)
			t.Cleanup(func() {
				require.NoError(t, s.Shutdown(context.Background()))
				// A stream that was about to read another one waits for an answer
				// that no longer comes; the bubble must not end before it gives up.
				time.Sleep(time.Minute)
			})
			return func(t *testing.T) transport.Transport {
				tr, err := nats.Open(t.Context(), nats.Config{Server: s, DeadLetterMaxMessages: 200})
				require.NoError(t, err)
				return tr
			}
		},
		Features: transporttest.Features{Bubble: true, MaxBody: maxBody, MaxDeadLetters: 200},
	})
}
