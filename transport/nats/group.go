package nats

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

const (
	defaultAckWait       = 30 * time.Second
	defaultMaxAckPending = 10_000
	defaultPrefetch      = 32
	maxPrefetch          = 1 << 16
	minAckWait           = 100 * time.Millisecond
)

// groupReader is one reader of a durable group. It merges what the group reads
// from the event stream and what was sent to it alone, each pulled through a
// durable consumer.
type groupReader struct {
	t         *Transport
	sub       transport.Subscription
	pullers   []*puller
	leaseFor  time.Duration // how long a copy is surely ours
	stopClaim context.CancelFunc
	unhook    func()
	done      sync.WaitGroup

	closeOnce sync.Once
	closed    chan struct{}
	ready     chan struct{} // holds a token while buf may have deliveries

	mu       sync.Mutex
	buf      []*delivery // in order of arrival
	head     int         // buf[:head] was taken
	stale    bool        // copies went back unread: no more until Next is called
	sweeping bool        // they are going back now
	wanted   bool        // Next was called meanwhile
	broken   error       // what keeps the reader from reading, told once by Next
}

func newGroupReader(ctx context.Context, t *Transport, s transport.Subscription) (*groupReader, error) {
	if s.Session != "" {
		return nil, fmt.Errorf("%w subscription: a group has no session", transport.ErrInvalid)
	}
	if err := checkName(s.Name); err != nil {
		return nil, err
	}
	retry, err := t.names.retry(s.Group, s.Name)
	if err != nil {
		return nil, err
	}
	if s.AckWait == 0 {
		s.AckWait = defaultAckWait
	}
	if s.MaxAckPending == 0 {
		s.MaxAckPending = defaultMaxAckPending
	}
	if s.Prefetch == 0 {
		s.Prefetch = defaultPrefetch
	}
	switch {
	case s.AckWait < minAckWait:
		return nil, fmt.Errorf("%w subscription: AckWait %v must be at least %v", transport.ErrInvalid, s.AckWait, minAckWait)
	case s.MaxAckPending < 0:
		return nil, fmt.Errorf("%w subscription: MaxAckPending %d must not be negative", transport.ErrInvalid, s.MaxAckPending)
	case s.Prefetch < 0 || s.Prefetch > maxPrefetch:
		return nil, fmt.Errorf("%w subscription: Prefetch %d must be 1 to %d", transport.ErrInvalid, s.Prefetch, maxPrefetch)
	}
	g := &groupReader{t: t, sub: s, leaseFor: s.AckWait / 10 * 8, closed: make(chan struct{}), ready: make(chan struct{}, 1)}
	consumer := durable(s.Group, s.Name)
	retries := max(s.Prefetch/8, 1) // with a prefetch of one, one of each
	g.pullers = []*puller{
		{g: g, stream: t.names.events(), consumer: consumer, filter: t.names.everyScope(s.Name), room: max(s.Prefetch-retries, 1)},
		{g: g, stream: t.names.retries(), consumer: consumer, filter: retry, room: retries, retry: true},
	}
	for _, p := range g.pullers {
		if err := p.open(ctx); err != nil {
			for _, p := range g.pullers {
				p.drop()
			}
			return nil, err
		}
		if p.ackWait < g.sub.AckWait { // it may not be changed
			g.sub.AckWait, g.leaseFor = p.ackWait, p.ackWait/10*8
		}
	}
	g.unhook = t.link.onEvent(func(ev linkEvent) {
		for _, p := range g.pullers {
			p.onLink(ev)
		}
	})
	var life context.Context
	life, g.stopClaim = context.WithCancel(context.Background())
	for _, p := range g.pullers {
		g.done.Go(func() { p.run(life) })
		p.pull()
	}
	g.done.Go(func() { g.sweep(life) })
	return g, nil
}

// push adds a delivery that arrived. One that comes while the reader closes is
// handed back by Close.
func (g *groupReader) push(d *delivery) {
	g.mu.Lock()
	if g.head > 0 && len(g.buf) == cap(g.buf) {
		n := copy(g.buf, g.buf[g.head:])
		clear(g.buf[n:])
		g.buf, g.head = g.buf[:n], 0
	}
	g.buf = append(g.buf, d)
	g.mu.Unlock()
	g.signal()
}

func (g *groupReader) signal() {
	select {
	case g.ready <- struct{}{}:
	default:
	}
}

// pop takes the oldest delivery, or the error that stands in for one. more says
// that others are left.
func (g *groupReader) pop() (d *delivery, more bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.head < len(g.buf) {
		d = g.take()
	} else if g.broken != nil {
		err, g.broken = g.broken, nil
	}
	return d, g.head < len(g.buf) || g.broken != nil, err
}

// take removes the oldest delivery. The caller holds the lock.
func (g *groupReader) take() *delivery {
	d := g.buf[g.head]
	g.buf[g.head] = nil
	if g.head++; g.head == len(g.buf) {
		g.buf, g.head = g.buf[:0], 0
	}
	return d
}

// takeAll removes every delivery. The caller holds the lock.
func (g *groupReader) takeAll() (ds []*delivery) {
	for g.head < len(g.buf) {
		ds = append(ds, g.take())
	}
	return ds
}

// Next implements transport.Source. It errors with what the server says when the
// group cannot be read, such as that its stream is gone.
func (g *groupReader) Next(ctx context.Context) (transport.Delivery, error) {
	for {
		if g.isClosed() {
			return nil, fmt.Errorf("subscription %q of group %q: %w", g.sub.Name, g.sub.Group, transport.ErrClosed)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, more, err := g.pop()
		if more {
			g.signal() // for the next who waits
		}
		if err != nil {
			return nil, fmt.Errorf("subscription %q of group %q: %w", g.sub.Name, g.sub.Group, err)
		}
		if d == nil {
			g.resume()
			select {
			case <-g.ready:
			case <-g.closed:
			case <-ctx.Done():
			}
			continue
		}
		d.p.taken()
		if d.waited() >= g.sub.AckWait/2 {
			g.giveBack(d)
			continue
		}
		if err := g.t.countHandBacks(ctx, d); err != nil {
			g.giveBack(d)
			if ctx.Err() == nil {
				return nil, err
			}
			continue
		}
		return d, nil
	}
}

// resume reads again after copies had gone back because nobody called Next. While
// they still go back it is left to sweep, so that they come again in order.
func (g *groupReader) resume() {
	g.mu.Lock()
	g.wanted = true
	was := g.stale && !g.sweeping
	if was {
		g.stale = false
	}
	g.mu.Unlock()
	if was {
		g.pull()
	}
}

func (g *groupReader) pull() {
	for _, p := range g.pullers {
		p.pull()
	}
}

// fail makes the next Next return err.
func (g *groupReader) fail(err error) {
	g.mu.Lock()
	g.broken = err
	g.mu.Unlock()
	g.signal()
}

// giveBack hands a copy that was not run to the group.
func (g *groupReader) giveBack(d *delivery) {
	ctx, cancel := context.WithTimeout(context.Background(), handBackTry)
	defer cancel()
	g.giveBackAll(ctx, []*delivery{d})
}

// recordsAtOnce is how many hand-backs are recorded side by side.
const recordsAtOnce = 8

// giveBackAll hands copies that were not run to the group, so that it gets them
// again in their order: the server has taken the last one when it returns.
func (g *groupReader) giveBackAll(ctx context.Context, ds []*delivery) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, recordsAtOnce)
	ours := ds[:0]
	for _, d := range ds {
		if d.begin(ctx) != nil {
			continue // its lease is over: the group has it again anyway
		}
		ours = append(ours, d)
		slots <- struct{}{}
		wg.Go(func() {
			d.record(ctx)
			<-slots
		})
	}
	wg.Wait()
	last := map[*puller]*delivery{}
	for _, d := range ours {
		last[d.p] = d
	}
	for _, d := range ours {
		var err error
		if last[d.p] == d {
			err = d.sendOnce(ctx, ackNak)
		} else {
			err = d.send(ackNak)
		}
		if d.finish(err) != nil {
			g.t.log.Warn("cannot hand back a delivery; the group gets it after AckWait",
				"name", g.sub.Name, "group", g.sub.Group, "err", err)
		}
	}
}

// sweep hands everything back that waits for Next once the oldest has waited for
// half of AckWait: somebody else may have a worker for it.
func (g *groupReader) sweep(ctx context.Context) {
	for sleep(ctx, g.sub.AckWait/4) {
		var old []*delivery
		g.mu.Lock()
		if g.head < len(g.buf) && g.buf[g.head].waited() >= g.sub.AckWait/2 {
			old = g.takeAll()
			g.stale, g.sweeping, g.wanted = true, true, false
		}
		g.mu.Unlock()
		if old == nil {
			continue
		}
		for _, d := range old {
			d.p.taken()
		}
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), handBackTry)
		g.giveBackAll(try, old)
		cancel()
		g.mu.Lock()
		g.sweeping = false
		g.stale = !g.wanted
		again := g.wanted
		g.mu.Unlock()
		if again {
			g.pull()
		}
	}
}

func (g *groupReader) isStale() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stale
}

func (g *groupReader) isClosed() bool {
	select {
	case <-g.closed:
		return true
	default:
		return false
	}
}

// Close implements transport.Source. What the server sent before it hears that
// the reader is gone goes back too.
func (g *groupReader) Close(ctx context.Context) (err error) {
	g.closeOnce.Do(func() {
		g.mu.Lock()
		close(g.closed)
		g.mu.Unlock()
		g.unhook()
		g.stopClaim()
		g.done.Wait()
		for _, p := range g.pullers {
			if e := p.drain(ctx); e != nil {
				err = fmt.Errorf("close subscription %q of group %q: %w", g.sub.Name, g.sub.Group, e)
			}
		}
		g.mu.Lock()
		left := g.takeAll()
		g.mu.Unlock()
		g.giveBackAll(ctx, left)
		g.t.disown(g)
	})
	return err
}
