package memory

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// commands is who serves what.
type commands struct {
	mu       sync.Mutex
	services map[transport.Address]*service
	closed   bool
}

// service is the servers of one address and the requests that wait for them.
// The lock of commands guards it.
type service struct {
	servers int
	backlog int // of all servers
	queue   []*request
	waiting waitList
}

// request is one command on its way.
type request struct {
	t        *Transport
	msg      transport.Message
	deadline time.Time
	answer   chan answer // holds one
	mu       sync.Mutex
	replied  bool
}

type answer struct {
	msg *transport.Message
	err error
}

// server is one source of requests.
type server struct {
	t       *Transport
	svc     *service
	at      transport.Address
	backlog int
	closed  bool
}

// Request hands m to one of the servers of its address. When ctx ends before a
// server took it, none will.
func (t *Transport) Request(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	if m == nil {
		return nil, fmt.Errorf("nil message: %w", transport.ErrInvalid)
	}
	if err := checkName(m.To.Name); err != nil {
		return nil, err
	}
	if err := t.checkBody(m); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &request{t: t, answer: make(chan answer, 1)}
	t.carry(&r.msg, m)
	r.deadline, _ = ctx.Deadline()

	c := &t.commands
	c.mu.Lock()
	svc := c.services[m.To]
	switch {
	case c.closed:
		c.mu.Unlock()
		return nil, transport.ErrClosed
	case svc == nil:
		c.mu.Unlock()
		return nil, transport.ErrNoHandler
	case len(svc.queue) >= svc.backlog:
		c.mu.Unlock()
		return nil, transport.ErrBusy
	}
	svc.queue = append(svc.queue, r)
	w := svc.waiting.take()
	c.mu.Unlock()
	if w != nil {
		w.signal()
	}

	var err error
	select {
	case a := <-r.answer:
		return a.msg, a.err
	case <-t.closing:
		err = transport.ErrClosed
	case <-ctx.Done():
		c.mu.Lock()
		if i := slices.Index(svc.queue, r); i >= 0 {
			svc.queue = slices.Delete(svc.queue, i, i+1)
		}
		c.mu.Unlock()
		err = ctx.Err()
	}
	select {
	case a := <-r.answer: // there as well: it says more
		return a.msg, a.err
	default:
		return nil, err
	}
}

// Serve starts to serve an address. Its servers share their backlog.
func (t *Transport) Serve(ctx context.Context, e transport.Endpoint) (transport.Source[transport.Request], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkName(e.Name); err != nil {
		return nil, err
	}
	if e.Group != "" {
		return nil, fmt.Errorf("endpoint %q with group %q: commands have no group: %w", e.Name, e.Group, transport.ErrInvalid)
	}
	if e.Backlog <= 0 {
		e.Backlog = 256
	}
	c := &t.commands
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, transport.ErrClosed
	}
	svc := c.services[e.Address]
	if svc == nil {
		svc = &service{}
		c.services[e.Address] = svc
	}
	svc.servers++
	svc.backlog += e.Backlog
	return &server{t: t, svc: svc, at: e.Address, backlog: e.Backlog}, nil
}

// Next returns the request that waits longest.
func (s *server) Next(ctx context.Context) (transport.Request, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &s.t.commands
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if s.closed || c.closed {
			return nil, transport.ErrClosed
		}
		if len(s.svc.queue) > 0 {
			r := s.svc.queue[0]
			s.svc.queue[0] = nil
			s.svc.queue = s.svc.queue[1:]
			return r, nil
		}
		signalled := s.svc.waiting.wait(ctx, &c.mu, s)
		if err := ctx.Err(); err != nil && !s.closed && !c.closed {
			if signalled && len(s.svc.queue) > 0 {
				if w := s.svc.waiting.take(); w != nil {
					w.signal() // its channel has room: this does not block
				}
			}
			return nil, err
		}
	}
}

// Close ends the server. The last one of an address answers what waits with
// ErrStopping; otherwise the others go on with it.
func (s *server) Close(context.Context) error {
	c := &s.t.commands
	c.mu.Lock()
	if s.closed || c.closed {
		s.closed = true
		c.mu.Unlock()
		return nil
	}
	s.closed = true
	ws := s.svc.waiting.takeAll(s)
	var left []*request
	s.svc.servers--
	s.svc.backlog -= s.backlog
	if s.svc.servers == 0 {
		left, s.svc.queue = s.svc.queue, nil
		delete(c.services, s.at)
	} else if len(s.svc.queue) > 0 {
		if w := s.svc.waiting.take(); w != nil {
			ws = append(ws, w) // a signal on its way to one of ours was for all
		}
	}
	c.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
	for _, r := range left {
		r.answer <- answer{err: transport.ErrStopping}
	}
	return nil
}

// close wakes the servers; requests in progress see the transport closing.
func (c *commands) close() {
	c.mu.Lock()
	c.closed = true
	var ws []*waiter
	for _, svc := range c.services {
		ws = svc.waiting.takeAll(nil, ws...)
	}
	c.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
}

func (r *request) Message() *transport.Message { return &r.msg }
func (r *request) Deadline() time.Time         { return r.deadline }

// Reply answers the caller. One that has given up is not told apart.
func (r *request) Reply(_ context.Context, m *transport.Message) error {
	if m == nil {
		return fmt.Errorf("nil reply: %w", transport.ErrInvalid)
	}
	if err := r.t.checkBody(m); err != nil {
		return err
	}
	select {
	case <-r.t.closing:
		return transport.ErrClosed
	default:
	}
	r.mu.Lock()
	if r.replied {
		r.mu.Unlock()
		return transport.ErrSettled
	}
	r.replied = true
	r.mu.Unlock()
	r.answer <- answer{msg: r.t.carried(m)}
	return nil
}
