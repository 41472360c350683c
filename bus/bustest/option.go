package bustest

import (
	"context"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Option is an option of New and Run.
type Option func(*settings)

type settings struct {
	config        bus.Config
	noBus         bool
	timeout       time.Duration // 0: see Harness.Wait
	open          func(context.Context) (transport.Transport, error)
	allowFailures bool
	allowPending  bool
	ignored       []string // functions whose goroutines are no leaks
}

// WithConfig is the configuration of Harness.Bus. Its Service is "test" if it has
// none.
func WithConfig(c bus.Config) Option {
	return func(s *settings) { s.config = c }
}

// WithoutBus leaves Harness.Bus nil, for a test whose own code makes every bus
// with Harness.Transport.
func WithoutBus() Option {
	return func(s *settings) { s.noBus = true }
}

// WithDriver runs the harness on a driver of your choice instead of memory. open
// is called once for each process of the test, and what it returns is closed with
// that process: a driver that keeps all messages in one value returns a view of it
// whose Close does nothing. The broker behind it is the test's own and begins
// empty: what it remembers of other tests, such as an id that is published again,
// is not known to the harness. Package natstest has the driver for NATS.
func WithDriver(open func(ctx context.Context) (transport.Transport, error)) Option {
	return func(s *settings) { s.open = open }
}

// WithTimeout is how long Wait, and every assertion, waits until the harness is
// quiet before it fails the test. Default one minute, less if go test -timeout
// ends sooner, and a day in a bubble of fake time, where it costs nothing.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) { s.timeout = d }
}

// AllowFailures keeps handlers that failed from failing the test when it ends.
// Prefer Query.Allow, which names whose failures are meant.
func AllowFailures() Option {
	return func(s *settings) { s.allowFailures = true }
}

// AllowPending lets the test end while events or commands are on their way: it is
// not waited for them.
func AllowPending() Option {
	return func(s *settings) { s.allowPending = true }
}

// IgnoreGoroutines says which goroutines are no leaks: those that have one of
// these functions on their stack, such as "database/sql.(*DB).connectionOpener".
// What a library starts once for the whole process needs it.
func IgnoreGoroutines(functions ...string) Option {
	return func(s *settings) { s.ignored = append(s.ignored, functions...) }
}

// shared lets the processes of a harness use one memory transport, as they would
// one broker.
type shared struct{ *memory.Transport }

func (shared) Close(context.Context) error { return nil }

// newMemory is the broker of a harness without WithDriver.
func newMemory() *memory.Transport {
	return memory.New(memory.Config{Codec: codec.JSON, MaxHistory: 10_000})
}
