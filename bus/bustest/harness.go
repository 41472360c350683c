package bustest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// Harness is a broker with the processes around it, which are buses, and a record
// of everything that they send and handle. Make it with New or Run. Its methods
// are safe for concurrent use, but those that may fail the test at once belong on
// the test's goroutine, as t.Fatal does; each says so.
type Harness struct {
	// Bus is the first process of the test, of service "test" unless WithConfig
	// says otherwise. It is closed when the test ends.
	Bus *bus.Bus

	t      testing.TB
	set    settings
	bubble bool // time is fake
	began  time.Time
	marks  *mark

	told    atomic.Bool // the timeline was printed
	ledger  *ledger
	journal *journal
	faults  *faults

	mu        sync.Mutex
	processes []*process
	buses     []member // in the order made
	stubs     *bus.Bus // answers what Stub registers; nil before the first
	routines  map[*routine]struct{}
	alarms    []alarm        // that are still to be published
	closers   []func() error // after every process, the last first
}

// member is a bus that the harness made, with its transport.
type member struct {
	bus     *bus.Bus
	process *process
}

// New returns a harness on the memory driver, with bodies encoded and decoded as
// they would be on a network. When the test ends, in t.Cleanup, it waits until
// everything is handled, closes the buses that it made, and fails the test for:
//
//   - an event handler's error or panic that nothing accounts for: no query (see
//     Query), no scripted fault, no AllowFailures. The error of a command is its
//     caller's to judge; a panic in its handler counts all the same;
//   - an event that could not be decoded, or was refused by its Validate;
//   - an error of Close, and a bus made with Transport that nobody closed;
//   - a scripted fault that never happened;
//   - a goroutine that was started under the test's and is still there.
//
// New marks the calling goroutine with a runtime/pprof label, which the goroutines
// that it starts inherit: that is how the leaked ones of this test are told from
// those of tests beside it. Two harnesses in one test are looked at together.
//
// If the test has failed, by an assertion of this package or of any other, the
// timeline is printed.
func New(t testing.TB, opts ...Option) *Harness {
	t.Helper()
	h := &Harness{
		t: t, bubble: inBubble(), began: time.Now(), marks: markGoroutine(t),
		ledger: newLedger(), routines: map[*routine]struct{}{},
	}
	t.Cleanup(h.finish)
	for _, o := range opts {
		o(&h.set)
	}
	h.journal = newJournal(h.began)
	codecs, err := codec.NewSet(cmp.Or(h.set.config.Codec, codec.JSON), h.set.config.Codecs...)
	if err != nil {
		t.Fatalf("bustest: WithConfig: %v", err)
	}
	h.faults = newFaults(h.journal, codecs)
	if h.set.open == nil {
		m := newMemory()
		h.closers = append(h.closers, func() error { return m.Close(context.Background()) })
		h.set.open = func(context.Context) (transport.Transport, error) { return shared{m}, nil }
	}
	if !h.set.noBus {
		c := h.set.config
		if c.Service == "" {
			c.Service = "test"
		}
		h.Bus = h.NewBus(c)
	}
	return h
}

// inBubble reports whether the calling goroutine is in a bubble of fake time.
func inBubble() (yes bool) {
	defer func() { yes = recover() == nil }()
	synctest.Wait() // panics outside
	return true
}

// NewBus starts one more process: a bus on the harness's broker, which is closed
// when the test ends unless the test has done so. Call it from the test's
// goroutine.
func (h *Harness) NewBus(cfg bus.Config) *bus.Bus {
	h.t.Helper()
	p := h.process()
	b, err := bus.New(p, h.Join(cfg))
	if err != nil {
		_ = p.Close(h.t.Context())
		h.t.Fatalf("bustest: new bus: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buses = append(h.buses, member{b, p})
	return b
}

// Transport returns the transport of one more process, for a bus that the code
// under test makes and closes:
//
//	b, err := bus.New(h.Transport(), h.Join(cfg))
//
// Each bus needs one of its own. Call it from the test's goroutine.
func (h *Harness) Transport() transport.Transport {
	h.t.Helper()
	return h.process()
}

func (h *Harness) process() *process {
	h.t.Helper()
	tr, err := h.set.open(h.t.Context())
	if err != nil {
		h.t.Fatalf("bustest: open the transport: %v", err)
	}
	p := newProcess(h, tr)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes = append(h.processes, p)
	return p
}

// Join returns cfg with what the harness needs to see: an observer and middleware
// that come first, and a middleware for scripted faults last in Receiving.
func (h *Harness) Join(cfg bus.Config) bus.Config {
	cfg.Observers = append([]bus.Observer{h.observe}, cfg.Observers...)
	cfg.Sending = append([]bus.Middleware{h.sending}, cfg.Sending...)
	cfg.Receiving = slices.Concat([]bus.Middleware{h.receiving}, cfg.Receiving, []bus.Middleware{h.faults.handling})
	return cfg
}

func (h *Harness) observe(r bus.Record) {
	e := h.journal.observe(r)
	if e.sending() && e.Kind == bus.KindEvent {
		h.ledger.sent(e.meta.ID)
		if e.Name == deadLettered {
			h.alarmed()
		}
	}
}

// sending counts the events that are about to be published.
func (h *Harness) sending(next bus.Func) bus.Func {
	return func(ctx context.Context, m *bus.Message) (any, error) {
		if m.Kind == bus.KindEvent {
			h.ledger.send(m.ID, m.Name)
		}
		return next(ctx, m)
	}
}

// receiving counts the handlers that run.
func (h *Harness) receiving(next bus.Func) bus.Func {
	return func(ctx context.Context, m *bus.Message) (any, error) {
		h.marks.apply()
		h.journal.begin(m)
		defer h.ledger.begin(m.Name + " runs in " + handlerName(m.Kind, m.Group, m.Handler))()
		return next(ctx, m)
	}
}

// handlerName is how people are told of a handler.
func handlerName(kind bus.Kind, group, handler string) string {
	switch {
	case kind == bus.KindCommand && handler == "":
		return "a service without a name"
	case kind == bus.KindCommand:
		return handler
	case group == "":
		return "private/" + handler
	default:
		return group + "/" + handler
	}
}
