package metrics

import "github.com/jitney-bus/jitney/bus"

// collectQueues tells of the bounded queues. Those of one name, such as a listener's
// in several sessions, add up.
func (m *Metrics) collectQueues(s samples, all []bus.QueueStats) {
	d := m.descs
	for _, q := range all {
		name := m.queues.of(q.Queue)
		s.gauge(d.queueSize, float64(q.Size), name)
		s.gauge(d.queueCap, float64(q.Capacity), name)
		active := 0.0
		if q.Active {
			active = 1
		}
		s.largest(d.active, active, name)
		s.count(d.raised, q.Hits, name)
		s.count(d.dropped, q.Dropped, name)
		s.count(d.queueRejected, q.Rejected, name)
	}
}

// collectBreakers tells how the circuit breakers stand. resilience says which number
// a state has.
func (m *Metrics) collectBreakers(s samples, all []bus.BreakerStats) {
	d := m.descs
	for _, b := range all {
		typ := m.types.of(typeKey{b.Kind, b.Name}).name
		group := b.Group
		if typ == other {
			group = other
		}
		s.largest(d.breaker, b.State.Gauge(), b.Kind.String(), typ, group)
		s.count(d.opened, uint64(b.Opened), b.Kind.String(), typ, group)
	}
}
