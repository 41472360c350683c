package tracing

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/jitney-bus/jitney/bus"
)

// Observe makes the spans of what the chains do not see: that a queued event is
// stored, that a run is made again, and that it became a dead letter. It is a
// bus.Observer; Instrument installs it.
func (t *Tracing) Observe(r bus.Record) {
	switch r.Stage {
	case bus.StageSent:
		if r.Queued {
			t.stored(r)
		}
	case bus.StageRetrying:
		t.settle(opRetry, r)
	case bus.StageDeadLettered:
		t.settle(opDeadLetter, r)
	}
}

// settle makes the span of what becomes of a failed run: a child of the run's, or of
// the sender's where there was no run.
func (t *Tracing) settle(op operation, r bus.Record) {
	m := r.Meta()
	ctx := context.Background()
	if run := t.failed.get(m.ID, m.Group, m.Handler, m.Attempt); run.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, run)
	} else {
		ctx = t.prop.Extract(ctx, carrier(m.Headers()))
	}
	kv := handling(op.attributes(r.Name, m.ID, m.CorrelationID, m.Session), m.Group, m.Handler, m.Attempt)
	if op == opRetry {
		kv = append(kv, attribute.Int64(attrDelay, r.Delay.Milliseconds()))
	} else {
		t.failed.take(m.ID, m.Group, m.Handler, m.Attempt)
	}
	_, span := t.tracer.Start(ctx, op.name+" "+r.Name, trace.WithSpanKind(op.span), trace.WithAttributes(kv...))
	fail(span, r.Err)
	span.End()
}

// maxFailed bounds the runs that are remembered.
const maxFailed = 4096

// failedRuns remembers the spans of runs that failed, for what becomes of them. It
// is bounded: what it has forgotten has the sender's span in its place.
type failedRuns struct {
	mu   sync.Mutex
	runs map[failedRun]trace.SpanContext
}

type failedRun struct {
	id, group, handler string
	attempt            int
}

// add remembers the run of a message, or of each event of a batch.
func (f *failedRuns) add(m *bus.Message, sc trace.SpanContext) {
	if !sc.IsValid() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.runs == nil {
		f.runs = map[failedRun]trace.SpanContext{}
	}
	if m.Events == nil {
		f.put(m, sc)
	}
	for _, e := range m.Events {
		f.put(e, sc)
	}
}

// put remembers one, in the place of any other if there are too many. f.mu is held.
func (f *failedRuns) put(m *bus.Message, sc trace.SpanContext) {
	if len(f.runs) >= maxFailed {
		for k := range f.runs {
			delete(f.runs, k)
			break
		}
	}
	f.runs[failedRun{m.ID, m.Group, m.Handler, m.Attempt}] = sc
}

func (f *failedRuns) get(id, group, handler string, attempt int) trace.SpanContext {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runs[failedRun{id, group, handler, attempt}]
}

// take returns one and forgets it.
func (f *failedRuns) take(id, group, handler string, attempt int) trace.SpanContext {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := failedRun{id, group, handler, attempt}
	sc := f.runs[k]
	delete(f.runs, k)
	return sc
}
