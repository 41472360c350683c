package nats

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// The settings that a bus needs where the client's defaults differ. A client
// that waits two minutes for a stopped server, buffers what it cannot send and
// gives up after a minute of retries would lose or repeat work.
const (
	dialTimeout     = 2 * time.Second
	redialWait      = 100 * time.Millisecond
	maxRedialWait   = 2 * time.Second
	pingInterval    = time.Second
	pingsOut        = 2
	flushDeadline   = 5 * time.Second
	reconnectJitter = 100 * time.Millisecond
	tlsJitter       = time.Second
)

// linkEvent is what a hook of a link is told.
type linkEvent int

const (
	// linkBack: the connection came back; its subscriptions live, and what was
	// sent or due meanwhile may be lost.
	linkBack linkEvent = iota
	// linkNew: another connection took the place of one that closed for good;
	// nothing is subscribed on it.
	linkNew
)

// link is the connection to the server and what watches it. Ours is re-dialled
// when the client gives it up for good; a caller's is left alone.
type link struct {
	cfg   *Config
	log   *slog.Logger
	owned bool

	mu    sync.Mutex
	nc    *nats.Conn
	js    jetstream.JetStream
	hooks map[int]func(linkEvent)
	deny  map[int]func(subject string, err error)
	next  int

	closing chan struct{}
	done    sync.WaitGroup
}

// dial connects within the connect timeout and starts to watch the connection.
func dial(ctx context.Context, cfg *Config) (*link, error) {
	l := &link{cfg: cfg, log: cfg.Logger, owned: cfg.Conn == nil, closing: make(chan struct{}),
		hooks: map[int]func(linkEvent){}, deny: map[int]func(string, error){}}
	nc := cfg.Conn
	if l.owned {
		var err error
		if nc, err = l.connect(ctx); err != nil {
			return nil, err
		}
	} else if nc.IsClosed() {
		return nil, fmt.Errorf("open: the given connection is closed: %w", transport.ErrClosed)
	}
	if err := l.use(nc); err != nil {
		if l.owned {
			nc.Close()
		}
		return nil, err
	}
	status := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	l.done.Go(func() { l.watch(nc, status) })
	return l, nil
}

// connect tries until one attempt succeeds, a retry cannot help or the timeout
// ends, and then reports the last attempt.
func (l *link) connect(ctx context.Context) (*nats.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.ConnectTimeout)
	defer cancel()
	var last error
	for wait := redialWait; ; wait = min(2*wait, maxRedialWait) {
		nc, err := l.attempt(ctx)
		if err == nil {
			return nc, nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if isFinal(err) {
			break
		}
		if !sleep(ctx, wait) {
			break
		}
	}
	kind := kindOf(last)
	if kind == nil || isTLS(last) {
		kind = transport.ErrUnavailable
	}
	return nil, fmt.Errorf("connect to %s: %w: %w", l.cfg.where(), kind, last)
}

// attempt makes one connection and gives it up when ctx ends first.
func (l *link) attempt(ctx context.Context) (*nats.Conn, error) {
	opts, err := l.options()
	if err != nil {
		return nil, err
	}
	type result struct {
		nc  *nats.Conn
		err error
	}
	c := make(chan result, 1)
	l.done.Go(func() {
		nc, err := opts.Connect()
		c <- result{nc, err}
	})
	select {
	case r := <-c:
		return r.nc, r.err
	case <-ctx.Done():
	}
	// The dial has a timeout of its own: wait for it rather than leave it behind.
	r := <-c
	if r.err != nil {
		return nil, r.err
	}
	r.nc.Close()
	return nil, ctx.Err()
}

// options returns the settings of our own connections.
func (l *link) options() (nats.Options, error) {
	c := l.cfg
	o := nats.GetDefaultOptions()
	all := []nats.Option{
		nats.Name(c.Name), nats.MaxReconnects(-1), nats.ReconnectWait(redialWait),
		nats.ReconnectJitter(reconnectJitter, tlsJitter), nats.ReconnectBufSize(-1), nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(pingsOut), nats.Timeout(dialTimeout), nats.FlusherTimeout(flushDeadline),
		nats.IgnoreAuthErrorAbort(), nats.PermissionErrOnSubscribe(true), nats.CustomInboxPrefix(c.InboxPrefix),
	}
	if c.Server != nil {
		all = append(all, nats.InProcessServer(c.Server))
	} else {
		for _, u := range strings.Split(c.URL, ",") {
			o.Servers = append(o.Servers, strings.TrimSpace(u))
		}
	}
	switch {
	case c.CredentialsFile != "":
		all = append(all, nats.UserCredentials(c.CredentialsFile))
	case c.NKeyFile != "":
		opt, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			return o, fmt.Errorf("%w config: NKeyFile: %w", transport.ErrInvalid, err)
		}
		all = append(all, opt)
	case c.User != "":
		all = append(all, nats.UserInfo(c.User, c.Password))
	case c.Token != "":
		all = append(all, nats.Token(c.Token))
	}
	if c.TLS != nil {
		all = append(all, nats.Secure(c.TLS))
	}
	for _, opt := range append(all, c.Options...) {
		if opt == nil {
			continue
		}
		if err := opt(&o); err != nil {
			return o, fmt.Errorf("%w config: %w", transport.ErrInvalid, err)
		}
	}
	o.RetryOnFailedConnect = false // Open reports why it cannot connect
	onError, onDisconnect := o.AsyncErrorCB, o.DisconnectedErrCB
	o.AsyncErrorCB = func(nc *nats.Conn, s *nats.Subscription, err error) {
		attrs := []any{"err", err}
		if s != nil {
			attrs = append(attrs, "subject", s.Subject)
		}
		l.log.Warn("nats reported an error", attrs...)
		if subject, publish, ok := deniedSubject(err); ok && publish {
			l.tellDenied(subject, err)
		}
		if onError != nil {
			onError(nc, s, err)
		}
	}
	o.DisconnectedErrCB = func(nc *nats.Conn, err error) {
		if err != nil {
			l.log.Warn("connection lost", "err", err)
		}
		if onDisconnect != nil {
			onDisconnect(nc, err)
		}
	}
	return o, nil
}

// use makes nc the connection that everybody uses from now on.
func (l *link) use(nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nc, l.js = nc, js
	return nil
}

// conn returns the connection in use. It may be down, and after a moment there
// may be another.
func (l *link) conn() *nats.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nc
}

// jetStream returns the JetStream API of the connection in use. Call it through
// Transport.api.
func (l *link) jetStream() jetstream.JetStream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.js
}

// onEvent calls f after each reconnect and each change of the connection, in
// one goroutine, until the returned function is called. f must not wait.
func (l *link) onEvent(f func(linkEvent)) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := l.next
	l.next++
	l.hooks[id] = f
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.hooks, id)
	}
}

func (l *link) tell(ev linkEvent) {
	l.mu.Lock()
	hooks := make([]func(linkEvent), 0, len(l.hooks))
	for _, f := range l.hooks {
		hooks = append(hooks, f)
	}
	l.mu.Unlock()
	for _, f := range hooks {
		f(ev)
	}
}

// onDenied calls f with each subject that the server refuses to take from our
// connection, until the returned function is called. f must not wait. What a
// caller's connection was refused is found in its last error instead.
func (l *link) onDenied(f func(subject string, err error)) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := l.next
	l.next++
	l.deny[id] = f
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.deny, id)
	}
}

func (l *link) tellDenied(subject string, err error) {
	l.mu.Lock()
	fs := make([]func(string, error), 0, len(l.deny))
	for _, f := range l.deny {
		fs = append(fs, f)
	}
	l.mu.Unlock()
	for _, f := range fs {
		f(subject, err)
	}
}

// watch follows the state of the connection and replaces ours when it is closed
// for good, as the client does after some errors whatever its settings say.
func (l *link) watch(nc *nats.Conn, status chan nats.Status) {
	for {
		var st nats.Status
		var open bool
		select {
		case <-l.closing:
			nc.RemoveStatusListener(status)
			return
		case st, open = <-status:
		}
		if open && st == nats.CONNECTED {
			l.log.Info("connected again", "server", nc.ConnectedUrlRedacted())
			l.tell(linkBack)
			continue
		}
		if open && st != nats.CLOSED {
			continue
		}
		if !l.owned {
			l.log.Error("the given connection was closed; this transport no longer works")
			<-l.closing
			return
		}
		l.log.Error("connection closed for good; connecting anew", "err", nc.LastError())
		if nc = l.redial(); nc == nil {
			return
		}
		status = nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
		l.tell(linkNew)
	}
}

// redial connects anew until it succeeds. It returns nil when the link closes.
func (l *link) redial() *nats.Conn {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	l.done.Go(func() {
		select {
		case <-l.closing:
			cancel()
		case <-stop:
		}
	})
	for wait := redialWait; ; wait = min(2*wait, maxRedialWait) {
		nc, err := l.attempt(ctx)
		if err == nil {
			if err = l.use(nc); err == nil {
				return nc
			}
			nc.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		l.log.Warn("cannot connect anew", "server", l.cfg.where(), "err", err)
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// close stops watching, closes our connection, and waits for both.
func (l *link) close(ctx context.Context) error {
	close(l.closing)
	nc := l.conn()
	var err error
	if !nc.IsClosed() && nc.IsConnected() {
		c, cancel := context.WithTimeout(ctx, flushDeadline)
		err = nc.FlushWithContext(c)
		cancel()
	}
	if l.owned {
		nc.Close()
	}
	l.done.Wait()
	if l.owned {
		l.conn().Close() // a new one that was made meanwhile
	}
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return mapError("close: flush", err)
	}
	return nil
}

// isFinal says whether connecting again cannot help.
func isFinal(err error) bool {
	return errors.Is(err, transport.ErrInvalid) || errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired) || isTLS(err)
}

// isTLS says whether err is about certificates or about TLS on one side only.
func isTLS(err error) bool {
	var ca x509.UnknownAuthorityError
	var host x509.HostnameError
	var bad x509.CertificateInvalidError
	return errors.As(err, &ca) || errors.As(err, &host) || errors.As(err, &bad) ||
		errors.Is(err, nats.ErrSecureConnRequired) || errors.Is(err, nats.ErrSecureConnWanted)
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
