package main

import (
	"fmt"
	"io"
	"sync"
	"text/tabwriter"

	"github.com/jitney-bus/jitney/metrics"
)

// sightings is what the metrics were while the shop was open.
type sightings struct {
	mu    sync.Mutex
	last  metrics.Report
	least map[string]float64 // of gauges
	most  map[string]float64
}

// names are those that have a meaning of their own in docs and dashboards.
var names = []string{
	"events_published_total", "events_processed_total", "events_failed_total",
	"commands_sent_total", "commands_processed_total", "commands_failed_total",
	"event_processing_duration_seconds", "command_processing_duration_seconds",
	"queue_size", "backpressure_active", "circuit_breaker_state",
	"dead_letter_queue_size", "active_sessions", "registered_handlers",
}

func (s *sightings) look(r metrics.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.least == nil {
		s.least, s.most = map[string]float64{}, map[string]float64{}
	}
	for name, g := range r.Gauges {
		if _, ok := s.least[name]; !ok {
			s.least[name], s.most[name] = g.Value, g.Value
		}
		s.least[name] = min(s.least[name], g.Value)
		s.most[name] = max(s.most[name], g.Value)
	}
	s.last = r
}

func (s *sightings) print(out io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	moved := 0
	for _, name := range names {
		if c, ok := s.last.Counters[name]; ok {
			fmt.Fprintf(w, "%s\t%.0f\n", name, c.Value)
			moved += count(c.Value > 0)
		}
		if h, ok := s.last.Histograms[name]; ok {
			p := h.Percentiles
			fmt.Fprintf(w, "%s\t%d, p50 %.2g s, p95 %.2g s, p99 %.2g s\n", name, h.Count, p["p50"], p["p95"], p["p99"])
			moved += count(h.Count > 0)
		}
		if _, ok := s.last.Gauges[name]; ok {
			fmt.Fprintf(w, "%s\t%.0f to %.0f\n", name, s.least[name], s.most[name])
			moved += count(s.least[name] < s.most[name])
		}
	}
	_ = w.Flush() // to where the lines below go
	fmt.Fprintf(out, "%d of %d metrics moved\n", moved, len(names))
}

func count(ok bool) int {
	if ok {
		return 1
	}
	return 0
}
