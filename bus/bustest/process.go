package bustest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// process is the transport of one process: a driver's, with what goes through it
// counted. Once it is closed it carries nothing any more, as if it had its own
// connection, also where the processes share one driver.
type process struct {
	transport.Transport
	h *Harness

	life context.Context // ends with Close
	end  context.CancelFunc

	mu      sync.Mutex
	closed  bool
	sources map[closer]struct{}
	held    map[abandoned]struct{}
}

// closer is a source that was opened.
type closer interface {
	Close(context.Context) error
}

// abandoned is what was handed out and can no longer be settled once the process
// has closed.
type abandoned interface{ abandon() }

func newProcess(h *Harness, tr transport.Transport) *process {
	p := &process{Transport: tr, h: h, sources: map[closer]struct{}{}, held: map[abandoned]struct{}{}}
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// InProcess, Codec, Locate, Health, Groups and RetireGroup are what the bus asks of a
// driver besides.

func (p *process) InProcess() bool {
	d, ok := p.Transport.(transport.InProcess)
	return ok && d.InProcess()
}

func (p *process) Codec() codec.Codec {
	if d, ok := p.Transport.(interface{ Codec() codec.Codec }); ok {
		return d.Codec()
	}
	return nil
}

func (p *process) Locate(kind string, a transport.Address) []string {
	if d, ok := p.Transport.(transport.Locator); ok {
		return d.Locate(kind, a)
	}
	return nil
}

func (p *process) Health(ctx context.Context) []transport.Check {
	if d, ok := p.Transport.(transport.HealthChecker); ok {
		return d.Health(ctx)
	}
	return nil
}

func (p *process) Groups(ctx context.Context) ([]transport.GroupState, error) {
	d, ok := p.Transport.(transport.GroupLister)
	if !ok {
		return nil, fmt.Errorf("%w: the driver is no transport.GroupLister", transport.ErrInvalid)
	}
	return d.Groups(ctx)
}

func (p *process) RetireGroup(ctx context.Context, name, group string) error {
	d, ok := p.Transport.(transport.GroupRetirer)
	if !ok {
		return fmt.Errorf("%w: the driver is no transport.GroupRetirer", transport.ErrInvalid)
	}
	return d.RetireGroup(ctx, name, group)
}

// within binds a call to the life of the process.
func (p *process) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// outcome is a call's error as the caller should have it.
func (p *process) outcome(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && p.life.Err() != nil && errors.Is(err, context.Canceled) {
		return transport.ErrClosed
	}
	return err
}

func (p *process) Request(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	if p.life.Err() != nil {
		return nil, transport.ErrClosed
	}
	if m == nil || ctx.Err() != nil {
		return p.Transport.Request(ctx, m)
	}
	asked := p.h.ledger.ask(m)
	call, end := p.within(ctx)
	defer end()
	r, err := p.Transport.Request(call, m)
	_, exact := p.Transport.(shared) // what its caller gave up there, nobody gets
	p.h.ledger.answered(asked, err != nil && call.Err() != nil && !exact)
	return r, p.outcome(ctx, err)
}

func (p *process) Publish(ctx context.Context, ms ...*transport.Message) error {
	if p.life.Err() != nil {
		return transport.ErrClosed
	}
	call, end := p.within(ctx)
	defer end()
	again, err := p.h.faults.publishing(call, p.h.ledger, ms)
	if err == nil {
		err = p.publish(call, ms)
	}
	if err == nil && len(again) > 0 {
		err = p.publish(call, again)
	}
	return p.outcome(ctx, err)
}

func (p *process) publish(ctx context.Context, ms []*transport.Message) error {
	entered := p.h.ledger.publish(ms)
	err := p.Transport.Publish(ctx, ms...)
	entered.done(err)
	return err
}

func (p *process) Serve(ctx context.Context, e transport.Endpoint) (transport.Source[transport.Request], error) {
	if p.life.Err() != nil {
		return nil, transport.ErrClosed
	}
	src, err := p.Transport.Serve(ctx, e)
	if err != nil {
		return nil, err
	}
	s := &requests{Source: src, p: p}
	if err := p.opened(ctx, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (p *process) Subscribe(ctx context.Context, sub transport.Subscription) (transport.Source[transport.Delivery], error) {
	if p.life.Err() != nil {
		return nil, transport.ErrClosed
	}
	before := p.h.ledger.now()
	src, err := p.Transport.Subscribe(ctx, sub)
	if err != nil {
		return nil, err
	}
	s := &deliveries{Source: src, p: p, queue: p.h.ledger.join(sub, before)}
	if err := p.opened(ctx, s); err != nil {
		return nil, err
	}
	if c, ok := src.(transport.CatchUpper); ok {
		return catchingUp{s, c}, nil
	}
	return s, nil
}

// opened notes a source, to be closed with the process.
func (p *process) opened(ctx context.Context, s closer) error {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.sources[s] = struct{}{}
	}
	p.mu.Unlock()
	if closed {
		return errors.Join(transport.ErrClosed, s.Close(ctx))
	}
	return nil
}

func (p *process) gone(s closer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sources, s)
}

// hold notes what was handed out, until it is let go.
func (p *process) hold(x abandoned) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[x] = struct{}{}
}

func (p *process) letGo(x abandoned) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, x)
}

func (p *process) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Close closes the process, its sources first.
func (p *process) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	sources := make([]closer, 0, len(p.sources))
	for s := range p.sources {
		sources = append(sources, s)
	}
	p.mu.Unlock()
	var errs []error
	for _, s := range sources {
		errs = append(errs, s.Close(ctx))
	}
	p.end()
	errs = append(errs, p.Transport.Close(ctx))
	p.mu.Lock()
	held := p.held
	p.held = map[abandoned]struct{}{}
	p.mu.Unlock()
	for x := range held {
		x.abandon()
	}
	p.h.silence(p)
	return errors.Join(errs...)
}
