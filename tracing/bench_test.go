package tracing_test

import (
	"context"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/tracing"
	"github.com/jitney-bus/jitney/transport/memory"
)

type Ping struct{ bus.Command[bus.None] }

func (Ping) MessageName() string { return "bench.ping" }

// What tracing costs a command inside one process, where it costs most.
func BenchmarkExecute(b *testing.B) {
	pass := func(next bus.Func) bus.Func { return next }
	for _, c := range []struct {
		name string
		cfg  bus.Config
	}{
		{"without", bus.Config{}},
		{"empty_middleware", bus.Config{Sending: []bus.Middleware{pass}, Receiving: []bus.Middleware{pass}}},
		{"no_provider", tracing.New(tracing.Config{TracerProvider: noop.NewTracerProvider()}).Instrument(bus.Config{})},
		{"sampling_nothing", tracing.New(tracing.Config{TracerProvider: sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample()))}).Instrument(bus.Config{})},
		{"sampling_all", tracing.New(tracing.Config{TracerProvider: sdk.NewTracerProvider()}).Instrument(bus.Config{})},
	} {
		b.Run(c.name, func(b *testing.B) {
			ctx := context.Background()
			bs, err := bus.New(memory.New(memory.Config{}), c.cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer bs.Close(ctx)
			if err := bus.HandleNone(ctx, bs, func(context.Context, Ping) error { return nil }); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := bus.Do(ctx, bs, Ping{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
