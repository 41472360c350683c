package nats_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
)

// The driver beside the same work done with nats.go alone, in one run, over
// loopback TCP: what counts is the ratio.

var benchBody = []byte(`{"UserID":"` + strings.Repeat("u", 230) + `"}`)

func openBench(b *testing.B) (*natstest.Instance, *nats.Transport) {
	s := natstest.Server(b)
	tr, err := nats.Open(b.Context(), nats.Config{URL: s.URL()})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, tr.Close(context.Background())) })
	return s, tr
}

// inFlight runs f b.N times in n goroutines.
func inFlight(b *testing.B, n int, f func(i int) error) {
	b.ReportAllocs()
	b.ResetTimer()
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

func BenchmarkRequest(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			s := natstest.Server(b)
			server, client := s.Connect(), s.Connect()
			_, err := server.QueueSubscribe("a.do", "q", func(m *natsgo.Msg) { _ = m.Respond(m.Data) })
			require.NoError(b, err)
			require.NoError(b, server.Flush())
			inFlight(b, n, func(int) error {
				_, err := client.RequestWithContext(b.Context(), "a.do", benchBody)
				return err
			})
		})
		b.Run(fmt.Sprintf("jitney/%d", n), func(b *testing.B) {
			s, caller := openBench(b)
			server, err := nats.Open(b.Context(), nats.Config{URL: s.URL()})
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, server.Close(context.Background())) })
			src, err := server.Serve(b.Context(), transport.Endpoint{Address: transport.Address{Name: "a.do"}})
			require.NoError(b, err)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for {
						r, err := src.Next(context.Background())
						if err != nil {
							return
						}
						_ = r.Reply(context.Background(), &transport.Message{Body: r.Message().Body})
					}
				})
			}
			inFlight(b, n, func(i int) error {
				_, err := caller.Request(b.Context(), &transport.Message{
					To: transport.Address{Name: "a.do"}, ID: "0123456789abcdefghijkl", CorrelationID: "0123456789abcdefghijkl", Body: benchBody,
				})
				return err
			})
			b.StopTimer()
			require.NoError(b, src.Close(context.Background()))
			wg.Wait()
		})
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			js := rawStream(b)
			inFlight(b, n, func(i int) error {
				_, err := js.Publish(b.Context(), rawSubject, benchBody, jetstream.WithMsgID(benchID(i)))
				return err
			})
		})
		b.Run(fmt.Sprintf("jitney/%d", n), func(b *testing.B) {
			_, tr := openBench(b)
			inFlight(b, n, func(i int) error { return tr.Publish(b.Context(), benchEvent(i)) })
		})
	}
}

const batchSize = 1000

func BenchmarkPublishBatch(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		js := rawStream(b)
		b.ReportAllocs()
		b.ResetTimer()
		for n := 0; n < b.N; n += batchSize {
			fs := make([]jetstream.PubAckFuture, batchSize)
			for i := range fs {
				f, err := js.PublishAsync(rawSubject, benchBody, jetstream.WithMsgID(benchID(n+i)))
				require.NoError(b, err)
				fs[i] = f
			}
			for _, f := range fs {
				select {
				case <-f.Ok():
				case err := <-f.Err():
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("jitney", func(b *testing.B) {
		_, tr := openBench(b)
		b.ReportAllocs()
		b.ResetTimer()
		for n := 0; n < b.N; n += batchSize {
			ms := make([]*transport.Message, batchSize)
			for i := range ms {
				ms[i] = benchEvent(n + i)
			}
			require.NoError(b, tr.Publish(b.Context(), ms...))
		}
	})
}

func BenchmarkConsume(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		js := rawStream(b)
		for n := 0; n < b.N; n += batchSize {
			for i := range batchSize {
				_, err := js.PublishAsync(rawSubject, benchBody, jetstream.WithMsgID(benchID(n+i)))
				require.NoError(b, err)
			}
			<-js.PublishAsyncComplete()
		}
		c, err := js.CreateConsumer(b.Context(), "JITNEY_EVT", jetstream.ConsumerConfig{Durable: "c", FilterSubject: rawSubject, MaxAckPending: 10_000})
		require.NoError(b, err)
		b.ReportAllocs()
		b.ResetTimer()
		done := make(chan struct{})
		n := 0
		cc, err := c.Consume(func(m jetstream.Msg) {
			if n < b.N {
				_ = m.Ack()
			}
			if n++; n == b.N {
				close(done)
			}
		})
		require.NoError(b, err)
		<-done
		b.StopTimer()
		cc.Stop()
		<-cc.Closed()
	})
	b.Run("jitney", func(b *testing.B) {
		_, tr := openBench(b)
		for n := 0; n < b.N; n += batchSize {
			ms := make([]*transport.Message, batchSize)
			for i := range ms {
				ms[i] = benchEvent(n + i)
			}
			require.NoError(b, tr.Publish(b.Context(), ms...))
		}
		b.ReportAllocs()
		b.ResetTimer()
		src, err := tr.Subscribe(b.Context(), transport.Subscription{
			Name: "a.done", Group: "g", Start: transport.Start{All: true}, Prefetch: 500,
		})
		require.NoError(b, err)
		for range b.N {
			d, err := src.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if err := d.Ack(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
	})
}

// rawStream returns the client alone, on the stream that the driver makes: what it
// costs the server to republish each event for private readers is in both.
func rawStream(b *testing.B) jetstream.JetStream {
	s, _ := openBench(b)
	js, err := jetstream.New(s.Connect(), jetstream.WithPublishAsyncMaxPending(4000))
	require.NoError(b, err)
	return js
}

const rawSubject = "jitney.evt._.a.done"

func benchID(i int) string { return fmt.Sprintf("id%020d", i) }

func benchEvent(i int) *transport.Message {
	id := benchID(i)
	return &transport.Message{To: transport.Address{Name: "a.done"}, ID: id, CorrelationID: id, Body: benchBody}
}
