package integration_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/metrics"
)

// What measuring adds to a command and to an event, in one run with the same
// without.
func BenchmarkMemoryMetrics(b *testing.B) {
	for _, with := range []string{"without", "with"} {
		measured := func(b *testing.B) *bus.Bus {
			m := memoryBus(b)
			if with == "with" {
				all, err := metrics.Register(nil, m, metrics.Config{})
				require.NoError(b, err)
				b.Cleanup(all.Close)
			}
			return m
		}
		b.Run("execute/"+with, func(b *testing.B) {
			b.ReportAllocs()
			m := measured(b)
			require.NoError(b, bus.Handle(b.Context(), m, add))
			ctx := context.Background()
			for b.Loop() {
				if v, err := bus.Execute(ctx, m, addCommand{A: 1, B: 2}); v != 3 || err != nil {
					b.Fatal(v, err)
				}
			}
		})
		b.Run("publish/"+with, func(b *testing.B) {
			b.ReportAllocs()
			m := measured(b)
			var n atomic.Int64
			_, err := bus.Subscribe(b.Context(), m, func(context.Context, world.UserCreated) error { n.Add(1); return nil })
			require.NoError(b, err)
			ctx, sent := context.Background(), int64(0)
			for b.Loop() {
				if err := bus.Publish(ctx, m, world.UserCreated{ID: "1"}); err != nil {
					b.Fatal(err)
				}
				sent++
			}
			for n.Load() < sent {
				// handled, not only published, is what is measured
			}
		})
	}
}
