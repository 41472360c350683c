package bus

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Stats is what a bus has counted in this process since New, as Bus.Stats returns
// it. It is a copy. Its form as JSON is stable.
type Stats struct {
	// Service is Config.Service, Time when the figures were read.
	Service string    `json:"service,omitempty"`
	Time    time.Time `json:"time"`

	// Totals are the sums of Sends and Handlers.
	Totals Totals `json:"totals"`
	// Sends has each message type that this bus has sent or has a handler of, by
	// kind and name.
	Sends []SendStats `json:"sends"`
	// Handlers has each handler that is or was registered here, by kind, name,
	// group and handler. Those of one key count together: a handler that was closed
	// and registered again, private listeners, and the handlers of sessions. Beyond
	// 1,000 keys further handlers count together by message, as group and handler
	// "other".
	Handlers []HandlerStats `json:"handlers"`
	// Sessions has the handlers of the sessions that are open here, each alone,
	// which Handlers has in its sums. It has 1,000 handlers at the most, those of
	// the oldest sessions; Session.Stats has those of any one.
	Sessions []SessionStats `json:"sessions,omitempty"`
	// OpenSessions is how many sessions are open here.
	OpenSessions int `json:"open_sessions"`
	// Breakers are the circuit breakers of this process, as Bus.Breakers has them.
	Breakers []BreakerStats `json:"breakers,omitempty"`
	// Queues has the bounded queues, by name: "publish", which is that of
	// PublishAsync, "rate" with AdaptiveRateLimit, and those of WithQueue. The ones
	// that are closed are one more of each name, without Session and Capacity, so that
	// no sum shrinks; so are those of sessions beyond 1,000.
	Queues []QueueStats `json:"queues"`
	// BackpressureActive says that backpressure is raised for one of them.
	BackpressureActive bool `json:"backpressure_active"`
}

// Totals are a bus's figures in all. An event counts as processed, or as failed,
// once for each run of each listener.
type Totals struct {
	// EventsPublished counts the events that are stored, the bus's own too, such as
	// SessionStarted; CommandsSent the calls of Execute that have returned, whatever
	// they returned.
	EventsPublished   uint64 `json:"events_published"`
	EventsProcessed   uint64 `json:"events_processed"`
	EventsFailed      uint64 `json:"events_failed"`
	CommandsSent      uint64 `json:"commands_sent"`
	CommandsProcessed uint64 `json:"commands_processed"`
	CommandsFailed    uint64 `json:"commands_failed"`
}

// SendStats counts the calls that send one message type.
type SendStats struct {
	Kind Kind `json:"kind"`
	// Name is the wire name; it is "" for what is no message, such as nil.
	Name string `json:"name"`
	// OK counts the events that are stored, and the commands whose Execute has
	// returned nil.
	OK uint64 `json:"ok"`
	// Filtered counts the events that a filter or a middleware of the sending side
	// kept back without an error.
	Filtered uint64 `json:"filtered,omitempty"`
	// Errors counts the calls that returned an error, by its code; "other" are the
	// codes that handlers have made up.
	Errors map[Code]uint64 `json:"errors,omitempty"`
}

// Failed is how many calls have returned an error.
func (s SendStats) Failed() (n uint64) {
	for _, v := range s.Errors {
		n += v
	}
	return n
}

// HandlerStats counts what a handler of a command or a listener of an event has
// done. For a batch handler each event of a batch counts.
type HandlerStats struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	// Group and Handler are as in Meta. Handler is "" for events that no listener of
	// the group could be given, such as those that cannot be decoded.
	Group   string `json:"group,omitempty"`
	Handler string `json:"handler,omitempty"`
	// Registered is how many handlers the figures are of that take messages now.
	Registered int `json:"registered"`

	// Executions counts the runs that have ended, Failures those with an error, and
	// Errors these by code; "other" are the codes that handlers have made up. A run
	// that Close cut short is no execution.
	Executions uint64          `json:"executions"`
	Failures   uint64          `json:"failures"`
	Errors     map[Code]uint64 `json:"errors,omitempty"`
	// ConsecutiveFailures counts the failures since the last success.
	ConsecutiveFailures uint64 `json:"consecutive_failures"`
	// LastError is the text of the last error, on one line and at most 256 bytes of
	// it, with its code and time.
	LastError     string    `json:"last_error,omitempty"`
	LastErrorCode Code      `json:"last_error_code,omitempty"`
	LastErrorAt   time.Time `json:"last_error_at,omitzero"`

	// InFlight is how many runs there are now. A batch is one.
	InFlight int `json:"in_flight"`
	// Retries counts the runs that failed and were put off, Retrying those of them
	// that are not due yet, up to 10,000. Who runs them when they are may be another
	// process.
	Retries  uint64 `json:"retries"`
	Retrying int    `json:"retrying"`
	// Redelivered counts the runs of events that the group had been handed before.
	Redelivered uint64 `json:"redelivered"`
	// DeadLettered counts the dead letters that are stored.
	DeadLettered uint64 `json:"dead_lettered"`
	// Uncaptured counts the failed commands whose dead letters were to be stored and
	// are not: they were half full, or refused it (see Capture).
	Uncaptured uint64 `json:"uncaptured,omitempty"`
	// Refused counts the messages that did not reach the handler because they cannot
	// be decoded, are invalid, or came too late; LastError may be of one.
	Refused uint64 `json:"refused"`
	// Filtered counts the events that a filter kept from the listener, Returned those
	// that went back to the group unrun or cut short.
	Filtered uint64 `json:"filtered"`
	Returned uint64 `json:"returned"`
}

// Processed is how many runs have succeeded.
func (h HandlerStats) Processed() uint64 { return h.Executions - h.Failures }

// SessionStats is what the handlers of one open session have done.
type SessionStats struct {
	// Session is its id, Opened when it was opened.
	Session  string         `json:"session"`
	Opened   time.Time      `json:"opened"`
	Handlers []HandlerStats `json:"handlers"`
}

// maxSessionStats bounds the handlers of Stats.Sessions.
const maxSessionStats = 1000

// Stats returns what the bus has counted. It does no I/O, keeps no message waiting,
// and works after Close. It goes through every handler and session of this process,
// so it is for people and for gauges, not for every message. Figures that are read
// while messages are under way may be of slightly different moments; each counter
// only grows.
//
// What processes share has calls of its own: DeadLetters.Stats, Bus.Sessions and
// Bus.Groups.
func (b *Bus) Stats() Stats {
	s := Stats{Service: b.cfg.Service, Time: time.Now(), Sends: b.types.sends(), Breakers: b.Breakers()}
	s.Queues, s.BackpressureActive = b.pressure.stats(), b.pressure.active()
	sums := map[*tally]*HandlerStats{}
	for key, t := range b.tallies.snapshot() {
		h := key.stats()
		t.add(&h)
		h.Retrying = t.waiting(s.Time)
		sums[t] = &h
	}
	open := b.sessions.all()
	s.OpenSessions = len(open)
	slices.SortFunc(open, func(x, y *Session) int {
		return cmp.Or(x.opened.Compare(y.opened), cmp.Compare(x.id, y.id))
	})
	room := maxSessionStats
	for _, sc := range append([]*scope{b.root}, scopesOf(open)...) {
		ms := sc.members()
		for _, m := range ms {
			if sum := sums[cmp.Or(m.tally.sum, m.tally)]; sum != nil { // else it has just come
				m.addTo(sum, s.Time)
			}
		}
		if sc.session != nil && len(ms) > 0 && len(ms) <= room {
			room -= len(ms)
			s.Sessions = append(s.Sessions, sc.session.stats(ms, s.Time))
		}
	}
	for _, h := range sums {
		s.Handlers = append(s.Handlers, *h)
	}
	sortHandlerStats(s.Handlers)
	s.total()
	return s
}

// Stats returns what the handlers of this session have done in this process. It is
// as Bus.Stats, and is empty once the session has ended.
func (s *Session) Stats() SessionStats { return s.stats(s.own.members(), time.Now()) }

func (s *Session) stats(ms []member, now time.Time) SessionStats {
	all := SessionStats{Session: s.id, Opened: s.opened, Handlers: []HandlerStats{}}
	for _, m := range ms {
		h := m.who.key().stats()
		m.tally.add(&h)
		m.addTo(&h, now)
		all.Handlers = append(all.Handlers, h)
	}
	sortHandlerStats(all.Handlers)
	return all
}

func (k tallyKey) stats() HandlerStats {
	return HandlerStats{Kind: k.kind, Name: k.name, Group: k.group, Handler: k.handler}
}

func sortHandlerStats(hs []HandlerStats) {
	slices.SortFunc(hs, func(x, y HandlerStats) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Group, y.Group), cmp.Compare(x.Handler, y.Handler))
	})
}

func (s *Stats) total() {
	t := &s.Totals
	for _, o := range s.Sends {
		if o.Kind == KindCommand {
			t.CommandsSent += o.OK + o.Failed()
		} else {
			t.EventsPublished += o.OK
		}
	}
	for _, h := range s.Handlers {
		if h.Kind == KindCommand {
			t.CommandsProcessed += h.Processed()
			t.CommandsFailed += h.Failures + h.Refused
		} else {
			t.EventsProcessed += h.Processed()
			t.EventsFailed += h.Failures + h.Refused
		}
	}
}

// member is a handler of a scope, as statistics see it.
type member struct {
	who   *identity
	tally *tally
	live  bool
	busy  int
}

// addTo adds what m is doing now.
func (m member) addTo(s *HandlerStats, now time.Time) {
	if m.live {
		s.Registered++
	}
	s.InFlight += m.busy
	if m.tally.sum != nil { // else the sum's own
		s.Retrying += m.tally.waiting(now)
	}
}

// members returns the handlers of the scope, and those that were closed and run
// something.
func (s *scope) members() []member {
	var ms []member
	for _, h := range s.handlers() {
		ms = append(ms, member{h.who, h.tally, h.live.Load(), h.slots.taken()})
	}
	s.mu.Lock()
	readers := slices.AppendSeq(slices.Collect(maps.Values(s.readers)), maps.Keys(s.privates))
	s.mu.Unlock()
	for _, r := range readers {
		r.mu.Lock()
		for _, l := range r.listeners {
			ms = append(ms, member{l.who, l.tally, r.opened && !r.closing, len(l.slots)})
		}
		for _, l := range r.leaving {
			if busy := len(l.slots); busy > 0 {
				ms = append(ms, member{l.who, l.tally, false, busy})
			}
		}
		r.mu.Unlock()
	}
	return ms
}

func scopesOf(open []*Session) (scopes []*scope) {
	for _, s := range open {
		scopes = append(scopes, s.own)
	}
	return scopes
}

// sends returns the counts of each type, by kind and name.
func (r *registry) sends() []SendStats {
	all := []SendStats{}
	for t, info := range *r.byType.Load() {
		if t == info.elem { // T and *T share one
			all = append(all, info.sends.stats(info.kind(), info.name))
		}
	}
	for _, kind := range []Kind{KindCommand, KindEvent} {
		if s := r.unnamed(kind).stats(kind, ""); s.Failed() > 0 {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(x, y SendStats) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name))
	})
	return all
}

func (t *typeInfo) kind() Kind {
	if t.command {
		return KindCommand
	}
	return KindEvent
}
