package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// Config configures a Bus. The zero value works, except that durable
// subscriptions then need WithGroup.
type Config struct {
	// Service names the program, the same in each of its processes: [a-z0-9_-].
	// It is the default group of subscriptions and the owner of commands.
	// Processes of one service compete for its commands. Without a name a bus
	// owns its commands alone.
	Service string

	// Codec encodes what this bus sends. Default: the transport's if it has one,
	// else codec.JSON.
	Codec codec.Codec
	// Codecs are understood on receipt besides Codec and JSON.
	Codecs []codec.Codec

	// Logger gets failures (Error: something may be lost; Warn: degraded), start
	// and stop (Info) and single messages (Debug), never a body. Default: silent.
	Logger *slog.Logger

	// Errors are the handlers' errors that callers may recognise across
	// processes with errors.Is, by the name that travels, such as "user.exists".
	// Both ends register them.
	Errors map[string]error

	// Sending wraps every Execute and Publish of this bus, Receiving every run
	// of a handler. The first is outermost.
	Sending, Receiving []Middleware

	// PublishFilter says which events of this bus are published: it sees what the
	// sending chain has made of them. ReceiveFilter says which reach its
	// listeners, before the receiving chain. They have no say over commands.
	// Default: all.
	PublishFilter, ReceiveFilter Filter

	// Observers are told of each step of each message. Metrics, the journal and
	// test kits are made of them.
	Observers []Observer

	// Journal keeps the last steps in memory, for Bus.Journal. Default: none.
	Journal JournalConfig

	// Retry is when a failed event handler runs again. Default: 3 retries after
	// 100 ms, doubling up to 10 s, with full jitter.
	Retry resilience.Retry
	// CommandRetry is when a failed command handler runs again, while its caller
	// waits: see Handle. Its zero value has the defaults of resilience.Retry. Default:
	// nil, never, because only the handler's author knows whether it may.
	CommandRetry *resilience.Retry
	// Capture says which failed commands become dead letters. Default:
	// CaptureExhausted, those whose handler panicked or that their retry policy has
	// not mended.
	Capture Capture
	// Retries are the policies of single events and commands by their wire name,
	// instead of Retry and CommandRetry. A handler's own, of WithRetry, comes before
	// them. Default: none.
	Retries map[string]resilience.Retry

	// CommandBreaker makes Execute fail at once, with CodeOpen, while a command's
	// handlers fail: see Execute. Each command has a circuit breaker of its own in
	// this process. CommandBreakers replaces it for single commands, by wire name:
	// one with resilience.NeverOpens has none. Default: none, because how many
	// failures a command may have in a minute depends on how often it is sent.
	CommandBreaker  *resilience.Breaker
	CommandBreakers map[string]resilience.Breaker
	// EventBreaker makes each durable group pause an event in this process while
	// its handlers fail: see WithBreaker, which replaces it. Default: none.
	EventBreaker *resilience.Breaker
	// OnBreaker is told of each change of a circuit breaker of this process, in
	// order and one at a time, on a goroutine that waits for it. One that panics is
	// logged. BreakerChanged, the event, tells everybody.
	OnBreaker func(BreakerChanged)

	// ExecuteTimeout bounds an Execute whose ctx has no deadline. Default 30 s.
	// Where Execute runs the handler itself (see there) it bounds the handler's
	// ctx only.
	ExecuteTimeout time.Duration
	// PublishTimeout bounds a Publish whose ctx has no deadline. Default 10 s.
	PublishTimeout time.Duration
	// IdempotencyWindow is how long the success of a command with an idempotency key
	// is kept with its result, by the bus that handles it. The store has to hold what
	// succeeds in that time. Default 24 h, from 1 s to 365 days.
	IdempotencyWindow time.Duration
	// QueueSize is how many events of PublishAsync may wait to be sent. What happens
	// with more is Backpressure's to say. Default 10,000.
	QueueSize int
	// Backpressure says what happens when more is published than can be taken on,
	// and who hears of it. Default: PublishAsync waits for room.
	Backpressure Backpressure
	// BatchSize, BatchBytes and BatchTimeout say when what is queued is sent: when
	// so many events or bytes (bodies and headers; nothing on a transport that
	// keeps values in the process) have come together, or so long after the first.
	// No batch is larger, except for one event that is. Default 100, 1 MiB,
	// 100 ms.
	BatchSize, BatchBytes int
	BatchTimeout          time.Duration
	// AckWait is how long an event may stay with a process that does not answer
	// before another gets it. A running handler is kept alive. Default 30 s, at
	// least 1 s.
	AckWait time.Duration
	// MaxRun is the longest that an event handler may run; then its context is
	// cancelled with ErrMaxRun. Default 15 min.
	MaxRun time.Duration
	// SlowHandler is from when on a handler that still runs is told of in the log,
	// at Warn, once for each run and at most a quarter later. Default 10 s;
	// negative: never.
	SlowHandler time.Duration
	// MaxAckPending bounds the unsettled events of one group and name over all
	// processes. Default 10,000.
	MaxAckPending int
	// DrainDelay is how long Run goes on, taking work, after it has made the bus say
	// that it is not ready any more: as long as it takes those who send work to the
	// process to notice. Default: none. In Kubernetes, two periods of the readiness
	// probe are enough.
	DrainDelay time.Duration
	// CloseTimeout is how long Close waits for running handlers when its ctx has
	// no deadline, and how long Run waits. Default 10 s.
	CloseTimeout time.Duration
}

const (
	// defaultEventConcurrency and defaultCommandConcurrency are how many
	// messages one handler handles at once.
	defaultEventConcurrency   = 16
	defaultCommandConcurrency = 64
	maxConcurrency            = 10_000
	maxPrefetch               = 10_000

	// defaultBatchSize and defaultBatchBytes bound a batch, both ways.
	defaultBatchSize  = 100
	defaultBatchBytes = 1 << 20
)

func (c *Config) setDefaults(tr transport.Transport) {
	if c.Codec == nil {
		c.Codec = codec.JSON
		if t, ok := tr.(interface{ Codec() codec.Codec }); ok && t.Codec() != nil {
			c.Codec = t.Codec()
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.ExecuteTimeout, 30*time.Second)
	setDefault(&c.PublishTimeout, 10*time.Second)
	setDefault(&c.AckWait, 30*time.Second)
	setDefault(&c.MaxRun, 15*time.Minute)
	setDefault(&c.SlowHandler, defaultSlowHandler)
	setDefault(&c.CloseTimeout, 10*time.Second)
	setDefault(&c.BatchTimeout, 100*time.Millisecond)
	setDefault(&c.IdempotencyWindow, defaultIdempotencyWindow)
	setDefault(&c.MaxAckPending, 10_000)
	setDefault(&c.QueueSize, 10_000)
	setDefault(&c.BatchSize, defaultBatchSize)
	setDefault(&c.BatchBytes, defaultBatchBytes)
	c.Backpressure.setDefaults()
}

func setDefault[T int | time.Duration](d *T, v T) {
	if *d == 0 {
		*d = v
	}
}

// Validate reports every setting that breaks its rule, joined. New calls it.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Service != "" {
		if err := checkGroup(c.Service); err != nil {
			bad("Config.Service: %q is not 1 to %d characters of [a-z0-9_-]", c.Service, MaxGroupLen)
		}
	}
	for name, target := range c.Errors {
		if err := checkName(name); err != nil {
			bad("Config.Errors: %w", err)
		}
		if target == nil {
			bad("Config.Errors: %q is nil", name)
		}
	}
	for i, m := range c.Sending {
		if err := m.check(); err != nil {
			bad("Config.Sending[%d] %w", i, err)
		}
	}
	for i, m := range c.Receiving {
		if err := m.check(); err != nil {
			bad("Config.Receiving[%d] %w", i, err)
		}
	}
	for name, f := range map[string]Filter{"PublishFilter": c.PublishFilter, "ReceiveFilter": c.ReceiveFilter} {
		if f.isZero() {
			continue
		}
		if err := f.check(); err != nil {
			bad("Config.%s: %w", name, err)
		}
	}
	for i, o := range c.Observers {
		if o == nil {
			bad("Config.Observers[%d] is nil", i)
		}
	}
	c.Journal.check(bad)
	c.Backpressure.check(bad)
	if err := c.Retry.Validate(); err != nil {
		bad("Config.Retry: %w", err)
	}
	if err := c.Capture.check(); err != nil {
		bad("Config.Capture: %w", err)
	}
	if r := c.CommandRetry; r != nil {
		if err := r.Validate(); err != nil {
			bad("Config.CommandRetry: %w", err)
		}
	}
	for name, r := range c.Retries {
		if err := errors.Join(checkName(name), r.Validate()); err != nil {
			bad("Config.Retries[%q]: %w", name, err)
		}
	}
	c.checkBreakers(bad)
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"ExecuteTimeout", c.ExecuteTimeout}, {"PublishTimeout", c.PublishTimeout},
		{"AckWait", c.AckWait}, {"MaxRun", c.MaxRun}, {"CloseTimeout", c.CloseTimeout},
		{"BatchTimeout", c.BatchTimeout}, {"DrainDelay", c.DrainDelay}, {"IdempotencyWindow", c.IdempotencyWindow},
	} {
		if d.v < 0 {
			bad("Config.%s: %v is negative; 0 is the default", d.name, d.v)
		}
	}
	if c.AckWait > 0 && c.AckWait < time.Second {
		bad("Config.AckWait: %v is under 1s", c.AckWait)
	}
	if d := c.IdempotencyWindow; d > 0 && (d < minIdempotencyWindow || d > maxIdempotencyWindow) {
		bad("Config.IdempotencyWindow: %v is not between %v and 365 days", d, minIdempotencyWindow)
	}
	for _, n := range []struct {
		name string
		v    int
	}{
		{"MaxAckPending", c.MaxAckPending}, {"QueueSize", c.QueueSize},
		{"BatchSize", c.BatchSize}, {"BatchBytes", c.BatchBytes},
	} {
		if n.v < 0 {
			bad("Config.%s: %d is negative; 0 is the default", n.name, n.v)
		}
	}
	return errors.Join(errs...)
}
