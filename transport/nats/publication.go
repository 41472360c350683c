package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport"
)

// batch is the messages of one Publish.
type batch struct {
	all  []publication
	one  [1]publication
	left int           // not settled; guarded by the window's lock
	done chan struct{} // receives when left is 0
}

func newBatch(n int) *batch {
	b := &batch{done: make(chan struct{}, 1)}
	if n == 1 {
		b.all = b.one[:]
	} else {
		b.all = make([]publication, n)
	}
	return b
}

// publication is one message on its way into a stream. The window's lock guards
// what follows msg.
type publication struct {
	w    *window
	b    *batch
	key  string
	name string
	msg  nats.Msg

	n       uint64 // its number in the window; 0 before it was sent
	slot    bool   // it holds one of the window's slots
	laned   bool   // it is the one on its way of its key
	settled bool
	tries   int       // how often it was sent
	refusal int       // how often it was refused in a way that passes
	open    int       // tries that were not answered: it may be stored
	next    time.Time // when it is sent again
	last    error     // the last refusal
	out     transport.Outcome
}

// publish sends b and waits until every message is settled or ctx ends.
func (w *window) publish(ctx context.Context, b *batch) {
	for i := range b.all {
		if p := &b.all[i]; !p.settled && !w.submit(ctx, p) {
			break
		}
	}
	select {
	case <-b.done:
		return
	case <-ctx.Done():
		w.abandon(b, ctx.Err())
	case <-w.quit:
		w.abandon(b, transport.ErrClosed)
	}
}

// submit sends p, or leaves it to its lane when another message of its key is
// on its way. It returns false if ctx ended first.
func (w *window) submit(ctx context.Context, p *publication) bool {
	if p.key != "" {
		w.mu.Lock()
		behind, busy := w.lanes[p.key]
		if busy {
			w.lanes[p.key] = append(behind, p)
			w.mu.Unlock()
			return true
		}
		w.lanes[p.key] = nil
		p.laned = true
		w.mu.Unlock()
	}
	select {
	case w.slots <- struct{}{}:
	default:
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return false
		case <-w.quit:
			return false
		}
	}
	w.mu.Lock()
	p.slot = true
	w.start(p)
	w.mu.Unlock()
	w.sent(p, w.link.conn().PublishMsg(&p.msg))
	return true
}

// start registers p and counts its first try. The caller holds the lock.
func (w *window) start(p *publication) {
	w.last++
	p.n = w.last
	w.waiting[p.n] = p
	p.msg.Reply = w.replySubject(p.n)
	p.next = time.Now().Add(firstTry)
	p.tries, p.open = 1, 1
	if !w.active {
		w.active = true
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// sent notes what the client said to a try.
func (w *window) sent(p *publication, err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	var follow *nats.Msg
	if !p.settled {
		p.open--
		if errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrBadHeaderMsg) {
			follow = w.settle(p, transport.Refused, err)
		} else {
			p.last = err
			p.refuse()
		}
	}
	w.mu.Unlock()
	w.follow(follow)
}

// refuse plans the next try after a refusal that passes.
func (p *publication) refuse() {
	p.next = time.Now().Add(min(firstRefuse<<min(p.refusal, 8), maxRefuse))
	p.refusal++
}

// reply takes the stream's answer.
func (p *publication) reply(m *nats.Msg) {
	w := p.w
	if noResponders(m) {
		w.mu.Lock()
		if !p.settled {
			p.open--
			p.last = fmt.Errorf("no stream takes it: %w", nats.ErrNoResponders)
			p.refuse()
		}
		w.mu.Unlock()
		return
	}
	a, ok := parsePubAck(m.Data)
	if !ok {
		return // not from a stream; the sweeper tries again
	}
	w.mu.Lock()
	var follow *nats.Msg
	switch {
	case p.settled:
	case a.status == 0 && a.duplicate && p.tries == 1:
		follow = w.settle(p, transport.Duplicate, nil)
	case a.status == 0:
		// A duplicate of our own earlier try is this message, stored.
		follow = w.settle(p, transport.Stored, nil)
	case a.code == codeDuplicateInFlight:
		p.last = a.err()
		p.refuse()
	case passes(a.code, a.status):
		p.open--
		p.last = a.err()
		p.refuse()
	default:
		follow = w.settle(p, transport.Refused, a.err())
	}
	w.mu.Unlock()
	w.follow(follow)
}

// err is the error of a refusal.
func (a pubAck) err() error {
	err := fmt.Errorf("%s (error %d)", a.text, a.code)
	switch a.code {
	case codeStoreFailed, codeResourcesExceeded:
		return fmt.Errorf("%w: %w", &transport.BacklogError{}, err)
	}
	return fmt.Errorf("%w: %w", kindOfCode(a.code, a.status), err)
}

func (p *publication) denied(subject string, err error) {
	w := p.w
	w.mu.Lock()
	var follow *nats.Msg
	if !p.settled && p.msg.Subject == subject {
		p.open = 0
		follow = w.settle(p, transport.Refused, fmt.Errorf("%w: %w", transport.ErrPermission, err))
	}
	w.mu.Unlock()
	w.follow(follow)
}

// settle ends p and gives its slot to the next of its key, which it returns to
// be sent. The caller holds the lock.
func (w *window) settle(p *publication, s transport.Status, err error) (follow *nats.Msg) {
	if err != nil {
		err = fmt.Errorf("publish %q: %w", p.name, err)
	}
	p.settled, p.out = true, transport.Outcome{Status: s, Err: err}
	if p.n != 0 {
		delete(w.waiting, p.n)
	}
	if p.laned {
		behind := w.lanes[p.key]
		if len(behind) == 0 {
			delete(w.lanes, p.key)
		} else {
			next := behind[0]
			w.lanes[p.key] = behind[1:]
			// Without a slot, because the caller of p gave up waiting for one,
			// the next goes without too.
			next.laned, next.slot, p.slot = true, p.slot, false
			w.start(next)
			follow = cloneMsg(&next.msg)
		}
	}
	if p.slot {
		p.slot = false
		<-w.slots
	}
	if p.b.left--; p.b.left == 0 {
		p.b.done <- struct{}{}
	}
	return follow
}

// follow sends the next message of a key.
func (w *window) follow(m *nats.Msg) {
	if m == nil {
		return
	}
	if err := w.link.conn().PublishMsg(m); err != nil {
		w.failed(m.Reply, err)
	}
}

// failed notes that the try of a message was not sent.
func (w *window) failed(replySubject string, err error) {
	w.mu.Lock()
	var found *publication
	for _, p := range w.waiting {
		if p.msg.Reply == replySubject {
			found = p
			break
		}
	}
	w.mu.Unlock()
	if found != nil {
		w.sent(found, err)
	}
}

// abandon ends what of b is not settled, because of cause.
func (w *window) abandon(b *batch, cause error) {
	var follows []*nats.Msg
	w.mu.Lock()
	for i := range b.all {
		p := &b.all[i]
		if p.settled {
			continue
		}
		if behind := w.lanes[p.key]; p.key != "" && !p.laned && len(behind) > 0 {
			w.lanes[p.key] = without(behind, p)
		}
		status, kind := transport.Refused, transport.ErrUnavailable
		if p.open > 0 {
			status, kind = transport.Unknown, transport.ErrUnknown
		}
		if cause == transport.ErrClosed && p.open == 0 {
			kind = transport.ErrClosed
		}
		err := fmt.Errorf("%w: %w", kind, cause)
		if p.last != nil {
			err = fmt.Errorf("%w, last refusal: %w", err, p.last)
		}
		if m := w.settle(p, status, err); m != nil {
			follows = append(follows, m)
		}
	}
	w.mu.Unlock()
	for _, m := range follows {
		w.follow(m)
	}
}

// due returns copies of the publishes to send again now, and whether any is on
// its way. With last, and if none is, the sweeper is told to sleep.
func (w *window) due(now time.Time, last bool) (due []*nats.Msg, some bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ps []*publication
	for _, p := range w.waiting {
		some = true
		if !now.Before(p.next) {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, func(a, b *publication) int { return cmp.Compare(a.n, b.n) })
	for _, p := range ps {
		p.next = now.Add(min(firstTry<<min(p.tries, 8), maxTry))
		p.tries++
		p.open++
		// A copy: the caller may give up and reuse the message meanwhile.
		due = append(due, cloneMsg(&p.msg))
	}
	if last && !some {
		w.active = false
	}
	return due, some
}

// resend sends a copy of a publish that was sent before.
func (w *window) resend(m *nats.Msg) {
	if err := w.link.conn().PublishMsg(m); err != nil {
		w.failed(m.Reply, err)
	}
}

func cloneMsg(m *nats.Msg) *nats.Msg {
	c := &nats.Msg{Subject: m.Subject, Reply: m.Reply, Data: append([]byte(nil), m.Data...)}
	c.Header = make(nats.Header, len(m.Header))
	for k, v := range m.Header {
		c.Header[k] = append([]string(nil), v...)
	}
	return c
}

func without(list []*publication, p *publication) []*publication {
	for i, x := range list {
		if x == p {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}
