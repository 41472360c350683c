package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/components/requestreply"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// Watermill is used as its documentation shows: package cqrs and requestreply for
// commands, pkg/nats for NATS, which it recommends for production.

// watermillCommands returns a function that sends a command and waits for its
// reply. Replies of all commands come back on a topic of their own each, as in its
// example, because there is no address to reply to.
func watermillCommands(b *testing.B, pub message.Publisher, subscriber func() message.Subscriber) func(context.Context, Order) (Receipt, error) {
	b.Helper()
	log := watermill.NopLogger{}
	timeout := 30 * time.Second
	replies := subscriber()
	topic := func(id requestreply.OperationID) string { return "reply." + string(id) }
	backend, err := requestreply.NewPubSubBackend(requestreply.PubSubBackendConfig{
		Publisher: pub,
		SubscriberConstructor: func(requestreply.PubSubBackendSubscribeParams) (message.Subscriber, error) {
			return replies, nil
		},
		GeneratePublishTopic: func(p requestreply.PubSubBackendPublishParams) (string, error) {
			return topic(p.OperationID), nil
		},
		GenerateSubscribeTopic: func(p requestreply.PubSubBackendSubscribeParams) (string, error) {
			return topic(p.OperationID), nil
		},
		Logger: log, ListenForReplyTimeout: &timeout,
	}, requestreply.BackendPubsubJSONMarshaler[Receipt]{})
	require.NoError(b, err)

	marshaler := cqrs.JSONMarshaler{GenerateName: cqrs.StructName}
	commands, err := cqrs.NewCommandBusWithConfig(pub, cqrs.CommandBusConfig{
		GeneratePublishTopic: func(p cqrs.CommandBusGeneratePublishTopicParams) (string, error) {
			return "commands." + p.CommandName, nil
		},
		Marshaler: marshaler, Logger: log,
	})
	require.NoError(b, err)

	router, err := message.NewRouter(message.RouterConfig{}, log)
	require.NoError(b, err)
	processor, err := cqrs.NewCommandProcessorWithConfig(router, cqrs.CommandProcessorConfig{
		GenerateSubscribeTopic: func(p cqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
			return "commands." + p.CommandName, nil
		},
		SubscriberConstructor: func(cqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return subscriber(), nil
		},
		Marshaler: marshaler, Logger: log,
	})
	require.NoError(b, err)
	require.NoError(b, processor.AddHandlers(requestreply.NewCommandHandlerWithResult("place", backend,
		func(_ context.Context, c *Place) (Receipt, error) { return receipt(c.Order), nil })))
	runRouter(b, router)
	return func(ctx context.Context, o Order) (Receipt, error) {
		r, err := requestreply.SendWithReply(ctx, commands, backend, &Place{Order: o})
		if err != nil {
			return Receipt{}, err
		}
		return r.HandlerResult, r.Error
	}
}

func runRouter(b *testing.B, router *message.Router) {
	b.Helper()
	done := make(chan error, 1)
	go func() { done <- router.Run(context.Background()) }()
	<-router.Running()
	b.Cleanup(func() {
		require.NoError(b, router.Close())
		require.NoError(b, <-done)
	})
}

func watermillChannel() *gochannel.GoChannel {
	return gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 1000}, watermill.NopLogger{})
}

func watermillPublisher(b *testing.B, url string, js wmnats.JetStreamConfig) message.Publisher {
	b.Helper()
	p, err := wmnats.NewPublisher(wmnats.PublisherConfig{URL: url, JetStream: js}, watermill.NopLogger{})
	require.NoError(b, err)
	b.Cleanup(func() { _ = p.Close() })
	return p
}

func watermillSubscriber(b *testing.B, c wmnats.SubscriberConfig) message.Subscriber {
	b.Helper()
	s, err := wmnats.NewSubscriber(c, watermill.NopLogger{})
	require.NoError(b, err)
	b.Cleanup(func() { _ = s.Close() })
	return s
}

// coreNATS is Watermill over NATS without JetStream, for commands.
var coreNATS = wmnats.JetStreamConfig{Disabled: true}

func watermillNATSCommands(b *testing.B, url string) func(context.Context, Order) (Receipt, error) {
	return watermillCommands(b, watermillPublisher(b, url, coreNATS), func() message.Subscriber {
		nc := connect(b, url)
		s, err := wmnats.NewSubscriberWithNatsConn(nc, wmnats.SubscriberSubscriptionConfig{
			JetStream: coreNATS, CloseTimeout: time.Second,
		}, watermill.NopLogger{})
		require.NoError(b, err)
		return flushed{s, nc}
	})
}

// flushed waits until the server knows of a subscription. Watermill does not, and
// since each of its commands subscribes to its reply anew, over a connection of its
// own, replies come before their subscription and the command waits in vain.
type flushed struct {
	message.Subscriber
	nc *nats.Conn
}

func (f flushed) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	c, err := f.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	return c, f.nc.Flush()
}

func watermillEvent(o Order) (*message.Message, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return message.NewMessage(watermill.NewUUID(), body), nil
}
