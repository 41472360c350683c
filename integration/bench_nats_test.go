package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/nats"
)

// The NATS benchmarks do the same work with nats.go alone and with the bus, in
// one run, over loopback TCP and with the same JSON: what counts is the ratio.

// benchOrder is about 250 bytes of JSON.
type benchOrder struct {
	ID, Customer, SKU string
	Quantity          int
	UnitPrice         int64
	Currency, Country string
	Placed            time.Time
	Tags              []string
}

type benchPlace struct {
	bus.Command[benchReceipt]
	benchOrder
}

func (benchPlace) MessageName() string { return "order.place" }

type benchReceipt struct {
	ID    string
	Total int64
}

type benchPlaced benchOrder

func (benchPlaced) MessageName() string { return "order.placed" }

func order(i int) benchOrder {
	return benchOrder{
		ID: fmt.Sprintf("order-%08d", i), Customer: "Ada Lovelace, 12 St James's Square", SKU: "SKU-1042-BLUE-XL",
		Quantity: 3, UnitPrice: 1999, Currency: "EUR", Country: "GB",
		Placed: time.Date(2026, 11, 23, 17, 45, 0, 0, time.UTC), Tags: []string{"web", "gift", "priority"},
	}
}

func receipt(o benchOrder) benchReceipt {
	return benchReceipt{ID: o.ID, Total: int64(o.Quantity) * o.UnitPrice}
}

func natsBus(b *testing.B, s *natstest.Instance, service string) *bus.Bus {
	b.Helper()
	tr, err := nats.Open(b.Context(), nats.Config{URL: s.URL()})
	require.NoError(b, err)
	m, err := bus.New(tr, bus.Config{Service: service})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, m.Close(context.Background())) })
	return m
}

// rawStream is a stream as the bus makes its own, for nats.go alone.
func rawStream(b *testing.B, nc *natsgo.Conn) jetstream.JetStream {
	b.Helper()
	js, err := jetstream.New(nc)
	require.NoError(b, err)
	_, err = js.CreateStream(b.Context(), jetstream.StreamConfig{
		Name: "RAW", Subjects: []string{"raw.evt.>"}, Duplicates: 2 * time.Minute,
		Discard: jetstream.DiscardNew, MaxAge: 7 * 24 * time.Hour, AllowDirect: true,
		RePublish: &jetstream.RePublish{Source: "raw.evt.>", Destination: "raw.live.>"},
	})
	require.NoError(b, err)
	return js
}

// reportCPU starts to count the processor time of a benchmark, server included;
// what it returns reports it per operation.
func reportCPU(b *testing.B) (stop func()) {
	b.ReportAllocs()
	b.ResetTimer()
	began := cpuTime()
	return func() {
		b.StopTimer()
		b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
	}
}

// inFlight does b.N pieces of work, n at a time.
func inFlight(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	defer reportCPU(b)()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkNATSExecute(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			s := natstest.Server(b)
			server, caller := s.Connect(), s.Connect()
			_, err := server.QueueSubscribe("raw.cmd.order", "q", func(m *natsgo.Msg) {
				var c benchPlace
				if err := json.Unmarshal(m.Data, &c); err != nil {
					panic(err)
				}
				body, err := json.Marshal(receipt(c.benchOrder))
				if err != nil {
					panic(err)
				}
				_ = m.Respond(body)
			})
			require.NoError(b, err)
			require.NoError(b, server.Flush())
			inFlight(b, n, func(i int) error {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				body, err := json.Marshal(benchPlace{benchOrder: order(i)})
				if err != nil {
					return err
				}
				m, err := caller.RequestWithContext(ctx, "raw.cmd.order", body)
				if err != nil {
					return err
				}
				var r benchReceipt
				return json.Unmarshal(m.Data, &r)
			})
		})
		b.Run(fmt.Sprintf("jitney/%d", n), func(b *testing.B) {
			s := natstest.Server(b)
			server, caller := natsBus(b, s, "orders"), natsBus(b, s, "caller")
			require.NoError(b, bus.Handle(b.Context(), server, func(_ context.Context, c benchPlace) (benchReceipt, error) {
				return receipt(c.benchOrder), nil
			}))
			inFlight(b, n, func(i int) error {
				_, err := bus.Execute(context.Background(), caller, benchPlace{benchOrder: order(i)})
				return err
			})
		})
	}
}

func BenchmarkNATSPublish(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			s := natstest.Server(b)
			js := rawStream(b, s.Connect())
			inFlight(b, n, func(i int) error {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				o := order(i)
				body, err := json.Marshal(o)
				if err != nil {
					return err
				}
				_, err = js.Publish(ctx, "raw.evt._.order", body, jetstream.WithMsgID(o.ID))
				return err
			})
		})
		b.Run(fmt.Sprintf("jitney/%d", n), func(b *testing.B) {
			m := natsBus(b, natstest.Server(b), "orders")
			inFlight(b, n, func(i int) error {
				return bus.Publish(context.Background(), m, benchPlaced(order(i)))
			})
		})
	}
}

const benchBatch = 500

func BenchmarkNATSPublishBatch(b *testing.B) {
	b.Run("raw PublishAsync", func(b *testing.B) {
		s := natstest.Server(b)
		js := rawStream(b, s.Connect())
		defer reportCPU(b)()
		for n := 0; n < b.N; n += benchBatch {
			acks := make([]jetstream.PubAckFuture, 0, benchBatch)
			for i := range benchBatch {
				o := order(n + i)
				body, err := json.Marshal(o)
				require.NoError(b, err)
				ack, err := js.PublishAsync("raw.evt._.order", body, jetstream.WithMsgID(o.ID))
				require.NoError(b, err)
				acks = append(acks, ack)
			}
			for _, ack := range acks {
				select {
				case <-ack.Ok():
				case err := <-ack.Err():
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("jitney PublishAll", func(b *testing.B) {
		m := natsBus(b, natstest.Server(b), "orders")
		defer reportCPU(b)()
		for n := 0; n < b.N; n += benchBatch {
			events := make([]any, benchBatch)
			for i := range events {
				events[i] = benchPlaced(order(n + i))
			}
			require.NoError(b, bus.PublishAll(context.Background(), m, events...))
		}
	})
}

func BenchmarkNATSConsume(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		s := natstest.Server(b)
		js := rawStream(b, s.Connect())
		cons, err := js.CreateConsumer(b.Context(), "RAW", jetstream.ConsumerConfig{
			Durable: "group", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000, FilterSubject: "raw.evt.*.order",
		})
		require.NoError(b, err)
		body, err := json.Marshal(order(1))
		require.NoError(b, err)
		fill(b, func() (jetstream.PubAckFuture, error) { return js.PublishAsync("raw.evt._.order", body) })
		done := countdown(b.N)
		stop := reportCPU(b)
		cc, err := cons.Consume(func(m jetstream.Msg) {
			var o benchOrder
			if err := json.Unmarshal(m.Data(), &o); err != nil {
				panic(err)
			}
			_ = m.Ack()
			done.one()
		})
		require.NoError(b, err)
		done.wait()
		stop()
		cc.Stop()
	})
	jitney := func(opts ...bus.SubscribeOption) func(b *testing.B) {
		return func(b *testing.B) {
			s := natstest.Server(b)
			m := natsBus(b, s, "orders")
			js, err := jetstream.New(s.Connect())
			require.NoError(b, err)
			body, err := json.Marshal(order(1))
			require.NoError(b, err)
			fill(b, func() (jetstream.PubAckFuture, error) { return js.PublishAsync("jitney.evt._.order.placed", body) })
			done := countdown(b.N)
			stop := reportCPU(b)
			_, err = bus.Subscribe(b.Context(), m, func(context.Context, benchPlaced) error {
				done.one()
				return nil
			}, append(opts, bus.WithStart(bus.All()))...)
			require.NoError(b, err)
			done.wait()
			stop()
		}
	}
	ahead := bus.WithPrefetch(jetstream.DefaultMaxMessages) // as nats.go by default
	b.Run("jitney", jitney(ahead))
	b.Run("jitney one worker", jitney(ahead, bus.WithConcurrency(1)))
	b.Run("jitney by default", jitney())
	b.Run("jitney by default, one worker", jitney(bus.WithConcurrency(1)))
}

// fill stores b.N events that are then consumed.
func fill(b *testing.B, publish func() (jetstream.PubAckFuture, error)) {
	b.Helper()
	var last jetstream.PubAckFuture
	for i := range b.N {
		var err error
		last, err = publish()
		require.NoError(b, err)
		if i%benchBatch == benchBatch-1 || i == b.N-1 {
			select {
			case <-last.Ok():
			case err := <-last.Err():
				b.Fatal(err)
			}
		}
	}
}

type counter struct {
	left atomic.Int64
	done chan struct{}
}

func countdown(n int) *counter {
	c := &counter{done: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *counter) one() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

func (c *counter) wait() { <-c.done }
