package tracing

import (
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/jitney-bus/jitney/bus"
)

// scope is the name of the instrumentation.
const scope = "github.com/jitney-bus/jitney/tracing"

// Config configures a Tracing. The zero value works.
type Config struct {
	// TracerProvider makes the spans. Default: otel.GetTracerProvider().
	TracerProvider trace.TracerProvider
	// Propagator writes the context of a span into the headers of a message and
	// reads it there. Default: propagation.TraceContext{}, the W3C's, with the
	// headers traceparent and tracestate. Baggage is opt-in, since it goes to
	// everybody who reads the message:
	//
	//	propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	Propagator propagation.TextMapPropagator
	// Links makes the handling of each event a trace of its own, which links to the
	// sender's. Default: it is part of the sender's trace.
	Links bool
}

// Tracing makes spans for any number of buses. It is safe for concurrent use, and
// needs no closing.
type Tracing struct {
	tracer trace.Tracer
	prop   propagation.TextMapPropagator
	links  bool
	failed failedRuns
}

// New returns a Tracing.
func New(c Config) *Tracing {
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.Propagator == nil {
		c.Propagator = propagation.TraceContext{}
	}
	return &Tracing{tracer: c.TracerProvider.Tracer(scope), prop: c.Propagator, links: c.Links}
}

// Instrument returns cfg with the middleware outermost on both chains, so that a
// span covers all that other middleware does, and with the observer.
func (t *Tracing) Instrument(cfg bus.Config) bus.Config {
	cfg.Sending = slices.Concat([]bus.Middleware{t.Sending()}, cfg.Sending)
	cfg.Receiving = slices.Concat([]bus.Middleware{t.Receiving()}, cfg.Receiving)
	cfg.Observers = slices.Concat(cfg.Observers, []bus.Observer{t.Observe})
	return cfg
}
