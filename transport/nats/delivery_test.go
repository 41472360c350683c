package nats_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// With DoubleAck an Ack that returned is known to the server, and one that nobody
// confirms is an error that leaves the delivery open. Without, an Ack is sent.
func TestDoubleAck(t *testing.T) {
	for _, double := range []bool{true, false} {
		t.Run(fmt.Sprint(double), func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
				tr := open(t, nats.Config{Server: s, DoubleAck: double})
				js, err := jetstream.New(natstest.Connect(t, s))
				require.NoError(t, err)
				src, err := tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
				require.NoError(t, err)
				next := func() transport.Delivery {
					require.NoError(t, tr.Publish(t.Context(), event("a.done", "", "x")))
					d, err := src.Next(t.Context())
					require.NoError(t, err)
					return d
				}
				d := next()
				require.NoError(t, d.Ack(t.Context()))
				require.ErrorIs(t, d.Ack(t.Context()), transport.ErrSettled)
				if double {
					c, err := js.Consumer(t.Context(), "JITNEY_EVT", "g=a=done")
					require.NoError(t, err)
					require.Zero(t, c.CachedInfo().NumAckPending)
				}

				d = next()
				require.NoError(t, js.DeleteStream(t.Context(), "JITNEY_EVT"))
				err = d.Ack(t.Context())
				if !double {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, transport.ErrUnavailable)
				require.ErrorIs(t, d.Ack(t.Context()), transport.ErrLeaseLost, "it was tried for as long as the lease lasted")
			})
		})
	}
}
