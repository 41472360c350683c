package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Transport is the NATS JetStream driver. Open makes one. Its methods are safe
// for concurrent use.
type Transport struct {
	cfg   Config
	set   explicit
	names names
	log   *slog.Logger
	link  *link
	win   *window
	calls *caller
	store *store
	dead  transport.DeadLetters
	disc  *discovery

	mu      sync.Mutex
	sources map[closer]struct{}
	closed  bool
}

var (
	_ transport.Transport     = (*Transport)(nil)
	_ transport.HealthChecker = (*Transport)(nil)
)

// closer is a source that the transport closes with itself.
type closer interface {
	Close(ctx context.Context) error
}

// Open connects, checks that the server can do what is needed, and creates what
// is missing unless Config.BindOnly is set. ctx bounds Open, not the transport.
//
// An error is a transport.ErrInvalid (the configuration breaks a rule),
// ErrUnavailable (no server within ConnectTimeout), ErrPermission (credentials
// or rights), or ErrConfig (JetStream is disabled, the server is too old, or
// what exists conflicts; the text has the difference).
func Open(ctx context.Context, cfg Config) (*Transport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	set := explicitIn(cfg)
	cfg.setDefaults()
	n, err := newNames(cfg.Namespace)
	if err != nil {
		return nil, err
	}
	t := &Transport{cfg: cfg, set: set, names: n, log: cfg.Logger, sources: map[closer]struct{}{}}
	if t.link, err = dial(ctx, &t.cfg); err != nil {
		return nil, err
	}
	t.calls = newCaller(t.link.jetStream)
	t.calls.deny = t.link.onDenied
	ctx, cancel := limited(ctx)
	defer cancel()
	if err := t.start(ctx); err != nil {
		return nil, errors.Join(err, t.shut(context.WithoutCancel(ctx)))
	}
	return t, nil
}

// start readies what an open link needs.
func (t *Transport) start(ctx context.Context) (err error) {
	// The inbox first: without the right to hear replies every other call would
	// wait for one in vain.
	if t.win, err = newWindow(ctx, t.link, t.cfg.InboxPrefix); err != nil {
		return err
	}
	if err := t.checkServer(ctx); err != nil {
		return err
	}
	if err := t.provision(ctx); err != nil {
		return err
	}
	t.tellDurability(ctx)
	t.disc = newDiscovery(t)
	t.store = newStore(t.calls, t.names)
	t.dead = newDeadLetters(t.calls, t.names, t.log)
	return nil
}

// Subscribe implements transport.Transport.
func (t *Transport) Subscribe(ctx context.Context, s transport.Subscription) (transport.Source[transport.Delivery], error) {
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	var src transport.Source[transport.Delivery]
	var err error
	if s.Group == "" {
		src, err = newLiveReader(ctx, t, s)
	} else {
		src, err = newGroupReader(ctx, t, s)
	}
	if err != nil {
		return nil, mapError(fmt.Sprintf("subscribe %q", s.Name), err)
	}
	if err := t.own(src); err != nil {
		return nil, errors.Join(err, src.Close(context.WithoutCancel(ctx)))
	}
	return src, nil
}

// DeadLetters implements transport.Transport.
func (t *Transport) DeadLetters() transport.DeadLetters { return t.dead }

// Store implements transport.Transport.
func (t *Transport) Store() transport.Store { return t.store }

// Close implements transport.Transport. It closes every source, which hands
// back what was not started, and the connection unless it is the caller's.
func (t *Transport) Close(ctx context.Context) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	open := make([]closer, 0, len(t.sources))
	for s := range t.sources {
		open = append(open, s)
	}
	t.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(open))
	for i, s := range open {
		wg.Go(func() { errs[i] = s.Close(ctx) })
	}
	wg.Wait()
	return errors.Join(append(errs, t.shut(ctx))...)
}

func (t *Transport) shut(ctx context.Context) error {
	t.calls.close()
	if t.disc != nil {
		t.disc.stop()
	}
	if t.win != nil {
		t.win.close()
	}
	return t.link.close(ctx)
}

// own makes Close close s too.
func (t *Transport) own(s closer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return transport.ErrClosed
	}
	t.sources[s] = struct{}{}
	return nil
}

// disown forgets a source that is closed.
func (t *Transport) disown(s closer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sources, s)
}

func (t *Transport) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// isShut says whether the connection is being closed, after the sources.
func (t *Transport) isShut() bool {
	return t.calls.life.Err() != nil
}

// usable says why a call cannot begin.
func (t *Transport) usable(ctx context.Context) error {
	if t.isClosed() {
		return fmt.Errorf("nats transport: %w", transport.ErrClosed)
	}
	return ctx.Err()
}

// maxBody is the largest body that is carried.
func (t *Transport) maxBody() int {
	limit := int(t.link.conn().MaxPayload())
	return max(limit-bodyMargin, limit/2)
}

// setUpLimit bounds the set-up calls of a caller without a deadline.
const setUpLimit = 15 * time.Second

// limited gives ctx a deadline if it has none.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, setUpLimit)
}
