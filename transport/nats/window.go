package nats

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport"
)

// window matches replies with what waits for them: publishes that wait for the
// stream's answer, requests, and confirmed acknowledgements. All share one
// wildcard subscription on an inbox; a number in the reply subject says whose
// reply it is. That is cheaper than a future per message, and it leaves what a
// lost connection means to each waiter instead of failing them all.
type window struct {
	link   *link
	prefix string // of reply subjects, with the last dot

	slots chan struct{} // taken by each publish that is on its way
	wake  chan struct{} // starts the sweeper
	quit  chan struct{}
	done  sync.WaitGroup

	askers sync.Pool // of *asker

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*publication
	asking  map[uint64]*asker
	lanes   map[string][]*publication // publishes behind the one on its way, by key
	active  bool                      // the sweeper runs
	closed  bool
	sub     *nats.Subscription
}

const (
	// replyRoom holds most reply subjects.
	replyRoom = 128
	// windowSize is how many publishes are on their way at once. More gain
	// nothing: the stream takes them one by one.
	windowSize = 1024
	// sweepInterval is how often publishes without an answer are looked at.
	sweepInterval = 50 * time.Millisecond
	// sweepLinger is how long the sweeper looks on when there are none.
	sweepLinger = time.Second
)

// newWindow subscribes the inbox. It is live when it returns.
func newWindow(ctx context.Context, l *link, inboxPrefix string) (*window, error) {
	w := &window{
		link: l, prefix: inboxPrefix + "." + replyMark + newToken() + ".",
		slots: make(chan struct{}, windowSize), wake: make(chan struct{}, 1), quit: make(chan struct{}),
		waiting: map[uint64]*publication{}, asking: map[uint64]*asker{}, lanes: map[string][]*publication{},
	}
	before := l.conn().LastError()
	if err := w.subscribe(); err != nil {
		return nil, mapError("subscribe the reply inbox", err)
	}
	if err := settleSubscription(ctx, l, before, w.prefix+">"); err != nil {
		return nil, mapError("subscribe the reply inbox", err)
	}
	l.onEvent(w.onLink)
	l.onDenied(w.deny)
	w.done.Go(w.sweep)
	return w, nil
}

func (w *window) subscribe() error {
	sub, err := w.link.conn().Subscribe(w.prefix+">", w.receive)
	if err != nil {
		return err
	}
	// A reply that is dropped is a request that times out: bound bytes, not
	// the number.
	if err := sub.SetPendingLimits(-1, 256<<20); err != nil {
		return err
	}
	w.mu.Lock()
	w.sub = sub
	w.mu.Unlock()
	return nil
}

// onLink subscribes again on a new connection, and tries every publish again
// whose answer may have been lost with the old.
func (w *window) onLink(ev linkEvent) {
	if ev == linkNew {
		if err := w.subscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			w.link.log.Error("cannot subscribe the reply inbox", "err", err)
		}
	}
	now := time.Now()
	w.mu.Lock()
	for _, p := range w.waiting {
		p.next = now
	}
	w.mu.Unlock()
}

func (w *window) replySubject(n uint64) string {
	var room [replyRoom]byte
	b := append(room[:0], w.prefix...)
	return string(strconv.AppendUint(b, n, 36))
}

func (w *window) receive(m *nats.Msg) {
	number, _, _ := strings.Cut(m.Subject[len(w.prefix):], ".")
	n, err := strconv.ParseUint(number, 36, 64)
	if err != nil {
		return
	}
	w.mu.Lock()
	if x := w.asking[n]; x != nil {
		x.put(answer{m: m})
		w.mu.Unlock()
		return
	}
	p := w.waiting[n]
	w.mu.Unlock()
	if p != nil {
		p.reply(m)
	}
}

// deny tells those that wait for an answer on a subject that the server refuses it.
func (w *window) deny(subject string, err error) {
	w.mu.Lock()
	for _, x := range w.asking {
		if x.subject == subject {
			x.put(answer{err: err})
		}
	}
	all := make([]*publication, 0, len(w.waiting))
	for _, p := range w.waiting {
		all = append(all, p)
	}
	w.mu.Unlock()
	for _, p := range all {
		p.denied(subject, err)
	}
}

// sweep sends publishes again that have waited long enough. It sleeps while
// there are none.
func (w *window) sweep() {
	tick := time.NewTimer(time.Hour)
	defer tick.Stop()
	idle := time.Duration(0)
	for {
		tick.Reset(sweepInterval)
		if idle >= sweepLinger {
			tick.Stop()
		}
		select {
		case <-w.quit:
			return
		case <-w.wake:
			idle = 0
			continue
		case <-tick.C:
		}
		idle += sweepInterval
		due, some := w.due(time.Now(), idle >= sweepLinger)
		if some {
			idle = 0
			w.pollDenied()
		}
		for _, r := range due {
			w.resend(r)
		}
	}
}

// pollDenied finds a refused subject of a caller's connection, whose error
// handler is not ours.
func (w *window) pollDenied() {
	if w.link.owned {
		return
	}
	err := w.link.conn().LastError()
	if err == nil {
		return
	}
	if subject, publish, ok := deniedSubject(err); ok && publish {
		w.deny(subject, err)
	}
}

// close fails everything that waits.
func (w *window) close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	sub := w.sub
	w.mu.Unlock()
	close(w.quit)
	w.done.Wait()
	if sub != nil && sub.IsValid() {
		_ = sub.Unsubscribe() // the connection may be gone, and the subscription with it
	}
}

// question is what ask sends.
type question struct {
	subject string
	header  nats.Header
	data    []byte
	// id and left go into the reply subject; without an id, left becomes a header.
	id   string
	left time.Duration
}

// ask sends q and waits for one reply. sent says whether it may have reached the
// server.
func (w *window) ask(ctx context.Context, q question) (reply *nats.Msg, sent bool, err error) {
	x, n, err := w.begin(q.subject)
	if err != nil {
		return nil, false, err
	}
	defer w.end(x, n)
	if err := w.send(n, q); err != nil {
		return nil, false, err
	}
	var poll <-chan time.Time
	if !w.link.owned {
		t := time.NewTicker(firstTry)
		defer t.Stop()
		poll = t.C
	}
	for {
		select {
		case a := <-x.c:
			return a.m, true, a.err
		case <-ctx.Done():
			return nil, true, ctx.Err()
		case <-w.quit:
			return nil, true, transport.ErrClosed
		case <-poll:
			w.pollDenied()
		}
	}
}

func (w *window) send(n uint64, q question) error {
	var room [replyRoom]byte
	b := append(room[:0], w.prefix...)
	b = strconv.AppendUint(b, n, 36)
	if q.id != "" {
		b = appendReply(b, q.left, q.id)
	} else if q.left > 0 {
		if q.header == nil {
			q.header = make(nats.Header, 1)
		}
		q.header[hdrTimeout] = []string{encodeTimeout(q.left)}
	}
	if len(q.header) == 0 {
		return w.link.conn().PublishRequest(q.subject, string(b), q.data)
	}
	return w.link.conn().PublishMsg(&nats.Msg{Subject: q.subject, Reply: string(b), Header: q.header, Data: q.data})
}

// asker waits for one reply. It is used again: only who holds the window's lock
// and finds it there may give it one.
type asker struct {
	subject string
	c       chan answer // holds one
}

type answer struct {
	m   *nats.Msg
	err error
}

func (a *asker) put(x answer) {
	select {
	case a.c <- x:
	default: // it has one
	}
}

// begin registers an asker and returns its number.
func (w *window) begin(subject string) (*asker, uint64, error) {
	x, ok := w.askers.Get().(*asker)
	if !ok {
		x = &asker{c: make(chan answer, 1)}
	}
	x.subject = subject
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, 0, transport.ErrClosed
	}
	w.last++
	w.asking[w.last] = x
	return x, w.last, nil
}

// end takes back what begin gave.
func (w *window) end(x *asker, n uint64) {
	w.mu.Lock()
	delete(w.asking, n)
	w.mu.Unlock()
	select {
	case <-x.c: // nobody has read it
	default:
	}
	w.askers.Put(x)
}

// noResponders says whether a reply is the server's word that nobody listens.
func noResponders(m *nats.Msg) bool {
	if len(m.Data) > 0 || len(m.Header) == 0 {
		return false
	}
	v := m.Header["Status"]
	return len(v) == 1 && v[0] == "503"
}

// settleSubscription waits until the server has seen the subscriptions made so
// far, and reports it if it refused the one to subject. before is the
// connection's last error from before subscribing.
func settleSubscription(ctx context.Context, l *link, before error, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, flushDeadline)
	defer cancel()
	nc := l.conn()
	if err := nc.FlushWithContext(ctx); err != nil {
		return err
	}
	// The refusal comes before the answer to the flush.
	last := nc.LastError()
	if s, publish, ok := newDenial(before, last); ok && !publish && s == subject {
		return last
	}
	return nil
}
