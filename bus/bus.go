package bus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// Bus sends commands and events and runs their handlers. It is safe for
// concurrent use. Make one per process with New.
type Bus struct {
	tr       transport.Transport
	cfg      Config
	codecs   codec.Set
	log      *slog.Logger
	ids      *idSource
	types    *registry
	lease    *lease
	spare    spares
	root     *scope
	host     string
	sender   *asyncSender
	captured captureRoom // what failed commands may take of the dead letters
	pressure *pressure
	teller   *deadTeller
	// suspects holds one for the event that may be ending its processes.
	suspects chan struct{}
	idem     *idemWatches

	gate     gate
	sessions *sessions
	reaper   *reaper
	journal  *journal // nil without Config.Journal
	tallies  tallies
	slow     *slowWatch
	breakers *breakers

	epoch time.Time // of clock

	send Func // the sending chain down to the transport
	// inProcess: the transport keeps values in this process. short: besides,
	// no sending middleware has to see a command.
	inProcess, short bool
	// guards: commands may have circuit breakers.
	guards bool

	draining atomic.Bool   // by Drain or Close
	closed   atomic.Bool   // no new calls from outside handlers
	closeErr error         // set before done is closed
	done     chan struct{} // closed when Close has finished
}

// New returns a bus on tr, which it owns from then on: Close closes it. Handlers
// and subscriptions take effect as they are registered; there is nothing to
// start. The error, of CodeInvalid, joins every setting that breaks its rule;
// the transport then stays the caller's, to use again or to close.
func New(tr transport.Transport, cfg Config) (*Bus, error) {
	if tr == nil {
		return nil, errorf(CodeInvalid, "new", "", "transport is nil; open one with memory.New or nats.Open")
	}
	if err := cfg.Validate(); err != nil {
		return nil, errorf(CodeInvalid, "new", "", "%w", err)
	}
	cfg.setDefaults(tr)
	codecs, err := codec.NewSet(cfg.Codec, cfg.Codecs...)
	if err != nil {
		return nil, errorf(CodeInvalid, "new", "", "Config.Codecs: %w", err)
	}
	b := &Bus{
		tr: tr, cfg: cfg, codecs: codecs, log: cfg.Logger,
		epoch: time.Now(),
		ids:   newIDSource(), types: newRegistry(), done: make(chan struct{}), suspects: make(chan struct{}, 1),
	}
	if cfg.Service != "" {
		b.log = b.log.With("service", cfg.Service)
	}
	b.host, _ = os.Hostname() // best effort: it only labels dead letters
	if p, ok := tr.(transport.InProcess); ok {
		b.inProcess = p.InProcess()
	}
	if cfg.Journal.enabled() {
		b.journal = newJournal(cfg.Journal, codecs)
		// First, so that whoever another observer wakes finds the record there.
		b.cfg.Observers = append([]Observer{b.journal.add}, cfg.Observers...)
	}
	b.short = b.inProcess && len(cfg.Sending) == 0
	b.send = protect(chain(cfg.Sending, b.dispatch))
	b.pressure = newPressure(b)
	b.sender = newAsyncSender(b)
	b.captured.b = b
	b.teller = newDeadTeller(b)
	b.slow = newSlowWatch(b)
	b.lease = newLease(b)
	b.idem = newIdemWatches(tr.Store())
	b.root = newScope(b, context.Background(), nil)
	b.sessions = newSessions(b)
	b.reaper = newReaper(b)
	b.breakers = newBreakers(b)
	b.guards = cfg.CommandBreaker != nil || len(cfg.CommandBreakers) > 0
	b.log.Info("bus started")
	return b, nil
}

func (b *Bus) scope() *scope { return b.root }

// clock is for differences only. It costs half of time.Now.
func (b *Bus) clock() time.Duration { return time.Since(b.epoch) }

// now is the time for durations and deadlines of this process: time.Now also reads the
// wall clock, which takes twice as long.
func (b *Bus) now() time.Time { return b.epoch.Add(b.clock()) }

// Run blocks until ctx is cancelled and then closes the bus: it drains, goes on for
// Config.DrainDelay, and waits for running handlers up to Config.CloseTimeout. It
// returns Close's error.
func (b *Bus) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-b.done:
	}
	b.Drain()
	if b.cfg.DrainDelay > 0 {
		t := time.NewTimer(b.cfg.DrainDelay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-b.done:
		}
	}
	return b.Close(context.WithoutCancel(ctx))
}

// Close shuts the bus down without losing anything. It stops taking events and
// hands back those that no handler has started; waits for running event
// handlers, then stops taking commands from other processes and waits for running
// command handlers, with live contexts; stores what PublishAsync has queued; and
// closes the transport. When ctx ends (or after Config.CloseTimeout, if it has no
// deadline) it cancels the handlers that still run, with the cause ErrStopped; what
// they return then consumes no attempt. After one more second it gives up on those
// that ignored it and returns an error that names them. Storing what is queued,
// giving up what the process owns, closing the transport and Backpressure.OnChange
// get a second each besides, whatever ctx has left. What is queued and could not be
// stored is logged, and the error counts it.
//
// From when Close is called, Execute and Publish return ErrClosed, except inside
// handlers that are finishing: what they publish is stored, and what they execute
// runs, also on this bus, until no command runs. Every call of Close waits for
// the first one and returns its error. Called from a handler it cannot wait for
// that handler and will name it.
func (b *Bus) Close(ctx context.Context) error {
	b.Drain()
	if b.closed.Swap(true) {
		select {
		case <-b.done:
			return b.closeErr
		case <-ctx.Done():
			return errorf(CodeTimeout, "close", "", "still closing: %w", ctx.Err())
		}
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.cfg.CloseTimeout)
		defer cancel()
	}
	b.log.Info("bus closing")
	stuck := b.root.close(ctx, b.sessions.close)
	unsent := b.sender.close(ctx)
	b.slow.close()

	// What is left needs a moment even when ctx has been used up, and each its own.
	var err error
	for _, last := range []func(context.Context){
		b.teller.close,
		b.breakers.announcer.close,
		b.reaper.close,
		b.idem.close,
		b.lease.close,
		func(ctx context.Context) { err = b.tr.Close(ctx) },
		b.pressure.close,
	} {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		last(ctx)
		cancel()
	}
	if errors.Is(err, transport.ErrClosed) {
		err = nil
	}
	if err != nil {
		err = fromTransport("close", "", "", err)
	}
	b.closeErr = errors.Join(stuck, unsent, err)
	b.log.Info("bus closed", "err", b.closeErr)
	close(b.done)
	return b.closeErr
}

// open reports whether ctx may send: always until Close, and while Close waits
// inside handlers that are finishing.
func (b *Bus) open(ctx context.Context, op, name string) error {
	if !b.closed.Load() {
		return nil
	}
	if callFrom(ctx) != nil {
		select {
		case <-b.done:
		default:
			return nil
		}
	}
	return errorf(CodeClosed, op, name, "%w", ErrClosed)
}

// encode returns the body and content type of a message, or the value itself if
// the transport takes it as it is.
func (b *Bus) encode(op, name string, v any, m *transport.Message) error {
	if b.inProcess {
		m.Value = v
		return nil
	}
	return b.encodeWith(b.cfg.Codec, op, name, v, m)
}

func (b *Bus) encodeWith(c codec.Codec, op, name string, v any, m *transport.Message) error {
	body, err := codec.Encode(c, v)
	if err != nil {
		return errorf(CodeInvalid, op, name, "%w", err)
	}
	m.Body = body
	if ct := c.ContentType(); ct != codec.JSON.ContentType() {
		m.ContentType = ct
	}
	return nil
}

// decode fills v from a body. Its error is of CodeInvalid and names the message.
func (b *Bus) decode(name, contentType string, body []byte, v any) error {
	c, err := b.codecs.Lookup(contentType)
	if err == nil {
		err = codec.Decode(c, body, v)
	}
	if err != nil {
		return errorf(CodeInvalid, "decode", name, "%w", err)
	}
	return nil
}
