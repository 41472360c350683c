package bus

import (
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// ExecuteOption is an option of Execute and Do.
type ExecuteOption interface{ execute(*executeOptions) }

// PublishOption is an option of Publish.
type PublishOption interface{ publish(*publishOptions) }

// SendOption is an option of Execute, Do and Publish.
type SendOption interface {
	ExecuteOption
	PublishOption
}

// HandleOption is an option of Handle and HandleNone.
type HandleOption interface{ handle(*handleOptions) }

// SubscribeOption is an option of Subscribe.
type SubscribeOption interface{ subscribe(*subscribeOptions) }

// BatchOption is an option of SubscribeBatch.
type BatchOption interface{ batch(*subscribeOptions) }

// ListenOption is an option of Subscribe and SubscribeBatch.
type ListenOption interface {
	SubscribeOption
	BatchOption
}

// RegisterOption is an option of Handle, HandleNone, Subscribe and SubscribeBatch.
type RegisterOption interface {
	HandleOption
	ListenOption
}

type sendOptions struct {
	id      string
	hasID   bool
	header  Header
	headers int // values in header
	timeout time.Duration
	errs    []error
}

type executeOptions struct {
	sendOptions
	receipt    *Receipt
	key        string // of idempotency
	idempotent bool   // the id is the key
}

type publishOptions struct {
	sendOptions
	key   string
	delay time.Duration
	at    time.Time
}

type handleOptions struct {
	concurrency int
	middleware  []Middleware
	retry       *resilience.Retry
	capture     *Capture
	errs        []error
}

type subscribeOptions struct {
	handleOptions
	group    string
	private  bool
	name     string
	priority int
	start    transport.Start
	filters  []Filter
	batch    *batching // of SubscribeBatch
	queue    *queueing
	breaker  *resilience.Breaker
	prefetch int // 0 is the default
}

func (o *sendOptions) bad(format string, args ...any) {
	o.errs = append(o.errs, fmt.Errorf(format, args...))
}

func (o *handleOptions) bad(format string, args ...any) {
	o.errs = append(o.errs, fmt.Errorf(format, args...))
}

func invalidOptions(op, name string, errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return errorf(CodeInvalid, op, name, "%w", errors.Join(errs...))
}

type sendOption func(*sendOptions)

func (f sendOption) execute(o *executeOptions) { f(&o.sendOptions) }
func (f sendOption) publish(o *publishOptions) { f(&o.sendOptions) }

type executeOption func(*executeOptions)

func (f executeOption) execute(o *executeOptions) { f(o) }

type publishOption func(*publishOptions)

func (f publishOption) publish(o *publishOptions) { f(o) }

type registerOption func(*handleOptions)

func (f registerOption) handle(o *handleOptions)       { f(o) }
func (f registerOption) subscribe(o *subscribeOptions) { f(&o.handleOptions) }
func (f registerOption) batch(o *subscribeOptions)     { f(&o.handleOptions) }

type handleOption func(*handleOptions)

func (f handleOption) handle(o *handleOptions) { f(o) }

type subscribeOption func(*subscribeOptions)

func (f subscribeOption) subscribe(o *subscribeOptions) { f(o) }

type listenOption func(*subscribeOptions)

func (f listenOption) subscribe(o *subscribeOptions) { f(o) }
func (f listenOption) batch(o *subscribeOptions)     { f(o) }

type batchOption func(*subscribeOptions)

func (f batchOption) batch(o *subscribeOptions) { f(o) }

// maxIDLen bounds a message id, in bytes.
const maxIDLen = 128

// WithID sets the message's id instead of a generated one: 1 to 128 visible
// ASCII characters. Publishing an event again with the same id within the dedup
// window (2 minutes by default) stores it once. A command's id identifies it to
// its handler, in MetaFrom; it does not stop it from running twice.
func WithID(id string) SendOption {
	return sendOption(func(o *sendOptions) {
		if id == "" || len(id) > maxIDLen {
			o.bad("id %q is not 1 to %d characters", id, maxIDLen)
		}
		for i := range len(id) {
			if id[i] <= ' ' || id[i] >= 0x7f {
				o.bad("id %q has other than visible ASCII characters", id)
				break
			}
		}
		o.id, o.hasID = id, true
	})
}

// WithHeader adds a header that travels with the message; handlers read it with
// Meta.Header. Keys are visible ASCII, case-sensitive and without the prefixes
// "Nats-" and "Jitney-"; values are text without control characters, up to
// 4 KiB; a message has at most 64 values. Adding a key twice sends both values.
func WithHeader(key, value string) SendOption {
	return sendOption(func(o *sendOptions) {
		if err := checkHeader(key, value); err != nil {
			o.errs = append(o.errs, err)
		}
		if o.header == nil {
			o.header = Header{}
		}
		o.header.Add(key, value)
		if o.headers++; o.headers == maxHeaders+1 {
			o.bad("more than %d header values", maxHeaders)
		}
	})
}

// WithTimeout ends the call after d at the latest. An earlier deadline of ctx
// holds.
func WithTimeout(d time.Duration) SendOption {
	return sendOption(func(o *sendOptions) {
		if d <= 0 {
			o.bad("timeout %v is not positive", d)
		}
		o.timeout = d
	})
}

// WithKey orders events: those of one key published through one bus are stored
// one after the other. Handlers that need that order run with WithConcurrency(1).
func WithKey(key string) PublishOption {
	return publishOption(func(o *publishOptions) {
		if err := checkHeader("Key", key); err != nil {
			o.bad("key %q: use text of up to %d bytes without control characters", key, maxHeaderValue)
		}
		o.key = key
	})
}

// WithDelay delivers the event after d, never before, and up to about a quarter
// of a second late. Zero and less is now. The time it is due is in 2261 at the
// latest: what drivers store times in ends in 2262.
func WithDelay(d time.Duration) PublishOption {
	return publishOption(func(o *publishOptions) { o.delay = d })
}

// WithAt delivers the event at t, like WithDelay. A time that has passed is now.
func WithAt(t time.Time) PublishOption {
	return publishOption(func(o *publishOptions) { o.at = t })
}

// Receipt is what an Execute that succeeded can tell beside its result.
type Receipt struct {
	// ID is the command's id.
	ID string
	// Elapsed is the time from the call to the result.
	Elapsed time.Duration
	// Service is the service whose handler answered, "" if it has no name.
	Service string
	// Repeated says that the result is that of an earlier run, or of another
	// caller's, under the same idempotency key.
	Repeated bool
}

// WithReceipt fills r in when Execute succeeds.
func WithReceipt(r *Receipt) ExecuteOption {
	return executeOption(func(o *executeOptions) {
		if r == nil {
			o.bad("receipt is nil")
		}
		o.receipt = r
	})
}

// WithConcurrency is how many messages the handler handles at once in this
// process, from 1 to 10,000. Default 64 for a command and 16 for an event. For
// SubscribeBatch it is how many batches, by default 1. It is the handler's bulkhead:
// one that hangs or is slow fills its own, and takes nothing from the others.
func WithConcurrency(n int) RegisterOption {
	return registerOption(func(o *handleOptions) {
		if n < 1 || n > maxConcurrency {
			o.bad("concurrency %d is not between 1 and %d", n, maxConcurrency)
		}
		o.concurrency = n
	})
}

// WithMiddleware wraps this handler, inside the middleware of Config.Receiving.
// The first is outermost.
func WithMiddleware(ms ...Middleware) RegisterOption {
	return registerOption(func(o *handleOptions) {
		for i, m := range ms {
			if err := m.check(); err != nil {
				o.bad("middleware %d %w", i, err)
			}
		}
		o.middleware = append(o.middleware, ms...)
	})
}

// WithGroup subscribes in a durable group of that name instead of the service's:
// [a-z0-9_-]. Each group gets every event once; members of a group compete.
func WithGroup(group string) ListenOption {
	return listenOption(func(o *subscribeOptions) {
		if err := checkGroup(group); err != nil {
			o.errs = append(o.errs, err)
		}
		o.group = group
	})
}

// WithPrivate subscribes this handler alone, for as long as it lives: every
// process gets its own copy of each event published meanwhile (broadcast).
// Retries wait in this process, at most 1,000 at a time, and end with it.
func WithPrivate() ListenOption {
	return listenOption(func(o *subscribeOptions) { o.private = true })
}

// WithQueue is for a private or a session listener that may be slower than what it
// listens for: up to size events, from 1 to a million, wait for it in this process.
// When there are more, DropOldest drops the one that has waited longest, RejectNew
// the new one, and Meta.Missed of the next event says how many the listener has
// missed. With Block no more is taken from the transport: NATS keeps it in the event
// stream, transport/memory keeps 10,000 events more (memory.Config.MaxPrivate) and
// then drops the oldest. No publisher is slowed, so AdaptiveRateLimit is refused; so
// is a durable group, which loses nothing.
//
// Each listener of a session that has a queue gets its events by itself: WithPriority
// and StopPropagation have no effect between it and the others.
func WithQueue(size int, s Strategy) ListenOption {
	return listenOption(func(o *subscribeOptions) {
		if size < 1 || size > maxListenQueue {
			o.bad("queue of %d events: it must hold 1 to %d", size, maxListenQueue)
		}
		if s > RejectNew {
			o.bad("queue with %v: use Block, DropOldest or RejectNew, a listener cannot slow its publishers", s)
		}
		o.queue = &queueing{size, s}
	})
}

// WithPrefetch is how many events of its group this process may hold beyond those
// that run, from 1 to 10,000. Default twice WithConcurrency, and with SubscribeBatch
// a batch for each that runs, 10,000 at most. What is held here no other process of
// the group can handle, so raise it only where handlers are done in microseconds and
// would wait for the broker: over NATS a handler that does nothing takes a third
// longer by default than with 500, and more than four times as long with one worker.
// The memory driver holds none.
//
// The group's first handler in the process sets it: from another it is refused with
// CodeConflict, and from a private or session listener, which is in no group, with
// CodeInvalid.
func WithPrefetch(n int) ListenOption {
	return listenOption(func(o *subscribeOptions) {
		if n < 1 || n > maxPrefetch {
			o.bad("prefetch %d is not between 1 and %d", n, maxPrefetch)
		}
		o.prefetch = n
	})
}

// WithName names the handler within its group: [a-z0-9_-]. The second handler of
// one event in one durable group needs it, because retries and dead letters are
// addressed by it. Default "default".
func WithName(name string) ListenOption {
	return listenOption(func(o *subscribeOptions) {
		if err := checkGroup(name); err != nil {
			o.bad("handler name %q is not 1 to %d characters of [a-z0-9_-]", name, MaxGroupLen)
		}
		o.name = name
	})
}

// Priorities for WithPriority. Any number between the lowest and the highest is
// one too.
const (
	PriorityLowest  = 0
	PriorityLow     = 10
	PriorityNormal  = 50 // the default
	PriorityHigh    = 100
	PriorityHighest = 1000
)

// WithPriority orders the handlers of one event in one group, or in one session:
// higher first, equal ones side by side. From PriorityLowest (0) to
// PriorityHighest (1000), default PriorityNormal (50). A handler that fails does
// not keep the later ones from running, unless it returns StopPropagation.
func WithPriority(n int) SubscribeOption {
	return subscribeOption(func(o *subscribeOptions) {
		if n < PriorityLowest || n > PriorityHighest {
			o.bad("priority %d is not between %d and %d", n, PriorityLowest, PriorityHighest)
		}
		o.priority = n
	})
}

// Start is where a group that does not exist yet begins. The zero value is at
// events published from then on.
type Start struct{ start transport.Start }

// All starts with the oldest event that is stored.
func All() Start { return Start{transport.Start{All: true}} }

// Since starts with the first event stored at or after t.
func Since(t time.Time) Start { return Start{transport.Start{Since: t}} }

// WithStart says where the group begins if it does not exist yet: All(),
// Since(t), or by default with events published from then on. It has no effect
// on a group that exists, and a private subscription refuses it.
func WithStart(s Start) ListenOption {
	return listenOption(func(o *subscribeOptions) { o.start = s.start })
}

// WithRetry is this handler's retry policy instead of those of Config.Retries, and of
// Config.Retry or Config.CommandRetry. A command is retried where it runs, while its
// caller waits: see Handle.
func WithRetry(r resilience.Retry) RegisterOption {
	return registerOption(func(o *handleOptions) {
		if err := r.Validate(); err != nil {
			o.bad("retry: %w", err)
		}
		o.retry = &r
	})
}

// WithBreaker is this group's circuit breaker for the event instead of
// Config.EventBreaker; the zero Breaker has the defaults, and one that NeverOpens is
// none. The handlers of a group share one, in each process: give them all the same.
//
// When deliveries fail (5 different events within 60 s), the group pauses in this
// process: what no handler has started goes back to the group, and nothing is
// fetched, so that no attempts are used up. Other processes of the group go on. After
// the recovery time one event at a time is handled, until three in a row succeed and
// everything goes on, or one fails and the pause begins anew; that attempt counts.
//
// A delivery fails when one of its handlers does, and a batch when none of its events
// succeeds. An error that is the event's fault counts neither way: Permanent, what the
// retry policy calls final, and CodeInvalid. Neither does one of a context that was cancelled. An event that fails
// again and again counts once.
//
// Private and session listeners have none: their events would not wait.
func WithBreaker(b resilience.Breaker) ListenOption {
	return listenOption(func(o *subscribeOptions) {
		if err := b.Validate(); err != nil {
			o.errs = append(o.errs, err)
		}
		o.breaker = &b
	})
}
