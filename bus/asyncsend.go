package bus

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// asyncSender stores what PublishAsync has queued, a batch at a time, on one
// goroutine. It starts with the first event and ends with the bus.
type asyncSender struct {
	b *Bus
	q *sendQueue
	// untold are failures that nobody has got yet.
	untold untold

	life  context.Context // ends when Close gives up what is still queued
	stop  context.CancelFunc
	ended chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	started bool
	settled uint64      // all events up to this number have a result
	flushes []flushWait // who waits for more
	closing bool
}

type flushWait struct {
	number uint64
	done   chan struct{}
}

func newAsyncSender(b *Bus) *asyncSender {
	s := &asyncSender{b: b, q: newSendQueue(&b.cfg, b.pressure), untold: untold{log: b.log}, ended: make(chan struct{})}
	s.life, s.stop = context.WithCancel(context.Background())
	return s
}

// enqueue queues p, whose message is ready to be stored.
func (s *asyncSender) enqueue(ctx context.Context, p *Pending) error {
	if r := s.b.pressure.rate; r != nil {
		if err := r.admit(ctx, p.name, p.id, 1); err != nil {
			return err
		}
	}
	p.size = messageSize(p.m)
	s.start()
	dropped, first, err := s.q.push(ctx, p)
	if dropped != nil {
		s.drop(dropped, first)
	}
	if err == nil {
		return nil
	}
	e := &Error{Code: CodeBacklog, Op: "publish", Name: p.name, ID: p.id, cause: err,
		Message: "the queue of PublishAsync is full (" + strconv.Itoa(s.q.capacity) + " events); not sent: " + err.Error()}
	switch {
	case errors.Is(err, ErrClosed):
		e.Code, e.Message = CodeClosed, err.Error()
	case errors.Is(err, context.Canceled):
		e.Code = CodeCancelled
	}
	return e
}

// drop gives an event its result that made room for a newer one.
func (s *asyncSender) drop(p *Pending, first bool) {
	if first {
		s.b.log.Warn("the queue of PublishAsync is full, dropping its oldest events", "name", p.name, "id", p.id, "capacity", s.q.capacity)
	}
	err := p.unsent(CodeBacklog, "the queue of PublishAsync was full (%d events): %w", s.q.capacity, ErrDropped)
	// They are many: each is counted and told to who asks, and none is logged.
	s.untold.add(failure{p: p, err: err, at: time.Now(), closing: s.isClosing(), logged: true})
	s.tell(p, err)
}

// messageSize is about what m takes on the wire. A value that stays in this process
// is not measured.
func messageSize(m *transport.Message) int {
	n := len(m.Body)
	for k, vs := range m.Header {
		for _, v := range vs {
			n += len(k) + len(v)
		}
	}
	return n
}

func (s *asyncSender) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started && !s.closing {
		s.started = true
		go s.run()
	}
}

func (s *asyncSender) run() {
	defer close(s.ended)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		now := time.Now()
		log := s.untold.sweep(now)
		batch, due, ended := s.q.take(now)
		switch {
		case len(batch) > 0:
			s.send(batch)
			continue
		case ended:
			return
		case due.IsZero() || !log.IsZero() && log.Before(due):
			due = log
		}
		if due.IsZero() {
			<-s.q.wake
			continue
		}
		t.Reset(due.Sub(now))
		select {
		case <-s.q.wake:
		case <-t.C:
		}
	}
}

// send stores a batch and gives each event its result. An event waits for an
// earlier one of its key, so that it can be held back if that fails.
func (s *asyncSender) send(batch []*Pending) {
	for rest := batch; len(rest) > 0; {
		n := untilKeyRepeats(rest)
		s.store(rest[:n])
		rest = rest[n:]
	}
	s.reached(batch[len(batch)-1].number)
}

// untilKeyRepeats returns how many events come before the second of some key.
func untilKeyRepeats(events []*Pending) int {
	var seen map[string]struct{}
	for i, p := range events {
		key := p.m.Key
		if key == "" {
			continue
		}
		if _, ok := seen[key]; ok {
			return i
		}
		if seen == nil {
			seen = map[string]struct{}{}
		}
		seen[key] = struct{}{}
	}
	return len(events)
}

// store stores events whose keys differ.
func (s *asyncSender) store(events []*Pending) {
	ms := make([]*transport.Message, 0, len(events))
	sent := make([]*Pending, 0, len(events))
	for _, p := range events {
		if err := s.heldBack(p); err != nil {
			s.settle(p, err)
			continue
		}
		ms, sent = append(ms, p.m), append(sent, p)
	}
	if len(ms) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.life, s.b.cfg.PublishTimeout)
	var err error
	if r := s.b.pressure.rate; r == nil {
		err = s.b.tr.Publish(ctx, ms...)
	} else {
		// That a batch is waited for is no lag.
		r.limiter.Observe(max(0, time.Since(sent[0].queued)-s.b.cfg.BatchTimeout))
		err = r.store(ctx, s.b.tr, ms...)
	}
	cancel()
	var each *transport.PublishError
	if errors.As(err, &each) && len(each.Outcomes) != len(ms) {
		each = nil
	}
	for i, p := range sent {
		switch {
		case err == nil:
			s.settle(p, nil)
		case each != nil:
			s.settle(p, fromOutcome(p.m, each.Outcomes[i]))
		default:
			s.settle(p, fromTransport("publish", p.name, p.id, err))
		}
	}
}

// heldBack returns why p must not be sent, if so: its bus gives up, or an earlier
// event of its key failed after p was queued.
func (s *asyncSender) heldBack(p *Pending) error {
	if s.life.Err() != nil {
		return p.unsent(CodeClosed, "it was not sent before Close ended; it is not stored: %w", ErrClosed)
	}
	if p.m.Key != "" {
		if id := s.q.brokenBy(p); id != "" {
			return p.unsent(CodeUnavailable, "not sent, because of event %s: %w", id, ErrOutOfOrder)
		}
	}
	return nil
}

// unsent is the error of an event that was queued and never sent.
func (p *Pending) unsent(code Code, format string, args ...any) error {
	e := errorf(code, "publish", p.name, format, args...)
	e.ID = p.id
	return e
}

// settle gives p its result.
func (s *asyncSender) settle(p *Pending, err error) {
	if err != nil && p.m.Key != "" && !errors.Is(err, ErrOutOfOrder) {
		s.q.failed(p)
	}
	if err != nil {
		s.untold.add(failure{p: p, err: err, at: time.Now(), closing: s.isClosing()})
	}
	s.tell(p, err)
}

// tell tells of the result of p.
func (s *asyncSender) tell(p *Pending, err error) {
	p.sends.count(err)
	if p.seen != nil {
		s.b.observePublished(p.m, p.seen, p.began, err)
	}
	p.settle(err)
}

func (s *asyncSender) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// reached notes that all events up to number have a result.
func (s *asyncSender) reached(number uint64) {
	s.q.mend(number)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = number
	waiting := s.flushes[:0]
	for _, w := range s.flushes {
		if w.number <= number {
			close(w.done)
		} else {
			waiting = append(waiting, w)
		}
	}
	clear(s.flushes[len(waiting):])
	s.flushes = waiting
}

// flushSessions is flush if an event of a session is on its way.
func (s *asyncSender) flushSessions(ctx context.Context) error {
	if !s.hasSessions() {
		return nil
	}
	return s.flush(ctx)
}

// hasSessions reports whether an event of a session is on its way.
func (s *asyncSender) hasSessions() bool {
	last := s.q.lastOfSession()
	s.mu.Lock()
	defer s.mu.Unlock()
	return last > s.settled
}

// flush sends what is queued at once and waits until it has its results.
func (s *asyncSender) flush(ctx context.Context) error {
	number := s.q.flushAll()
	s.mu.Lock()
	if s.settled >= number {
		s.mu.Unlock()
		return nil
	}
	w := flushWait{number, make(chan struct{})}
	s.flushes = append(s.flushes, w)
	s.mu.Unlock()
	if awaitClosed(ctx, w.done) {
		return nil
	}
	s.mu.Lock()
	left := number - min(s.settled, number)
	s.flushes = slices.DeleteFunc(s.flushes, func(o flushWait) bool { return o == w })
	s.mu.Unlock()
	e := errorf(CodeTimeout, "flush", "", "%d events have no result yet: %w", left, ctx.Err())
	e.Code = CodeOf(ctx.Err())
	return e
}

// close stores what is queued until ctx ends, for closeGrace at least, and gives
// up the rest. Its error counts what has failed meanwhile, and what has failed
// before and nobody knows.
func (s *asyncSender) close(ctx context.Context) error {
	s.q.close()
	s.mu.Lock()
	s.closing = true
	started := s.started
	s.mu.Unlock()
	defer s.stop()
	if !started {
		return nil
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if !awaitClosed(ctx, s.ended) && !awaitClosed(grace, s.ended) {
		s.stop()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		if !awaitClosed(grace, s.ended) {
			return errorf(CodeTimeout, "close", "", "the transport does not return from storing a batch of PublishAsync; what is queued has no result")
		}
	}
	return s.untold.report("close", true)
}
