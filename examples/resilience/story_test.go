package main

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/bus/bustest/natstest"
)

func TestStory(t *testing.T) {
	story := func(t *testing.T, h *bustest.Harness) {
		var out bytes.Buffer
		require.NoError(t, tell(context.Background(), h.Transport(), &out))
		for _, line := range []string{
			`order-01 failed, attempt 1: connection reset\n`,
			`order-01 waits 200ms for its retry\n`,
			`order-01 mailed, attempt 2\n`,
			`breaker open: mailer pauses order.shipped\n`,
			`breaker half-open`,
			`breaker closed: mailer goes on\n`,
			`order-11 mailed, attempt 1\n`,
			`alarm: order.shipped failed for good at mailer/send, attempt 1: no such mailbox\n`,
			`alarm: order.shipped failed for good at mailer/send, attempt 4: greylisted`,
			`redriven to mailer/send, edited: true\n`,
			`redriven to mailer/send, edited: false\n`,
			`\n13 orders: 13 mailed, 0 twice; 13 heard by the audit, 0 twice; 2 alarms, 0 dead letters left\n$`,
		} {
			require.Regexp(t, line, out.String())
		}
	}
	lenient := []bustest.Option{bustest.WithoutBus(), bustest.AllowFailures()}
	t.Run("memory", func(t *testing.T) { bustest.Run(t, story, lenient...) })
	t.Run("nats", func(t *testing.T) { natstest.Run(t, story, lenient...) })
}
