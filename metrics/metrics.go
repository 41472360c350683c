package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/jitney-bus/jitney/bus"
)

// Metrics shows one bus. It is a prometheus.Collector, and safe for concurrent use.
type Metrics struct {
	b   *bus.Bus
	cfg Config
	own *prometheus.Registry // has this alone

	descs    *descs
	handlers *bounded[bus.HandlerKey, handlerLabels]
	types    *bounded[typeKey, typeKey]
	queues   *bounded[string, string]
	groups   *bounded[groupKey, groupKey]
	times    times
	polled   polled

	reg     prometheus.Registerer // nil without one
	unmeter func()
	stop    context.CancelFunc
	wg      sync.WaitGroup // the poller
	once    sync.Once
}

// Register makes the metrics of b and registers them with reg, which may be nil: then
// only Handler, Snapshot and the caller of Collect see them. It starts to measure and
// to poll, until Close. The series of a handler are there, at zero, from when it is
// registered with the bus.
//
// The error is that of Config.Validate, or reg's: two buses on one registry need
// different Config.ConstLabels, or Namespaces.
func Register(reg prometheus.Registerer, b *bus.Bus, cfg Config) (*Metrics, error) {
	if b == nil {
		return nil, errors.New("metrics: bus is nil")
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	m := newMetrics(b, cfg)
	if reg != nil {
		if err := reg.Register(m); err != nil {
			return nil, fmt.Errorf("metrics: register: %w", err)
		}
		m.reg = reg
	}
	m.unmeter = b.Measure(meter{m})
	if m.cfg.PollInterval > 0 {
		var ctx context.Context
		ctx, m.stop = context.WithCancel(context.Background())
		m.wg.Go(func() { m.poll(ctx) })
	}
	return m, nil
}

// newMetrics makes the metrics of a bus, which measure and poll nothing.
func newMetrics(b *bus.Bus, cfg Config) *Metrics {
	cfg.setDefaults()
	m := &Metrics{
		b: b, cfg: cfg, own: prometheus.NewRegistry(),
		descs: newDescs(cfg), times: newTimes(cfg),
		handlers: boundedHandlers(cfg.MaxHandlers), types: boundedTypes(cfg.MaxHandlers), queues: boundedNames(cfg.MaxHandlers),
		groups: boundedGroups(cfg.MaxHandlers),
	}
	m.own.MustRegister(m) // alone it cannot be refused
	return m
}

// Close ends measuring and polling, and unregisters the metrics. Call it before the
// bus is closed, or after; a bus that is closed is polled no more. A second Close
// does nothing.
func (m *Metrics) Close() {
	m.once.Do(func() {
		if m.reg != nil {
			m.reg.Unregister(m)
		}
		m.unmeter()
		if m.stop != nil {
			m.stop()
		}
		m.wg.Wait()
	})
}

// Handler serves these metrics, and no others, in the formats of Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.own, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// meter implements bus.Meter.
type meter struct{ m *Metrics }

// Handler implements bus.Meter.
func (t meter) Handler(key bus.HandlerKey) bus.Timings {
	labels := t.m.handlers.of(key).values()
	to := func(vec *prometheus.HistogramVec) func(time.Duration) {
		h := vec.WithLabelValues(labels...)
		return func(d time.Duration) { h.Observe(d.Seconds()) }
	}
	if key.Kind == bus.KindCommand {
		return bus.Timings{Run: to(t.m.times.commands)}
	}
	timings := bus.Timings{Run: to(t.m.times.events)}
	if key.Group != "" {
		timings.Lag, timings.Dwell = to(t.m.times.lag), to(t.m.times.dwell)
	}
	return timings
}

// times has the histograms.
type times struct {
	events, commands, lag, dwell *prometheus.HistogramVec
}

const (
	firstBucket = 50e-6
	lastBucket  = 60
	buckets     = 20
	// nativeFactor makes a quantile that is taken from native buckets right to 5 %,
	// and maxNative has room for all from 50 µs to 60 s at that.
	nativeFactor = 1.1
	maxNative    = 240
)

func newTimes(cfg Config) times {
	vec := func(kind bus.Kind, name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: cfg.Namespace, Name: name, Help: help, ConstLabels: cfg.ConstLabels,
			Buckets:                         prometheus.ExponentialBucketsRange(firstBucket, lastBucket, buckets),
			NativeHistogramBucketFactor:     nativeFactor,
			NativeHistogramMaxBucketNumber:  maxNative,
			NativeHistogramMinResetDuration: time.Hour,
		}, handlerNames(kind))
	}
	return times{
		events:   vec(bus.KindEvent, "event_processing_duration_seconds", "How long an event handler ran, middleware included; a batch is one run."),
		commands: vec(bus.KindCommand, "command_processing_duration_seconds", "How long a command handler ran, middleware included."),
		lag:      vec(bus.KindEvent, "event_lag_seconds", "How long after it was published, or was due, an event was taken for its first run."),
		dwell:    vec(bus.KindEvent, "event_dwell_seconds", "How long after it was published, or was due, a handler was done with an event, retries included."),
	}
}

func (t times) all() []*prometheus.HistogramVec {
	return []*prometheus.HistogramVec{t.events, t.commands, t.lag, t.dwell}
}

// handlerNames are the names of a handler's labels.
func handlerNames(kind bus.Kind) []string {
	if kind == bus.KindCommand {
		return []string{labelType, labelHandler}
	}
	return []string{labelType, labelGroup, labelHandler}
}
