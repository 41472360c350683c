package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/tracing"
)

// spanLine is a span in the file of -trace, to which every process may append: the
// lines of one trace are those of one row. A shop would send its spans to a
// collector instead.
type spanLine struct {
	Trace    string        `json:"trace"`
	Span     string        `json:"span"`
	Parent   string        `json:"parent,omitempty"`
	Name     string        `json:"name"`
	Kind     string        `json:"kind"`
	Service  string        `json:"service"`
	Process  int           `json:"process"`
	Began    time.Time     `json:"began"`
	Took     time.Duration `json:"took_ns"`
	Problems string        `json:"problems,omitempty"`
}

// spanFile is a sdk.SpanExporter that appends to a file.
type spanFile struct {
	*os.File
	service string
}

// ExportSpans implements sdk.SpanExporter. A line is written with one call.
func (f spanFile) ExportSpans(_ context.Context, spans []sdk.ReadOnlySpan) error {
	for _, s := range spans {
		l := spanLine{
			Trace: s.SpanContext().TraceID().String(), Span: s.SpanContext().SpanID().String(),
			Name: s.Name(), Kind: s.SpanKind().String(), Service: f.service, Process: os.Getpid(),
			Began: s.StartTime(), Took: s.EndTime().Sub(s.StartTime()), Problems: s.Status().Description,
		}
		if s.Parent().IsValid() {
			l.Parent = s.Parent().SpanID().String()
		}
		text, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if _, err := f.Write(append(text, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// Shutdown implements sdk.SpanExporter.
func (f spanFile) Shutdown(context.Context) error { return f.Close() }

// traced returns cfg with spans of all that the bus does, if -trace asks for them,
// and a function to be called when the bus is closed.
func (p *program) traced(cfg bus.Config) (bus.Config, func() error, error) {
	if p.trace == "" {
		return cfg, func() error { return nil }, nil
	}
	file, err := os.OpenFile(p.trace, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return cfg, nil, err
	}
	// Each span is written as it ends: a worker may be killed.
	provider := sdk.NewTracerProvider(sdk.WithSyncer(spanFile{file, cfg.Service}))
	t := tracing.New(tracing.Config{TracerProvider: provider})
	return t.Instrument(cfg), func() error { return provider.Shutdown(context.Background()) }, nil
}
