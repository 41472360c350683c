package bus

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// Description says how a bus is put together: what its handlers are and what a
// message meets on its way to them. It is a copy. Its form as JSON is stable, and
// String prints it as a table.
type Description struct {
	// Service is Config.Service.
	Service string `json:"service,omitempty"`
	// Sending names the middleware that wraps Execute and Publish, outermost first,
	// as Link.Name does.
	Sending []string `json:"sending,omitempty"`
	// PublishFilter and ReceiveFilter name those of the Config, "" for none.
	PublishFilter string `json:"publish_filter,omitempty"`
	ReceiveFilter string `json:"receive_filter,omitempty"`
	// Retry is Config.Retry in words.
	Retry string `json:"retry"`
	// CommandBreaker is Config.CommandBreaker in words, "" for none.
	CommandBreaker string `json:"command_breaker,omitempty"`
	// Handlers are sorted by kind, name, group, priority (highest first, as they
	// run), handler and session.
	Handlers []HandlerDescription `json:"handlers"`
}

// HandlerDescription describes one handler of a command or listener of an event.
type HandlerDescription struct {
	Kind Kind `json:"kind"`
	// Name is the wire name, Type the Go type that the handler takes, such as
	// "main.UserCreated" or, for batches, "[]main.UserCreated".
	Name string `json:"name"`
	Type string `json:"type"`
	// Group and Handler are as in Meta: Group is "" for a command, and for a
	// private listener and one of a session.
	Group   string `json:"group,omitempty"`
	Handler string `json:"handler,omitempty"`
	// Private says that the listener gets a copy of its own of each event.
	Private bool `json:"private,omitempty"`
	// Session is whose the handler is, "" for one of the bus.
	Session string `json:"session,omitempty"`
	// Priority is a listener's. Concurrency is how many messages, or batches, the
	// handler handles at once in this process.
	Priority    int `json:"priority"`
	Concurrency int `json:"concurrency"`
	// Retry is the retry policy in words, "" for a command that is never retried,
	// Breaker the circuit breaker of its group, Batch what bounds the batches of
	// SubscribeBatch, and Queue what WithQueue says.
	Retry   string `json:"retry,omitempty"`
	Breaker string `json:"breaker,omitempty"`
	Batch   string `json:"batch,omitempty"`
	Queue   string `json:"queue,omitempty"`
	// Filters names the listener's own filters, which come after ReceiveFilter.
	Filters []string `json:"filters,omitempty"`
	// Chain is the receiving middleware, outermost first: that of Config.Receiving
	// and then the handler's own.
	Chain []Link `json:"chain,omitempty"`
	// Places is where the messages of this handler pass in the broker, such as the
	// subjects of NATS; empty if the transport has no such places.
	Places []string `json:"places,omitempty"`
}

// Link is a middleware of a chain.
type Link struct {
	// Name is that of the function that made it, or is it, such as
	// "middleware.Timeout" or "main.audit". It is for people: what the compiler calls
	// a function may depend on what it inlines.
	Name string `json:"name"`
	// Own says that it belongs to the handler alone.
	Own bool `json:"own,omitempty"`
}

// Describe describes the bus and every handler that takes messages now, those of
// the sessions that are open in this process too. It does not keep messages
// waiting.
func (b *Bus) Describe() Description {
	name := newFuncNames()
	d := Description{
		Service: b.cfg.Service, Sending: name.middleware(b.cfg.Sending),
		Retry: b.cfg.Retry.String(), Handlers: []HandlerDescription{},
	}
	if b.cfg.CommandBreaker != nil {
		d.CommandBreaker = b.cfg.CommandBreaker.String()
	}
	if f := b.cfg.PublishFilter; !f.isZero() {
		d.PublishFilter = name.filter(f)
	}
	if f := b.cfg.ReceiveFilter; !f.isZero() {
		d.ReceiveFilter = name.filter(f)
	}
	scopes := []*scope{b.root}
	for _, s := range b.sessions.all() {
		scopes = append(scopes, s.own)
	}
	for _, s := range scopes {
		for _, h := range s.handlers() {
			if h.live.Load() {
				d.Handlers = append(d.Handlers, h.describe(name))
			}
		}
		for _, l := range s.listening() {
			d.Handlers = append(d.Handlers, l.describe(s, name))
		}
	}
	slices.SortStableFunc(d.Handlers, func(x, y HandlerDescription) int {
		return cmp.Or(
			cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Group, y.Group),
			cmp.Compare(y.Priority, x.Priority), cmp.Compare(x.Handler, y.Handler), cmp.Compare(x.Session, y.Session),
		)
	})
	return d
}

// listening returns the listeners whose events are being read, in the order in
// which they were registered.
func (s *scope) listening() []*listener {
	s.mu.Lock()
	readers := slices.AppendSeq(slices.Collect(maps.Values(s.readers)), maps.Keys(s.privates))
	s.mu.Unlock()
	var ls []*listener
	for _, r := range readers {
		r.mu.Lock()
		if r.opened && !r.closing {
			ls = append(ls, r.listeners...)
		}
		r.mu.Unlock()
	}
	// What tells private listeners apart counts them.
	slices.SortFunc(ls, func(x, y *listener) int { return cmp.Compare(x.who.private, y.who.private) })
	return ls
}

func (h *commandHandler) describe(name *funcNames) HandlerDescription {
	b := h.scope.bus
	return HandlerDescription{
		Kind: KindCommand, Name: h.info.name, Type: h.goType.String(), Handler: h.who.handler, Session: h.scope.id(),
		Concurrency: h.slots.limit(), Retry: h.retryText(), Chain: name.chain(b.cfg.Receiving, h.own),
		Places: b.places(KindCommand, h.scope.address(h.info.name)),
	}
}

// retryText is the handler's policy in words, "" for none.
func (h *commandHandler) retryText() string {
	if h.retry == nil {
		return ""
	}
	return h.retry.String()
}

// registered is what a listener was registered with and does not need to run.
type registered struct {
	goType     reflect.Type
	middleware []Middleware // its own
	filters    []Filter     // its own
	breaker    *resilience.Breaker
	queue      *queueing
}

func (l *listener) describe(s *scope, name *funcNames) HandlerDescription {
	b := s.bus
	d := HandlerDescription{
		Kind: KindEvent, Name: l.who.name, Type: l.reg.goType.String(), Group: l.who.group, Handler: l.name,
		Private: l.who.private != "" && s.session == nil, Session: s.id(),
		Priority: l.priority, Concurrency: cap(l.slots), Retry: l.retry.String(),
		Chain: name.chain(b.cfg.Receiving, l.reg.middleware),
	}
	for _, f := range l.reg.filters {
		d.Filters = append(d.Filters, name.filter(f))
	}
	if l.reg.breaker != nil {
		d.Breaker = l.reg.breaker.String()
	}
	if l.reg.queue != nil {
		d.Queue = l.reg.queue.String()
	}
	if l.batch != nil {
		d.Type = "[]" + d.Type
		d.Batch = l.batch.String()
	}
	d.Places = b.places(KindEvent, l.readFrom(s)...)
	return d
}

// readFrom returns the addresses at which the transport is read for l.
func (l *listener) readFrom(s *scope) (at []transport.Address) {
	all := transport.Address{Session: s.id(), Name: l.who.name, Group: l.who.group}
	ids, ok := narrowed(slices.Concat(l.sieve.early, l.sieve.late))
	if !ok || all.Group != "" || all.Session != "" {
		return []transport.Address{all}
	}
	for _, id := range ids {
		at = append(at, transport.Address{Session: id, Name: all.Name})
	}
	return at
}

// places returns where the transport's broker has these addresses, if it can tell.
func (b *Bus) places(kind Kind, at ...transport.Address) (places []string) {
	l, ok := b.tr.(transport.Locator)
	if !ok {
		return nil
	}
	for _, a := range at {
		places = append(places, l.Locate(kind.String(), a)...)
	}
	return places
}

// String returns the bounds of the batches in words.
func (b *batching) String() string {
	return fmt.Sprintf("up to %d events or %s, or after %v", b.size, bytesText(b.bytes), b.linger)
}

// bytesText is a number of bytes in the largest unit of which it is whole.
func bytesText(n int) string {
	units := []string{"bytes", "KiB", "MiB", "GiB"}
	i := 0
	for n >= 1<<10 && n%(1<<10) == 0 && i < len(units)-1 {
		n, i = n>>10, i+1
	}
	return fmt.Sprintf("%d %s", n, units[i])
}
