package integration_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport/memory"
)

// What the journal costs, beside no observer and one that does nothing.
func BenchmarkJournal(b *testing.B) {
	nothing := []bus.Observer{func(bus.Record) {}}
	for _, c := range []struct {
		name string
		cfg  bus.Config
	}{
		{"off", bus.Config{}},
		{"observer that does nothing", bus.Config{Observers: nothing}},
		{"on", bus.Config{Journal: bus.JournalConfig{Size: 1000}}},
		{"with bodies", bus.Config{Journal: bus.JournalConfig{Size: 1000, Bodies: true}}},
	} {
		c.cfg.Service = "bench"
		m, err := bus.New(memory.New(memory.Config{}), c.cfg)
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, m.Close(context.Background())) })
		require.NoError(b, bus.Handle(b.Context(), m, add))
		ctx := context.Background()
		execute := func(b *testing.B) {
			if v, err := bus.Execute(ctx, m, addCommand{A: 1, B: 2}); v != 3 || err != nil {
				b.Fatal(v, err)
			}
		}
		b.Run("execute/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpuTime()
			for b.Loop() {
				execute(b)
			}
			b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
		})
		b.Run("execute in parallel/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpuTime()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					execute(b)
				}
			})
			b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
		})
		b.Run("publish/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpuTime()
			for b.Loop() {
				if err := bus.Publish(ctx, m, world.UserCreated{ID: "1"}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
		})
	}
}

func BenchmarkJournalQuery(b *testing.B) {
	m, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "bench", Journal: bus.JournalConfig{Size: 1000}})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, m.Close(context.Background())) })
	for range 1000 {
		require.NoError(b, bus.Publish(b.Context(), m, world.UserCreated{}))
	}
	for name, q := range map[string]bus.JournalQuery{"all": {}, "none": {ID: "unknown"}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Journal(q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
