package bus

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/resilience"
)

// BreakerStats is how one circuit breaker of this bus stands.
type BreakerStats struct {
	// Kind is KindCommand for one before the commands that this bus sends, and
	// KindEvent for one before the event handlers of a group.
	Kind Kind `json:"kind"`
	// Name is the wire name of the command or event, Group the event's group.
	Name  string `json:"name"`
	Group string `json:"group,omitempty"`
	// State is how it stands, and Since since when.
	State resilience.BreakerState `json:"state"`
	Since time.Time               `json:"since"`
	// Remaining is how long an open one stays so. Afterwards it is half-open.
	Remaining time.Duration `json:"remaining_ns"`
	// Failures are those that count, of a closed one, and Successes the probes that
	// succeeded, of a half-open one.
	Failures  int `json:"failures"`
	Successes int `json:"successes"`
	// Opened is how often it has opened, and Refused how many commands it has
	// refused, since the bus was made.
	Opened  int64 `json:"opened"`
	Refused int64 `json:"refused"`
}

// Breakers tells how the circuit breakers of this bus stand, by kind, name and
// group: one for each command that was sent with Config.CommandBreaker, and one for
// each group and event that is read with Config.EventBreaker or WithBreaker. Other
// processes have their own. It asks nobody, and is cheap enough for a gauge.
func (b *Bus) Breakers() []BreakerStats {
	all := b.breakers.list()
	stats := make([]BreakerStats, len(all))
	for i, g := range all {
		stats[i] = BreakerStats{Kind: g.kind, Name: g.name, Group: g.group}
		g.fill(&stats[i])
	}
	slices.SortFunc(stats, func(x, y BreakerStats) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Group, y.Group))
	})
	return stats
}

// breakers is the circuits of a bus.
type breakers struct {
	b         *Bus
	announcer *announcer

	making sync.Mutex // of command guards

	mu  sync.Mutex
	all map[*guard]struct{}
}

// guard is the circuit before one command, or before one group's handlers of one
// event.
type guard struct {
	*circuit
	kind        Kind
	name, group string
	moved       func() // told of each change first; nil if nobody needs it
}

func newBreakers(b *Bus) *breakers {
	return &breakers{b: b, announcer: newAnnouncer(b), all: map[*guard]struct{}{}}
}

func (bs *breakers) list() []*guard {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	all := make([]*guard, 0, len(bs.all))
	for g := range bs.all {
		all = append(all, g)
	}
	return all
}

// add makes the circuit of g.
func (bs *breakers) add(g *guard, policy resilience.Breaker) {
	g.circuit = newCircuit(policy, func(c change) { bs.changed(g, c) })
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.all[g] = struct{}{}
}

func (bs *breakers) remove(g *guard) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	delete(bs.all, g)
}

// changed tells of a change.
func (bs *breakers) changed(g *guard, c change) {
	if g.moved != nil {
		g.moved()
	}
	bs.log(g, c)
	bs.announcer.announce(BreakerChanged{
		Kind: g.kind, Name: g.name, Group: g.group, From: c.from, To: c.to, Failures: c.failures,
		Service: bs.b.cfg.Service, Host: bs.b.host, Time: c.at, Until: c.until,
	})
}

func (bs *breakers) log(g *guard, c change) {
	defer func() { _ = recover() }() // of the user's logger: whoever runs here must go on
	log := bs.b.log.With("kind", g.kind, "name", g.name, "group", g.group)
	switch c.to {
	case resilience.BreakerOpen:
		what := "circuit opened; commands fail at once"
		if g.kind == KindEvent {
			what = "circuit opened; its events wait"
		}
		log.Warn(what, "failures", c.failures, "until", c.until)
	case resilience.BreakerHalfOpen:
		log.Info("circuit half-open")
	default:
		log.Info("circuit closed")
	}
}
