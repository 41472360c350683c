package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/jitney-bus/jitney/bus"
)

// Receiving makes the spans of handlers, in whose context they run. Put it first,
// or use Instrument.
func (t *Tracing) Receiving() bus.Middleware {
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (v any, err error) {
			ctx, span := t.receive(ctx, m)
			defer func() {
				if err != nil {
					t.failed.add(m, span.SpanContext())
				}
				fail(span, err)
				span.End()
			}()
			err = errNoReturn
			return next(ctx, m)
		}
	}
}

// receive begins the span of a run.
func (t *Tracing) receive(ctx context.Context, m *bus.Message) (context.Context, trace.Span) {
	op := opConsume
	if m.Kind == bus.KindCommand {
		op = opServe
	}
	kv := handling(op.attributes(m.Name, m.ID, m.CorrelationID, m.Session), m.Group, m.Handler, m.Attempt)
	opts := []trace.SpanStartOption{trace.WithSpanKind(op.span)}
	if m.Events != nil {
		kv = append(kv, attribute.Int(attrBatch, len(m.Events)))
		opts = append(opts, trace.WithNewRoot(), trace.WithLinks(t.senders(m.Events)...))
		return t.tracer.Start(ctx, op.name+" "+m.Name, append(opts, trace.WithAttributes(kv...))...)
	}
	ctx = t.prop.Extract(ctx, carrier(m.Header))
	sender := trace.SpanContextFromContext(ctx)
	generation := 0
	if m.Kind == bus.KindEvent {
		meta, _ := bus.MetaFrom(ctx)
		generation = meta.Generation
	}
	if generation > 0 {
		kv = append(kv, attribute.Int(attrGeneration, generation))
	}
	if generation > 0 || t.links && m.Kind == bus.KindEvent {
		opts = append(opts, trace.WithNewRoot())
		if sender.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: sender}))
		}
	}
	if m.Attempt > 1 {
		if before := t.failed.take(m.ID, m.Group, m.Handler, m.Attempt-1); before.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: before}))
		}
	}
	return t.tracer.Start(ctx, op.name+" "+m.Name, append(opts, trace.WithAttributes(kv...))...)
}

// senders returns links to those who sent the events of a batch.
func (t *Tracing) senders(events []*bus.Message) (links []trace.Link) {
	for _, m := range events {
		sc := trace.SpanContextFromContext(t.prop.Extract(context.Background(), carrier(m.Header)))
		if sc.IsValid() {
			links = append(links, trace.Link{SpanContext: sc, Attributes: []attribute.KeyValue{attribute.String(attrMessage, m.ID)}})
		}
	}
	return links
}
