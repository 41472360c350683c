package metrics

import (
	"maps"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/jitney-bus/jitney/bus"
)

// Report is all metrics of a bus as data, by their names without Config.Namespace.
// Its form as JSON is stable.
type Report struct {
	Counters   map[string]Value     `json:"counters"`
	Histograms map[string]Histogram `json:"histograms"`
	Gauges     map[string]Value     `json:"gauges"`
}

// Value is a counter or a gauge.
type Value struct {
	// Value is the sum of Series; of backpressure_active and circuit_breaker_state,
	// the largest.
	Value       float64  `json:"value"`
	Description string   `json:"description"`
	Series      []Series `json:"series"`
}

// Series is a value with its labels; labels that are empty are left out.
type Series struct {
	Labels map[string]string `json:"labels,omitempty"`
	Value  float64           `json:"value"`
}

// Histogram is how often and how long, in seconds.
type Histogram struct {
	Distribution
	Description string               `json:"description"`
	Series      []DistributionSeries `json:"series"`
}

// DistributionSeries is a distribution with its labels.
type DistributionSeries struct {
	Labels map[string]string `json:"labels,omitempty"`
	Distribution
}

// Distribution is how some times are spread.
type Distribution struct {
	Count uint64  `json:"count"`
	Sum   float64 `json:"sum"`
	// Percentiles has p50, p95 and p99, right to 5 %.
	Percentiles map[string]float64 `json:"percentiles"`
	// Buckets counts those that are not above a bound; above the last there are the
	// rest of Count.
	Buckets []Bucket `json:"buckets"`
}

// Bucket is how many are not above a bound.
type Bucket struct {
	LE    float64 `json:"le"`
	Count uint64  `json:"count"`
}

// Snapshot returns the metrics of b now. It does no I/O and works on a closed bus too.
//
// Durations, and what processes share, are there only if Register was called for b
// and its metrics are not closed; of several, the oldest tell.
func Snapshot(b *bus.Bus) Report { return metricsOf(b).report() }

// metricsOf returns those that are registered for b, or some that only count.
func metricsOf(b *bus.Bus) *Metrics {
	for _, m := range b.Meters() {
		if m, ok := m.(meter); ok {
			return m.m
		}
	}
	return newMetrics(b, Config{})
}

// largest are the gauges of which a sum says nothing.
var largest = map[string]bool{"backpressure_active": true, "circuit_breaker_state": true}

func (m *Metrics) report() Report {
	s := Report{Counters: map[string]Value{}, Histograms: map[string]Histogram{}, Gauges: map[string]Value{}}
	families, err := m.own.Gather()
	if err != nil { // what it could gather is there all the same
		m.cfg.Logger.Warn("metrics are not complete", "err", err)
	}
	for _, f := range families {
		name := f.GetName()
		if m.cfg.Namespace != "" {
			name = strings.TrimPrefix(name, m.cfg.Namespace+"_")
		}
		switch f.GetType() {
		case dto.MetricType_COUNTER:
			s.Counters[name] = valueOf(name, f)
		case dto.MetricType_GAUGE:
			s.Gauges[name] = valueOf(name, f)
		case dto.MetricType_HISTOGRAM:
			s.Histograms[name] = histogramOf(f)
		}
	}
	return s
}

func valueOf(name string, f *dto.MetricFamily) Value {
	v := Value{Description: f.GetHelp(), Series: []Series{}}
	for _, m := range f.GetMetric() {
		one := m.GetCounter().GetValue() + m.GetGauge().GetValue() // it has one of them
		if largest[name] {
			v.Value = max(v.Value, one)
		} else {
			v.Value += one
		}
		v.Series = append(v.Series, Series{labelsOf(m), one})
	}
	return v
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		if l.GetValue() != "" {
			labels[l.GetName()] = l.GetValue()
		}
	}
	return labels
}

func histogramOf(f *dto.MetricFamily) Histogram {
	h := Histogram{Description: f.GetHelp(), Series: []DistributionSeries{}}
	var sum native
	buckets := map[float64]uint64{}
	for i, m := range f.GetMetric() {
		n := nativeOf(m.GetHistogram())
		one := distribution(m.GetHistogram(), n)
		h.Count += one.Count
		h.Sum += one.Sum
		for _, b := range one.Buckets {
			buckets[b.LE] += b.Count
		}
		if i == 0 {
			sum = n
		} else {
			sum = sum.merge(n)
		}
		h.Series = append(h.Series, DistributionSeries{labelsOf(m), one})
	}
	h.Percentiles = sum.percentiles()
	for _, le := range slices.Sorted(maps.Keys(buckets)) {
		h.Buckets = append(h.Buckets, Bucket{le, buckets[le]})
	}
	return h
}

func distribution(h *dto.Histogram, n native) Distribution {
	d := Distribution{Count: h.GetSampleCount(), Sum: h.GetSampleSum(), Percentiles: n.percentiles()}
	for _, b := range h.GetBucket() {
		d.Buckets = append(d.Buckets, Bucket{b.GetUpperBound(), b.GetCumulativeCount()})
	}
	return d
}

func (n native) percentiles() map[string]float64 {
	return map[string]float64{"p50": n.quantile(0.5), "p95": n.quantile(0.95), "p99": n.quantile(0.99)}
}
