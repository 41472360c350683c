package tracing

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/jitney-bus/jitney/bus"
)

// errNoReturn is the outcome of a chain that panicked or ended its goroutine.
var errNoReturn = errors.New("did not return")

// Sending makes the spans of what is sent, and writes their context into the
// message. Put it first, or use Instrument.
func (t *Tracing) Sending() bus.Middleware {
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (v any, err error) {
			op := opPublish
			switch {
			case m.Kind == bus.KindCommand:
				op = opExecute
			case m.Queued():
				op = opCreate
			}
			ctx, span := t.tracer.Start(ctx, op.name+" "+m.Name, trace.WithSpanKind(op.span),
				trace.WithAttributes(op.attributes(m.Name, m.ID, m.CorrelationID, m.Session)...))
			defer func() {
				fail(span, err)
				span.End()
			}()
			t.prop.Inject(ctx, carrier(m.Header))
			err = errNoReturn
			return next(ctx, m)
		}
	}
}

// stored makes the span of an event that was queued and has its result.
func (t *Tracing) stored(r bus.Record) {
	m := r.Meta()
	now := time.Now()
	_, span := t.tracer.Start(t.prop.Extract(context.Background(), carrier(m.Headers())), opStore.name+" "+r.Name,
		trace.WithSpanKind(opStore.span), trace.WithTimestamp(now.Add(-r.Elapsed)),
		trace.WithAttributes(opStore.attributes(r.Name, m.ID, m.CorrelationID, m.Session)...))
	fail(span, r.Err)
	span.End(trace.WithTimestamp(now))
}
