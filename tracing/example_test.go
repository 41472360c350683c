package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/tracing"
	"github.com/jitney-bus/jitney/transport/memory"
)

// PlaceOrder and OrderPlaced are what the examples send.
type PlaceOrder struct{ bus.Command[bus.None] }

func (PlaceOrder) MessageName() string { return "order.place" }

type OrderPlaced struct{}

func (OrderPlaced) MessageName() string { return "order.placed" }

// The exporter of a program sends spans to a collector; this one keeps them.
var exporter = tracetest.NewInMemoryExporter()

// printTree prints what was exported, each span below its parent.
func printTree(exporter *tracetest.InMemoryExporter) {
	spans := exporter.GetSpans()
	exporter.Reset()
	var below func(parent trace.SpanID, depth int)
	below = func(parent trace.SpanID, depth int) {
		for _, s := range spans {
			if s.Parent.SpanID() == parent {
				fmt.Printf("%s%s (%v)%s\n", strings.Repeat("  ", depth), s.Name, s.SpanKind, strings.Repeat(" <- linked", len(s.Links)))
				below(s.SpanContext.SpanID(), depth+1)
			}
		}
	}
	below(trace.SpanID{}, 0)
}

func Example() {
	ctx := context.Background()
	tr, provider := memory.New(memory.Config{}), sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	// doc:instrument
	t := tracing.New(tracing.Config{TracerProvider: provider}) // or nothing: the global one
	b, err := bus.New(tr, t.Instrument(bus.Config{Service: "shop"}))
	// doc:end
	must(err)
	must(bus.HandleNone(ctx, b, func(ctx context.Context, _ PlaceOrder) error {
		return bus.Publish(ctx, b, OrderPlaced{}) // with this ctx it is part of the trace
	}))
	shipped := make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(context.Context, OrderPlaced) error { close(shipped); return nil })
	must(err)

	must(bus.Do(ctx, b, PlaceOrder{}))
	<-shipped
	must(b.Close(ctx))
	printTree(exporter)
	// Output:
	// execute order.place (client)
	//   handle order.place (server)
	//     publish order.placed (producer)
	//       handle order.placed (consumer)
}

// A failure and what becomes of it.
func ExampleTracing_Observe() {
	ctx := context.Background()
	t := tracing.New(tracing.Config{TracerProvider: sdk.NewTracerProvider(sdk.WithSyncer(exporter))})
	dead := make(chan struct{})
	cfg := t.Instrument(bus.Config{Service: "shop"})
	cfg.Observers = append(cfg.Observers, func(r bus.Record) {
		if r.Stage == bus.StageDeadLettered {
			close(dead)
		}
	})
	b, err := bus.New(memory.New(memory.Config{}), cfg)
	must(err)
	_, err = bus.Subscribe(ctx, b, func(context.Context, OrderPlaced) error { return bus.Permanent(errors.New("no stock")) })
	must(err)
	must(bus.Publish(ctx, b, OrderPlaced{}))
	<-dead
	must(b.Close(ctx))
	printTree(exporter)
	// Output:
	// publish order.placed (producer)
	//   handle order.placed (consumer)
	//     dead-letter order.placed (client)
}

// With Links, events begin traces of their own; with Baggage, it travels too.
func ExampleConfig() {
	ctx := context.Background()
	t := tracing.New(tracing.Config{
		TracerProvider: sdk.NewTracerProvider(sdk.WithSyncer(exporter)),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		Links:          true,
	})
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service:   "shop",
		Sending:   []bus.Middleware{t.Sending()}, // what Instrument does
		Receiving: []bus.Middleware{t.Receiving()},
		Observers: []bus.Observer{t.Observe},
	})
	must(err)
	shipped := make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(context.Context, OrderPlaced) error { close(shipped); return nil })
	must(err)
	must(bus.Publish(ctx, b, OrderPlaced{}))
	<-shipped
	must(b.Close(ctx))
	printTree(exporter)
	// Unordered output:
	// publish order.placed (producer)
	// handle order.placed (consumer) <- linked
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
