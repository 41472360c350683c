package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
)

// The batch benchmarks show what a batch's size does, beside one event at a time, in
// the same run.

var benchBatchSizes = []int{1, 10, 100, 1000}

// benchBoth runs f on both drivers. NATS is over loopback TCP with streams in files.
func benchBoth(b *testing.B, f func(b *testing.B, open func(b *testing.B) transport.Transport)) {
	b.Run("memory", func(b *testing.B) {
		f(b, func(*testing.B) transport.Transport { return memory.New(memory.Config{MaxEvents: benchLog}) })
	})
	b.Run("nats", func(b *testing.B) {
		f(b, func(b *testing.B) transport.Transport {
			tr, err := nats.Open(b.Context(), nats.Config{URL: natstest.Server(b).URL()})
			require.NoError(b, err)
			return tr
		})
	})
}

// benchLog is more than is ever published before it is consumed.
const benchLog = 5_000_000

func benchBus(b *testing.B, tr transport.Transport, cfg bus.Config) *bus.Bus {
	b.Helper()
	cfg.Service = "bench"
	m, err := bus.New(tr, cfg)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, m.Close(context.Background())) })
	return m
}

// BenchmarkBatchPublish stores events from one goroutine.
func BenchmarkBatchPublish(b *testing.B) {
	benchBoth(b, func(b *testing.B, open func(b *testing.B) transport.Transport) {
		b.Run("Publish", func(b *testing.B) {
			m := benchBus(b, open(b), bus.Config{})
			defer reportCPU(b)()
			for i := range b.N {
				require.NoError(b, bus.Publish(context.Background(), m, benchPlaced(order(i))))
			}
		})
		for _, n := range benchBatchSizes {
			b.Run(fmt.Sprintf("PublishAsync/%d", n), func(b *testing.B) {
				m := benchBus(b, open(b), bus.Config{BatchSize: n})
				defer reportCPU(b)()
				for i := range b.N {
					if _, err := bus.PublishAsync(context.Background(), m, benchPlaced(order(i))); err != nil {
						b.Fatal(err)
					}
				}
				require.NoError(b, m.Flush(context.Background()))
			})
		}
	})
}

// BenchmarkBatchReceive handles events that are stored already, with handlers that
// do nothing, and with handlers that take a millisecond for each call, as an insert
// into a database may.
func BenchmarkBatchReceive(b *testing.B) {
	for _, work := range []time.Duration{0, time.Millisecond} {
		b.Run(fmt.Sprintf("work=%v", work), func(b *testing.B) {
			benchBoth(b, func(b *testing.B, open func(b *testing.B) transport.Transport) {
				for _, concurrency := range []int{1, 16} {
					b.Run(fmt.Sprintf("Subscribe/%d at once", concurrency), func(b *testing.B) {
						receive(b, open(b), func(m *bus.Bus, done *counter) error {
							_, err := bus.Subscribe(b.Context(), m, func(context.Context, benchPlaced) error {
								pause(work)
								done.one()
								return nil
							}, bus.WithStart(bus.All()), bus.WithConcurrency(concurrency))
							return err
						})
					})
				}
				for _, n := range benchBatchSizes {
					b.Run(fmt.Sprintf("SubscribeBatch/%d", n), func(b *testing.B) {
						receive(b, open(b), func(m *bus.Bus, done *counter) error {
							_, err := bus.SubscribeBatch(b.Context(), m, func(_ context.Context, events []benchPlaced) error {
								pause(work)
								for range events {
									done.one()
								}
								return nil
							}, bus.WithStart(bus.All()), bus.WithBatchSize(n))
							return err
						})
					})
				}
			})
		})
	}
}

func pause(d time.Duration) {
	if d > 0 {
		time.Sleep(d)
	}
}

// receive stores b.N events and measures until the listener has handled them.
func receive(b *testing.B, tr transport.Transport, subscribe func(m *bus.Bus, done *counter) error) {
	b.Helper()
	m := benchBus(b, tr, bus.Config{})
	// A group that exists keeps the events for whoever comes later.
	sub, err := bus.Subscribe(b.Context(), m, func(context.Context, benchPlaced) error { return nil })
	require.NoError(b, err)
	require.NoError(b, sub.Close(b.Context()))
	for i := 0; i < b.N; i += benchBatch {
		events := make([]any, min(benchBatch, b.N-i))
		for j := range events {
			events[j] = benchPlaced(order(i + j))
		}
		require.NoError(b, bus.PublishAll(b.Context(), m, events...))
	}
	done := countdown(b.N)
	stop := reportCPU(b)
	require.NoError(b, subscribe(m, done))
	done.wait()
	stop()
}
