package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport"
)

// serveQueue is the one queue group of every server. Members of one queue group
// compete; a server under another name would run every command a second time.
const serveQueue = "jitney"

const (
	defaultBacklog = 256
	maxBacklog     = 1 << 20
)

// Serve implements transport.Transport.
func (t *Transport) Serve(ctx context.Context, e transport.Endpoint) (transport.Source[transport.Request], error) {
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	s, err := t.serve(ctx, e)
	if err != nil {
		return nil, mapError(fmt.Sprintf("serve %q", e.Name), err)
	}
	return s, nil
}

func (t *Transport) serve(ctx context.Context, e transport.Endpoint) (*server, error) {
	if e.Group != "" {
		return nil, fmt.Errorf("%w endpoint: a command has no group", transport.ErrInvalid)
	}
	if e.Backlog == 0 {
		e.Backlog = defaultBacklog
	}
	if e.Backlog < 0 || e.Backlog > maxBacklog {
		return nil, fmt.Errorf("%w endpoint: Backlog %d must be 1 to %d", transport.ErrInvalid, e.Backlog, maxBacklog)
	}
	subject, err := t.names.command(e.Address)
	if err != nil {
		return nil, err
	}
	s := &server{t: t, at: e.Address, subject: subject, place: t.names.place(subject), queue: make(chan *request, e.Backlog), stop: make(chan struct{})}
	before := t.link.conn().LastError()
	if err := s.subscribe(); err != nil {
		return nil, err
	}
	t.disc.start()
	if err := settleSubscription(ctx, t.link, before, subject); err != nil {
		_ = s.current().sub.Unsubscribe()
		return nil, err
	}
	s.unhook = t.link.onEvent(s.onLink)
	if err := t.own(s); err != nil {
		_ = s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// server is the source of the requests of one endpoint.
type server struct {
	t       *Transport
	at      transport.Address
	subject string
	place   place // of subject
	queue   chan *request
	stop    chan struct{} // closed by Close
	unhook  func()

	closed    atomic.Bool
	closeOnce sync.Once

	requests, busy atomic.Uint64 // for $SRV.STATS

	mu sync.Mutex
	in intake
}

func (s *server) subscribe() error {
	nc := s.t.link.conn()
	sub, err := nc.QueueSubscribe(s.subject, serveQueue, s.receive)
	if err != nil {
		return err
	}
	in := newIntake(nc, sub)
	s.mu.Lock()
	s.in = in
	s.mu.Unlock()
	return nil
}

func (s *server) current() intake {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in
}

func (s *server) onLink(ev linkEvent) {
	if ev == linkNew && !s.closed.Load() {
		if err := s.subscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			s.t.log.Error("cannot serve on the new connection", "name", s.at.Name, "err", err)
		}
		if s.closed.Load() { // Close may have ended the old subscription
			_ = s.current().sub.Unsubscribe()
		}
	}
}

// receive runs for one request at a time and must not wait.
func (s *server) receive(in *nats.Msg) {
	s.requests.Add(1)
	if !s.t.names.isInbox(in.Reply) {
		s.t.log.Warn("request dropped: its reply subject is not an inbox", "name", s.at.Name, "reply", in.Reply)
		return
	}
	r := &request{t: s.t, inbox: in.Reply}
	s.place.read(&r.m, headersOf(in), in.Data)
	left, id, ok := fromReply(in.Reply)
	if ok && r.m.ID == "" {
		if r.m.ID = id; r.m.CorrelationID == "" && len(in.Header[hdrCorrelation]) == 0 {
			r.m.CorrelationID = id
		}
	}
	if !ok && len(in.Header) > 0 {
		var err error
		if left, err = decodeTimeout(in.Header); err != nil && r.m.Malformed == nil {
			r.m.Malformed = err
		}
	}
	if left > 0 {
		r.deadline = time.Now().Add(left)
	}
	if s.closed.Load() {
		r.refuse(statusStopping)
		return
	}
	select {
	case s.queue <- r:
		if s.closed.Load() { // Close may have emptied the queue before
			s.refuseAll()
		}
	default:
		s.busy.Add(1)
		r.refuse(statusBusy)
	}
}

// Next implements transport.Source.
func (s *server) Next(ctx context.Context) (transport.Request, error) {
	if s.closed.Load() {
		return nil, fmt.Errorf("serve %q: %w", s.at.Name, transport.ErrClosed)
	}
	select {
	case r := <-s.queue:
		return r, nil
	default:
	}
	select {
	case r := <-s.queue:
		return r, nil
	case <-s.stop:
		return nil, fmt.Errorf("serve %q: %w", s.at.Name, transport.ErrClosed)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close implements transport.Source. Requests that were sent before the server
// hears of it are answered too.
func (s *server) Close(ctx context.Context) (err error) {
	s.closeOnce.Do(func() {
		s.closed.Store(true)
		close(s.stop)
		if s.unhook != nil {
			s.unhook()
		}
		s.refuseAll()
		if _, e := s.current().drain(ctx); e != nil {
			err = fmt.Errorf("close server of %q: %w", s.at.Name, e)
		}
		s.refuseAll()
		s.t.disown(s)
	})
	return err
}

func (s *server) refuseAll() {
	for {
		select {
		case r := <-s.queue:
			r.refuse(statusStopping)
		default:
			return
		}
	}
}

// request is one command to serve.
type request struct {
	t        *Transport
	inbox    string // "" if the sender wants no answer
	m        transport.Message
	deadline time.Time
	settled  atomic.Bool
}

func (r *request) Message() *transport.Message { return &r.m }
func (r *request) Deadline() time.Time         { return r.deadline }

// Reply implements transport.Request. A reply that could not be sent leaves the
// request open: it may be tried again.
func (r *request) Reply(ctx context.Context, m *transport.Message) error {
	if err := r.reply(ctx, m); err != nil {
		return mapError(fmt.Sprintf("reply to %q", r.m.To.Name), err)
	}
	return nil
}

func (r *request) reply(ctx context.Context, m *transport.Message) error {
	if m == nil {
		return fmt.Errorf("%w message: it is nil", transport.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if limit := r.t.maxBody(); len(m.Body) > limit {
		return &transport.SizeError{Size: len(m.Body), Limit: limit}
	}
	h, err := encode(m, "", true)
	if err != nil {
		return err
	}
	if v := h[hdrError]; len(v) > 0 {
		// For tools that know the services protocol and not us.
		h["Nats-Service-Error"], h["Nats-Service-Error-Code"] = v, []string{"500"}
	}
	if r.t.isShut() {
		return transport.ErrClosed
	}
	if !r.settled.CompareAndSwap(false, true) {
		return transport.ErrSettled
	}
	if err := r.send(h, m.Body); err != nil {
		r.settled.Store(false)
		return err
	}
	return nil
}

func (r *request) send(h nats.Header, body []byte) error {
	if r.inbox == "" {
		return nil
	}
	if len(h) == 0 {
		return r.t.link.conn().Publish(r.inbox, body)
	}
	return r.t.link.conn().PublishMsg(&nats.Msg{Subject: r.inbox, Header: h, Data: body})
}

// refuse answers that nothing ran. If that is not sent either, the caller's
// deadline tells it.
func (r *request) refuse(status string) {
	code := "503"
	if status == statusBusy {
		code = "429"
	}
	_ = r.send(nats.Header{
		hdrStatus: {status}, "Nats-Service-Error-Code": {code}, "Nats-Service-Error": {"handler " + status},
	}, nil)
}
