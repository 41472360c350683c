package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

func newUUID() string { return watermill.NewUUID() }

// work is what a handler does with an event, besides decoding and settling it.
type work struct {
	name  string
	takes time.Duration
}

func (w work) do() {
	if w.takes > 0 {
		time.Sleep(w.takes)
	}
}

// BenchmarkConsume reads events that are stored already: it measures decoding,
// handling and settling. Once with a handler that does nothing, and once with one
// that waits for a millisecond, as for a database.
func BenchmarkConsume(b *testing.B) {
	for _, w := range []work{{"nothing", 0}, {"1ms", time.Millisecond}} {
		for _, workers := range []int{1, 16, 64} {
			if w.takes > 0 && workers == 1 {
				continue // a millisecond for each, whoever does it
			}
			run := func(lib string, start func(b *testing.B, url string, workers int, w work) (begin func(done *countdown))) {
				b.Run(fmt.Sprintf("handler=%s/workers=%d/lib=%s", w.name, workers, lib), func(b *testing.B) {
					begin := start(b, server(b), workers, w)
					done := newCountdown(b.N)
					stop := measured(b)
					begin(done)
					done.wait(b)
					stop()
				})
			}
			run("nats.go", rawConsume)
			run("watermill", watermillConsume)
			run("jitney", jitneyConsume)
		}
	}
}

// rawConsume hands what one pull consumer delivers to as many goroutines.
func rawConsume(b *testing.B, url string, workers int, w work) func(*countdown) {
	js := stream(b, connect(b, url), "RAW", "raw.evt.>")
	cons, err := js.CreateConsumer(b.Context(), "RAW", jetstream.ConsumerConfig{
		Durable: "group", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000, FilterSubject: "raw.evt.*.order",
	})
	require.NoError(b, err)
	fill(b, js, "raw.evt._.order", nil)
	return func(done *countdown) {
		it, err := cons.Messages()
		require.NoError(b, err)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for {
					m, err := it.Next()
					if err != nil {
						return
					}
					var o Order
					if err := json.Unmarshal(m.Data(), &o); err != nil {
						panic(err)
					}
					w.do()
					_ = m.Ack()
					done.one()
				}
			})
		}
		b.Cleanup(func() {
			it.Stop()
			wg.Wait()
		})
	}
}

func watermillConsume(b *testing.B, url string, workers int, w work) func(*countdown) {
	js := stream(b, connect(b, url), "wm", "wm")
	fill(b, js, "wm", func(m *nats.Msg) {
		m.Header = nats.Header{wmnats.WatermillUUIDHdr: {newUUID()}}
	})
	s := watermillSubscriber(b, wmnats.SubscriberConfig{
		URL: url, QueueGroupPrefix: "group", SubscribersCount: workers, CloseTimeout: time.Second,
		JetStream: wmnats.JetStreamConfig{
			DurablePrefix: "group", AckAsync: true,
			SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit(), nats.MaxAckPending(10_000), nats.BindStream("wm")},
		},
	})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: time.Second}, watermill.NopLogger{})
	require.NoError(b, err)
	return func(done *countdown) {
		router.AddConsumerHandler("group", "wm", s, func(m *message.Message) error {
			var o Order
			if err := json.Unmarshal(m.Payload, &o); err != nil {
				return err
			}
			w.do()
			done.one()
			return nil
		})
		runRouter(b, router)
	}
}

// jitneyConsume holds as many events as nats.go does by default.
func jitneyConsume(b *testing.B, url string, workers int, w work) func(*countdown) {
	m := natsBus(b, url, "orders")
	js, err := jetstream.New(connect(b, url))
	require.NoError(b, err)
	fill(b, js, "jitney.evt._.order.placed", nil)
	return func(done *countdown) {
		_, err := bus.Subscribe(b.Context(), m, func(context.Context, OrderPlaced) error {
			w.do()
			done.one()
			return nil
		}, bus.WithStart(bus.All()), bus.WithConcurrency(workers), bus.WithPrefetch(jetstream.DefaultMaxMessages))
		require.NoError(b, err)
	}
}

// fill stores b.N events.
func fill(b *testing.B, js jetstream.JetStream, subject string, adorn func(*nats.Msg)) {
	b.Helper()
	body, err := json.Marshal(order(1))
	require.NoError(b, err)
	for i := range b.N {
		m := &nats.Msg{Subject: subject, Data: body}
		if adorn != nil {
			adorn(m)
		}
		ack, err := js.PublishMsgAsync(m)
		require.NoError(b, err)
		if i%batchSize == batchSize-1 || i == b.N-1 {
			select {
			case <-ack.Ok():
			case err := <-ack.Err():
				b.Fatal(err)
			}
		}
	}
}
