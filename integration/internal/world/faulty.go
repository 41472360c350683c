package world

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Faulty is a transport whose operations fail as a test says. It counts them.
type Faulty struct {
	transport.Transport

	mu      sync.Mutex
	fault   Fault
	after   Fault
	counts  map[string]int
	Asked   []string // the ids of requests
	sources []interface{ Close(context.Context) error }
}

// NewFaulty returns tr with no fault yet.
func NewFaulty(tr transport.Transport) *Faulty {
	return &Faulty{Transport: tr, counts: map[string]int{}}
}

// Set makes f decide from now on, before an operation; nil heals.
func (t *Faulty) Set(f Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault = f
}

// SetAfter makes f decide after an operation that succeeded: it happened, and
// its answer is lost.
func (t *Faulty) SetAfter(f Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.after = f
}

// Kill is what the end of a process looks like from outside: nothing it asks for
// arrives any more, and nothing reaches it.
func (t *Faulty) Kill() {
	t.Set(Failing("", transport.ErrUnavailable))
	t.mu.Lock()
	sources := t.sources
	t.mu.Unlock()
	for _, s := range sources {
		_ = s.Close(context.Background())
	}
}

// Count tells how often an operation was asked for.
func (t *Faulty) Count(op string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[op]
}

func (t *Faulty) before(ctx context.Context, op, what string) error {
	t.mu.Lock()
	t.counts[op]++
	f := t.fault
	t.mu.Unlock()
	if f != nil {
		return f(ctx, op, what)
	}
	return nil
}

func (t *Faulty) done(ctx context.Context, op, what string, err error) error {
	t.mu.Lock()
	f := t.after
	t.mu.Unlock()
	if err == nil && f != nil {
		return f(ctx, op, what)
	}
	return err
}

// InProcess is the driver's.
func (t *Faulty) InProcess() bool {
	p, ok := t.Transport.(transport.InProcess)
	return ok && p.InProcess()
}

func (t *Faulty) Request(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	t.mu.Lock()
	t.Asked = append(t.Asked, m.ID)
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

func (t *Faulty) Publish(ctx context.Context, ms ...*transport.Message) error {
	if err := t.before(ctx, "publish", ms[0].To.Name); err != nil {
		return err
	}
	return t.done(ctx, "publish", ms[0].To.Name, t.Transport.Publish(ctx, ms...))
}

func (t *Faulty) Serve(ctx context.Context, e transport.Endpoint) (transport.Source[transport.Request], error) {
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

func (t *Faulty) Subscribe(ctx context.Context, s transport.Subscription) (transport.Source[transport.Delivery], error) {
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

func (t *Faulty) opened(src interface{ Close(context.Context) error }) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources = append(t.sources, src)
}

type faultySource[T any] struct {
	transport.Source[T]
	t      *Faulty
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
	t    *Faulty
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

func (t *Faulty) Store() transport.Store { return faultyStore{t.Transport.Store(), t} }

type faultyStore struct {
	transport.Store
	t *Faulty
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
