package nats

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// A subject that the server refuses ends the calls that sent to it, at once, and no
// other: the server does not say which call it was.
func TestDenialIsOfTheCallThatSent(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		c, _ := testCaller(t, natstest.Connect(t, srv))
		s := newStore(c, testNames(t))
		hear := func(string, error) {}
		c.deny = func(f func(string, error)) func() { hear = f; return func() {} }
		denied := fmt.Errorf("%w for Publish to ...", nats.ErrPermissionViolation)

		for _, send := range []struct {
			subject string
			f       func(context.Context, jetstream.JetStream) error
		}{
			{"$JS.API.STREAM.INFO.A", func(ctx context.Context, js jetstream.JetStream) error {
				_, err := js.Stream(ctx, "A")
				return err
			}},
			{"$JS.API.STREAM.MSG.GET.A", func(ctx context.Context, js jetstream.JetStream) error {
				_, err := fromLeader(ctx, js, "A", msgRequest{Seq: 1})
				return err
			}},
			{"$JS.API.DIRECT.GET.A", func(ctx context.Context, js jetstream.JetStream) error {
				_, _, err := fromReplica(ctx, js, "A", msgRequest{Seq: 1})
				return err
			}},
			{s.subject("k"), func(ctx context.Context, js jetstream.JetStream) error {
				_, err := js.PublishMsg(ctx, nats.NewMsg(s.subject("k")), jetstream.WithRetryAttempts(0))
				return err
			}},
		} {
			tries := 0
			err := c.try(t.Context(), "call", func(ctx context.Context, js jetstream.JetStream) error {
				tries++
				if err := send.f(ctx, js); err == nil || ctx.Err() != nil {
					return errors.New("the stream should not be there")
				}
				hear("$JS.API.CONSUMER.LIST.A", denied)
				if ctx.Err() == nil && tries == 2 {
					hear(send.subject, denied)
				}
				return context.DeadlineExceeded
			})
			require.ErrorIs(t, err, transport.ErrPermission, send.subject)
			require.Equal(t, 2, tries, send.subject)
		}
	})
}
