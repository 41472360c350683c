package integration_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

// The memory benchmarks stand beside the same work in plain Go.

type addCommand struct {
	bus.Command[int]
	A, B int
}

func add(_ context.Context, c addCommand) (int, error) { return c.A + c.B, nil }

func memoryBus(b *testing.B) *bus.Bus {
	b.Helper()
	m, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "bench"})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, m.Close(context.Background())) })
	return m
}

func BenchmarkMemoryExecute(b *testing.B) {
	m := memoryBus(b)
	require.NoError(b, bus.Handle(b.Context(), m, add))
	b.Run("plain call", func(b *testing.B) {
		b.ReportAllocs()
		h := add
		for b.Loop() {
			if v, err := h(context.Background(), addCommand{A: 1, B: 2}); v != 3 || err != nil {
				b.Fatal(v, err)
			}
		}
	})
	b.Run("no deadline", func(b *testing.B) {
		b.ReportAllocs()
		ctx := context.Background()
		for b.Loop() {
			if v, err := bus.Execute(ctx, m, addCommand{A: 1, B: 2}); v != 3 || err != nil {
				b.Fatal(v, err)
			}
		}
	})
	b.Run("idempotency key", func(b *testing.B) {
		tr := memory.New(memory.Config{})
		m, err := bus.New(tr, bus.Config{Service: "bench", IdempotencyWindow: time.Second})
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, m.Close(context.Background())) })
		require.NoError(b, bus.Handle(b.Context(), m, add))
		b.ReportAllocs()
		ctx := context.Background()
		for n := 0; b.Loop(); n++ {
			if v, err := bus.Execute(ctx, m, addCommand{A: 1, B: 2}, bus.WithIdempotencyKey(strconv.Itoa(n))); v != 3 || err != nil {
				b.Fatal(v, err)
			}
		}
	})
	b.Run("circuit breaker", func(b *testing.B) {
		m, err := bus.New(memory.New(memory.Config{}), bus.Config{CommandBreaker: &resilience.Breaker{}})
		require.NoError(b, err)
		defer m.Close(context.Background())
		require.NoError(b, bus.Handle(b.Context(), m, add))
		b.ReportAllocs()
		ctx := context.Background()
		for b.Loop() {
			if v, err := bus.Execute(ctx, m, addCommand{A: 1, B: 2}); v != 3 || err != nil {
				b.Fatal(v, err)
			}
		}
	})
	b.Run("goroutine and channel", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c := make(chan int, 1)
			go func() {
				v, _ := add(context.Background(), addCommand{A: 1, B: 2})
				c <- v
			}()
			if v := <-c; v != 3 {
				b.Fatal(v)
			}
		}
	})
	b.Run("cancellable", func(b *testing.B) {
		b.ReportAllocs()
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		for b.Loop() {
			if v, err := bus.Execute(ctx, m, addCommand{A: 1, B: 2}); v != 3 || err != nil {
				b.Fatal(v, err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			ctx := context.Background()
			for pb.Next() {
				if v, err := bus.Execute(ctx, m, addCommand{A: 1, B: 2}); v != 3 || err != nil {
					b.Fatal(v, err)
				}
			}
		})
	})
}

func BenchmarkMemoryPublish(b *testing.B) {
	b.Run("plain channel", func(b *testing.B) {
		b.ReportAllocs()
		c, done := make(chan any, 10_000), make(chan struct{})
		var n atomic.Int64
		go func() {
			defer close(done)
			for range c {
				n.Add(1)
			}
		}()
		for b.Loop() {
			c <- world.UserCreated{ID: "1"}
		}
		close(c)
		<-done
	})
	for _, listeners := range []int{1, 10} {
		b.Run(map[int]string{1: "1 group", 10: "10 groups"}[listeners], func(b *testing.B) {
			b.ReportAllocs()
			m := memoryBus(b)
			var n atomic.Int64
			for i := range listeners {
				_, err := bus.Subscribe(b.Context(), m, func(context.Context, world.UserCreated) error {
					n.Add(1)
					return nil
				}, bus.WithGroup("g"+string(rune('a'+i))))
				require.NoError(b, err)
			}
			ctx := context.Background()
			sent := 0
			for b.Loop() {
				if err := bus.Publish(ctx, m, world.UserCreated{ID: "1"}); err != nil {
					b.Fatal(err)
				}
				sent++
			}
			for n.Load() < int64(sent*listeners) {
				// handled, not only published, is what is measured
			}
		})
	}
}
