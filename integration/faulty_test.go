package integration_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// faulty is a transport whose operations fail as a test says. It counts them.
type faulty struct {
	transport.Transport

	mu      sync.Mutex
	fault   fault
	after   fault
	counts  map[string]int
	asked   []string // the ids of requests
	sources []interface{ Close(context.Context) error }
}

// fault is asked about each operation; an error is what the operation returns.
// It may block. op is "request", "serve", "publish", "subscribe", "next", "ack",
// "nak", "release", "term", "extend", "create", "get", "update", "delete" or
// "bury"; what is the name or key that it is about.
type fault func(ctx context.Context, op, what string) error

func newFaulty(tr transport.Transport) *faulty {
	return &faulty{Transport: tr, counts: map[string]int{}}
}

// set makes f decide from now on, before an operation; nil heals.
func (t *faulty) set(f fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault = f
}

// setAfter makes f decide after an operation that succeeded: it happened, and
// its answer is lost.
func (t *faulty) setAfter(f fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.after = f
}

// kill is what the end of a process looks like from outside: nothing it asks for
// arrives any more, and nothing reaches it.
func (t *faulty) kill() {
	t.set(failing("", transport.ErrUnavailable))
	t.mu.Lock()
	sources := t.sources
	t.mu.Unlock()
	for _, s := range sources {
		_ = s.Close(context.Background())
	}
}

func (t *faulty) count(op string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[op]
}

func (t *faulty) before(ctx context.Context, op, what string) error {
	t.mu.Lock()
	t.counts[op]++
	f := t.fault
	t.mu.Unlock()
	if f != nil {
		return f(ctx, op, what)
	}
	return nil
}

func (t *faulty) done(ctx context.Context, op, what string, err error) error {
	t.mu.Lock()
	f := t.after
	t.mu.Unlock()
	if err == nil && f != nil {
		return f(ctx, op, what)
	}
	return err
}

// times limits f to its first n errors.
func times(n int, f fault) fault {
	var left atomic.Int64
	left.Store(int64(n))
	return func(ctx context.Context, op, what string) error {
		if err := f(ctx, op, what); err != nil && left.Add(-1) >= 0 {
			return err
		}
		return nil
	}
}

// hanging keeps the operations of that name until their ctx ends.
func hanging(op string) fault {
	return func(ctx context.Context, o, _ string) error {
		if o != op {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

// failing fails the operations of that name, every one for "".
func failing(op string, err error) fault {
	return func(_ context.Context, o, _ string) error {
		if op == "" || o == op {
			return err
		}
		return nil
	}
}

// failingStore fails the store's operations on keys with the prefix.
func failingStore(prefix string, err error) fault {
	return func(_ context.Context, op, what string) error {
		switch op {
		case "create", "get", "update", "delete":
			if strings.HasPrefix(what, prefix) {
				return err
			}
		}
		return nil
	}
}

func (t *faulty) InProcess() bool {
	p, ok := t.Transport.(transport.InProcess)
	return ok && p.InProcess()
}

func (t *faulty) Request(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	t.mu.Lock()
	t.asked = append(t.asked, m.ID)
	t.mu.Unlock()
	if err := t.before(ctx, "request", m.To.Name); err != nil {
		return nil, err
	}
	r, err := t.Transport.Request(ctx, m)
	if err = t.done(ctx, "request", m.To.Name, err); err != nil {
		return nil, err
	}
	return r, nil
}

func (t *faulty) Publish(ctx context.Context, ms ...*transport.Message) error {
	if err := t.before(ctx, "publish", ms[0].To.Name); err != nil {
		return err
	}
	return t.done(ctx, "publish", ms[0].To.Name, t.Transport.Publish(ctx, ms...))
}

func (t *faulty) Serve(ctx context.Context, e transport.Endpoint) (transport.Source[transport.Request], error) {
	if err := t.before(ctx, "serve", e.Name); err != nil {
		return nil, err
	}
	src, err := t.Transport.Serve(ctx, e)
	if err != nil {
		return nil, err
	}
	s := &faultySource[transport.Request]{Source: src, t: t, name: e.Name}
	t.opened(s)
	return s, nil
}

func (t *faulty) Subscribe(ctx context.Context, s transport.Subscription) (transport.Source[transport.Delivery], error) {
	if err := t.before(ctx, "subscribe", s.Name); err != nil {
		return nil, err
	}
	src, err := t.Transport.Subscribe(ctx, s)
	if err != nil {
		return nil, err
	}
	f := &faultySource[transport.Delivery]{Source: src, t: t, name: s.Name}
	t.opened(f)
	return faultyDeliveries{f}, nil
}

func (t *faulty) opened(src interface{ Close(context.Context) error }) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources = append(t.sources, src)
}

type faultySource[T any] struct {
	transport.Source[T]
	t      *faulty
	name   string
	closed atomic.Bool
}

func (s *faultySource[T]) Next(ctx context.Context) (item T, err error) {
	if err := s.t.before(ctx, "next", s.name); err != nil && !s.closed.Load() {
		return item, err
	}
	return s.Source.Next(ctx)
}

func (s *faultySource[T]) Close(ctx context.Context) error {
	s.closed.Store(true)
	return s.Source.Close(ctx)
}

type faultyDeliveries struct {
	*faultySource[transport.Delivery]
}

func (s faultyDeliveries) Next(ctx context.Context) (transport.Delivery, error) {
	d, err := s.faultySource.Next(ctx)
	if err != nil {
		return nil, err
	}
	return faultyDelivery{d, s.t, s.name}, nil
}

// CatchUp is the driver's.
func (s faultyDeliveries) CatchUp(ctx context.Context, left int) error {
	if c, ok := s.Source.(transport.CatchUpper); ok {
		return c.CatchUp(ctx, left)
	}
	return nil
}

type faultyDelivery struct {
	transport.Delivery
	t    *faulty
	name string
}

func (d faultyDelivery) do(ctx context.Context, op string, f func() error) error {
	if err := d.t.before(ctx, op, d.name); err != nil {
		return err
	}
	return d.t.done(ctx, op, d.name, f())
}

func (d faultyDelivery) Ack(ctx context.Context) error {
	return d.do(ctx, "ack", func() error { return d.Delivery.Ack(ctx) })
}

func (d faultyDelivery) Nak(ctx context.Context, delay time.Duration) error {
	return d.do(ctx, "nak", func() error { return d.Delivery.Nak(ctx, delay) })
}

func (d faultyDelivery) Release(ctx context.Context) error {
	return d.do(ctx, "release", func() error { return d.Delivery.Release(ctx) })
}

func (d faultyDelivery) Term(ctx context.Context, reason string) error {
	return d.do(ctx, "term", func() error { return d.Delivery.Term(ctx, reason) })
}

func (d faultyDelivery) Extend(ctx context.Context) error {
	return d.do(ctx, "extend", func() error { return d.Delivery.Extend(ctx) })
}

func (t *faulty) Store() transport.Store { return faultyStore{t.Transport.Store(), t} }

type faultyStore struct {
	transport.Store
	t *faulty
}

func (s faultyStore) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error) {
	if err := s.t.before(ctx, "create", key); err != nil {
		return 0, err
	}
	rev, err := s.Store.Create(ctx, key, value, ttl)
	return rev, s.t.done(ctx, "create", key, err)
}

func (s faultyStore) Get(ctx context.Context, key string) (transport.Entry, error) {
	if err := s.t.before(ctx, "get", key); err != nil {
		return transport.Entry{}, err
	}
	return s.Store.Get(ctx, key)
}

func (s faultyStore) Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	if err := s.t.before(ctx, "update", key); err != nil {
		return 0, err
	}
	rev, err := s.Store.Update(ctx, key, value, revision, ttl)
	return rev, s.t.done(ctx, "update", key, err)
}

func (s faultyStore) Delete(ctx context.Context, key string, revision uint64) error {
	if err := s.t.before(ctx, "delete", key); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key, revision)
}

// holding keeps operations of that name waiting until release is closed, and
// tells when the first has come. They do not care for their ctx.
func holding(op, prefix string) (f fault, came, release chan struct{}) {
	came, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	return func(_ context.Context, o, what string) error {
		if o == op && strings.HasPrefix(what, prefix) {
			once.Do(func() { close(came) })
			<-release
		}
		return nil
	}, came, release
}
