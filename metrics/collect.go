package metrics

import (
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jitney-bus/jitney/bus"
)

// descs are the metrics that are read from the bus's statistics.
type descs struct {
	cfg Config
	all []*prometheus.Desc

	published, sent                 *prometheus.Desc
	rejected                        [2]*prometheus.Desc // of events, of commands
	filtered                        [2]*prometheus.Desc
	processed, failed, retried      [2]*prometheus.Desc
	redelivered, dead, returned     [2]*prometheus.Desc
	inFlight, retrying              [2]*prometheus.Desc
	queueSize, queueCap, active     *prometheus.Desc
	raised, dropped, queueRejected  *prometheus.Desc
	breaker, opened                 *prometheus.Desc
	registered, open, sessions      *prometheus.Desc
	deadSize, deadOldest, pollsLost *prometheus.Desc
	pending, unsettled, again       *prometheus.Desc
}

func newDescs(cfg Config) *descs {
	d := &descs{cfg: cfg}
	d.published = d.add("events_published_total", "Events that were stored, those of the bus itself included.", labelType)
	d.sent = d.add("commands_sent_total", "Calls of Execute that have returned, whatever they returned.", labelType)
	d.rejected[0] = d.add("events_rejected_total", "Events that were not stored, or may not be, by the code of the error.", labelType, labelReason)
	d.rejected[1] = d.add("command_errors_total", "Calls of Execute that returned an error, by its code.", labelType, labelReason)
	for i, kind := range kinds {
		what := kind.String() + "s"
		of := handlerNames(kind)
		d.processed[i] = d.add(what+"_processed_total", "Runs of a handler that succeeded.", of...)
		d.failed[i] = d.add(what+"_failed_total", "Runs of a handler that failed, by code, and messages that did not reach it (refused).", append(of, labelReason)...)
		d.retried[i] = d.add(what+"_retried_total", "Runs that failed and were put off to be made again.", of...)
		d.dead[i] = d.add(what+"_dead_lettered_total", "Dead letters that were stored.", of...)
		d.inFlight[i] = d.add(what+"_in_flight", "Runs of a handler there are now.", of...)
		d.retrying[i] = d.add(what+"_retrying", "Runs that failed here, were put off and are not due yet.", of...)
		if kind == bus.KindEvent {
			d.filtered[i] = d.add(what+"_filtered_total", "Events that a filter kept from a handler; without a handler, from being published.", of...)
			d.redelivered[i] = d.add(what+"_redelivered_total", "Runs for events that the group had been handed before.", of...)
			d.returned[i] = d.add(what+"_returned_total", "Events that went back to the group unrun or cut short.", of...)
		}
	}
	d.queueSize = d.add("queue_size", "Messages that wait in a bounded queue.", labelQueue)
	d.queueCap = d.add("queue_capacity", "Messages that a bounded queue holds.", labelQueue)
	d.active = d.add("backpressure_active", "Whether a bounded queue is so full that backpressure is raised (0 or 1).", labelQueue)
	d.raised = d.add("backpressure_raised_total", "How often backpressure was raised for a bounded queue.", labelQueue)
	d.dropped = d.add("queue_dropped_total", "Messages that a bounded queue dropped for others.", labelQueue)
	d.queueRejected = d.add("queue_rejected_total", "Messages that a bounded queue did not take, which their sender was told.", labelQueue)
	d.breaker = d.add("circuit_breaker_state", "How a circuit breaker stands: 0 closed, 1 open, 2 half-open.", labelKind, labelType, labelGroup)
	d.opened = d.add("circuit_breaker_opened_total", "How often a circuit breaker has opened.", labelKind, labelType, labelGroup)
	d.registered = d.add("registered_handlers", "Handlers that take messages now in this process.", labelKind)
	d.open = d.add("open_sessions", "Sessions that are open in this process.")
	d.sessions = d.add("active_sessions", "Sessions that are open in any process; the same in each, so aggregate with max.")
	d.deadSize = d.add("dead_letter_queue_size", "Dead letters of all processes; the same in each, so aggregate with max.")
	d.deadOldest = d.add("dead_letter_queue_oldest_seconds", "Age of the oldest dead letter, 0 if there is none; the same in each process, so aggregate with max.")
	d.pending = d.add("group_pending_events", "Events that no process of a group was handed yet: its lag; the same in each process, so aggregate with max.", labelType, labelGroup)
	d.unsettled = d.add("group_unsettled_events", "Events that a group has in hands, or that wait for a retry; the same in each process, so aggregate with max.", labelType, labelGroup)
	d.again = d.add("group_redelivered_events", "Events of these that were handed out more than once; the same in each process, so aggregate with max.", labelType, labelGroup)
	d.pollsLost = d.add("polls_failed_total", "Polls of what processes share that had no answer.", labelWhat)
	return d
}

func (d *descs) add(name, help string, labels ...string) *prometheus.Desc {
	desc := prometheus.NewDesc(prometheus.BuildFQName(d.cfg.Namespace, "", name), help, labels, d.cfg.ConstLabels)
	d.all = append(d.all, desc)
	return desc
}

var kinds = [...]bus.Kind{bus.KindEvent, bus.KindCommand}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.descs.all {
		ch <- d
	}
	for _, vec := range m.times.all() {
		vec.Describe(ch)
	}
}

// Collect implements prometheus.Collector. It does no I/O.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	s := samples{}
	stats := m.b.Stats()
	for i, kind := range kinds {
		m.collectSends(s, i, kind, stats.Sends)
		m.collectHandlers(s, i, kind, stats.Handlers)
	}
	m.collectQueues(s, stats.Queues)
	m.collectBreakers(s, stats.Breakers)
	s.gauge(m.descs.open, float64(stats.OpenSessions))
	m.polled.collect(s, m, stats.Time)
	s.send(ch)
	for _, vec := range m.times.all() {
		vec.Collect(ch)
	}
}

func (m *Metrics) collectSends(s samples, i int, kind bus.Kind, all []bus.SendStats) {
	d := m.descs
	for _, one := range all {
		if one.Kind != kind {
			continue
		}
		typ := m.types.of(typeKey{kind, one.Name}).name
		if kind == bus.KindEvent {
			s.count(d.published, one.OK, typ)
			if one.Filtered > 0 {
				s.count(d.filtered[i], one.Filtered, typ, "", "")
			}
		} else {
			s.count(d.sent, one.OK+one.Failed(), typ)
		}
		for code, n := range one.Errors {
			s.count(d.rejected[i], n, typ, string(code))
		}
	}
}

func (m *Metrics) collectHandlers(s samples, i int, kind bus.Kind, all []bus.HandlerStats) {
	d := m.descs
	registered := 0
	for _, h := range all {
		if h.Kind != kind {
			continue
		}
		registered += h.Registered
		of := m.handlers.of(bus.HandlerKey{Kind: h.Kind, Name: h.Name, Group: h.Group, Handler: h.Handler}).values()
		s.count(d.processed[i], h.Processed(), of...)
		for _, reason := range reasons {
			s.count(d.failed[i], 0, append(of, reason)...)
		}
		for code, n := range h.Errors {
			s.count(d.failed[i], n, append(of, string(code))...)
		}
		s.count(d.failed[i], h.Refused, append(of, refused)...)
		s.count(d.retried[i], h.Retries, of...)
		s.count(d.dead[i], h.DeadLettered, of...)
		s.gauge(d.inFlight[i], float64(h.InFlight), of...)
		s.gauge(d.retrying[i], float64(h.Retrying), of...)
		if kind == bus.KindEvent {
			s.count(d.filtered[i], h.Filtered, of...)
			s.count(d.redelivered[i], h.Redelivered, of...)
			s.count(d.returned[i], h.Returned, of...)
		}
	}
	s.gauge(d.registered, float64(registered), kind.String())
}

// samples are what one collection has found, by metric and label values. Keys that
// share their labels add up.
type samples map[*prometheus.Desc]map[string]*sample

type sample struct {
	kind   prometheus.ValueType
	value  float64
	labels []string
}

func (s samples) count(d *prometheus.Desc, n uint64, labels ...string) {
	s.at(d, prometheus.CounterValue, labels).value += float64(n)
}

func (s samples) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.at(d, prometheus.GaugeValue, labels).value += v
}

// largest is gauge for values of which a sum says nothing.
func (s samples) largest(d *prometheus.Desc, v float64, labels ...string) {
	at := s.at(d, prometheus.GaugeValue, labels)
	at.value = max(at.value, v)
}

func (s samples) at(d *prometheus.Desc, kind prometheus.ValueType, labels []string) *sample {
	key := strings.Join(labels, "\x00")
	if s[d] == nil {
		s[d] = map[string]*sample{}
	}
	at := s[d][key]
	if at == nil {
		at = &sample{kind: kind, labels: slices.Clone(labels)}
		s[d][key] = at
	}
	return at
}

func (s samples) send(ch chan<- prometheus.Metric) {
	for d, all := range s {
		for at := range maps.Values(all) {
			ch <- prometheus.MustNewConstMetric(d, at.kind, at.value, at.labels...)
		}
	}
}
