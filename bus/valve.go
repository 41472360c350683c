package bus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// valve is the source of a reader with a circuit breaker. While that is open it has
// no source at the transport, so that nothing is fetched for it and what was
// prefetched is back with the group. While it is half-open it reads one delivery at
// a time, through a source that prefetches one.
type valve struct {
	g         *guard
	r         *reader
	subscribe func(ctx context.Context, prefetch int) (deliverySource, error)
	prefetch  int

	life context.Context // ends with Close
	stop context.CancelFunc
	kick chan struct{} // wakes run
	done chan struct{} // closed when run has ended

	mu       sync.Mutex
	src      deliverySource
	mode     valveMode
	closed   bool
	fetching bool          // somebody waits for the next probe
	moved    chan struct{} // closed, and replaced, when anything of this or the circuit has changed
}

type deliverySource = transport.Source[transport.Delivery]

// valveMode is how a valve reads.
type valveMode uint8

const (
	valveFull   valveMode = iota
	valveNarrow           // prefetching one
	valveShut             // src is closed
)

const (
	// probePrefetch is how many deliveries may wait in the transport while probing.
	probePrefetch = 1
	// reopenFirst and reopenLast are how long after a failed try to read again the
	// next one comes.
	reopenFirst = time.Second
	reopenLast  = 30 * time.Second
)

// newValve takes over src, which reads for r. It ends with Close.
func newValve(r *reader, policy resilience.Breaker, src deliverySource, prefetch int, subscribe func(context.Context, int) (deliverySource, error)) *valve {
	v := &valve{
		r: r, subscribe: subscribe, prefetch: prefetch, src: src,
		kick: make(chan struct{}, 1), done: make(chan struct{}), moved: make(chan struct{}),
	}
	v.life, v.stop = context.WithCancel(context.Background())
	v.g = &guard{kind: KindEvent, name: r.key.name, group: r.key.group, moved: v.wake}
	r.b.breakers.add(v.g, policy)
	go v.run()
	return v
}

// move wakes who waits in Next. v.mu is held.
func (v *valve) move() {
	close(v.moved)
	v.moved = make(chan struct{})
}

// wake wakes who waits in Next, and run.
func (v *valve) wake() {
	v.mu.Lock()
	v.move()
	v.mu.Unlock()
	select {
	case v.kick <- struct{}{}:
	default:
	}
}

// Next implements transport.Source.
func (v *valve) Next(ctx context.Context) (transport.Delivery, error) {
	for {
		v.mu.Lock()
		src, mode, closed, moved := v.src, v.mode, v.closed, v.moved
		v.mu.Unlock()
		if closed {
			return nil, transport.ErrClosed
		}
		var wait time.Duration // 0: until something moves
		switch state, _ := v.g.state(); {
		case mode == valveShut || state == resilience.BreakerOpen:
		case state == resilience.BreakerClosed:
			if d, err := src.Next(ctx); !v.replaced(src, err) {
				return d, err
			}
			continue
		case mode == valveNarrow:
			var free bool
			if free, wait = v.g.free(); free && v.claim() {
				d, err := v.probe(ctx, src)
				if !v.replaced(src, err) {
					return d, err
				}
				continue
			}
		}
		if err := await(ctx, moved, wait); err != nil {
			return nil, err
		}
	}
}

// await waits until moved is closed, for d if that is above 0, or until ctx ends.
func await(ctx context.Context, moved <-chan struct{}, d time.Duration) error {
	var timeout <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-moved:
	case <-timeout:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// replaced reports whether an error of src.Next only says that src is not read any
// more.
func (v *valve) replaced(src deliverySource, err error) bool {
	if !errors.Is(err, transport.ErrClosed) {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return !v.closed && (v.src != src || v.mode == valveShut)
}

// claim takes the turn to fetch the next probe.
func (v *valve) claim() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	free := !v.fetching
	v.fetching = true
	return free
}

// probe fetches one delivery for a half-open circuit. The turn ends when the circuit
// knows of the probe.
func (v *valve) probe(ctx context.Context, src deliverySource) (transport.Delivery, error) {
	defer func() {
		v.mu.Lock()
		v.fetching = false
		v.move()
		v.mu.Unlock()
	}()
	d, err := src.Next(ctx)
	if err != nil {
		return nil, err
	}
	p, _, ok := v.g.enter()
	if !ok {
		p = v.g.none() // it goes back
	}
	return &probing{d, p}, nil
}

// probing is a delivery that probes the circuit.
type probing struct {
	transport.Delivery
	permit permit
}

// admit returns the permit with which a delivery that Next has returned is handled.
func (v *valve) admit(d transport.Delivery) (transport.Delivery, *permit) {
	if p, ok := d.(*probing); ok {
		return p.Delivery, &p.permit
	}
	p := v.g.closedPermit()
	return d, &p
}

// run makes the source follow the circuit, until Close.
func (v *valve) run() {
	defer close(v.done)
	retry := reopenFirst
	for {
		state, wait := v.g.state()
		want := valveFull
		switch state {
		case resilience.BreakerOpen:
			want = valveShut
		case resilience.BreakerHalfOpen:
			want = valveNarrow
		}
		if err := v.set(want); err == nil {
			retry = reopenFirst
		} else if v.life.Err() == nil {
			v.r.b.log.Warn("group not read again yet after its circuit breaker had paused it",
				"name", v.r.key.name, "group", v.r.key.group, "err", err)
			wait, retry = retry, min(2*retry, reopenLast)
		}
		if await(v.life, v.kick, wait) != nil {
			return
		}
	}
}

// set makes the valve read in that mode.
func (v *valve) set(mode valveMode) error {
	v.mu.Lock()
	was, src := v.mode, v.src
	if mode == valveShut {
		v.mode = mode
	}
	v.mu.Unlock()
	switch {
	case was == mode:
		return nil
	case mode == valveShut:
		v.shut(src)
		return nil
	}
	prefetch := v.prefetch
	if mode == valveNarrow {
		prefetch = probePrefetch
	}
	ctx, cancel := context.WithTimeout(v.life, v.r.b.cfg.PublishTimeout)
	defer cancel()
	next, err := v.subscribe(ctx, prefetch)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.src, v.mode = next, mode
	v.move()
	v.mu.Unlock()
	v.closeSource(src.Close)
	return nil
}

// shut closes the source for a while. One that wants to know that it is not for good,
// as that of a test kit, has Pause, and is closed later.
func (v *valve) shut(src deliverySource) {
	if p, ok := src.(interface{ Pause(context.Context) error }); ok {
		v.closeSource(p.Pause)
	} else {
		v.closeSource(src.Close)
	}
}

func (v *valve) closeSource(do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(v.life), settleTimeout)
	defer cancel()
	if err := do(ctx); err != nil {
		v.r.b.log.Warn("event source not closed", "name", v.r.key.name, "group", v.r.key.group, "err", err)
	}
}

// Close implements transport.Source.
func (v *valve) Close(ctx context.Context) error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.closed = true
	v.move()
	v.mu.Unlock()
	v.stop()
	v.r.b.breakers.remove(v.g)
	if !awaitClosed(ctx, v.done) {
		return ctx.Err()
	}
	return v.src.Close(ctx)
}
