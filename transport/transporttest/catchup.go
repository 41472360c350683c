package transporttest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func catchUpCases() []testCase {
	catchesUp := func(f Features) bool { return !f.NoCatchUp }
	return []testCase{
		{name: "CatchUpIdle", run: catchUpIdle, needs: catchesUp},
		{name: "CatchUpWaitsForNext", run: catchUpWaitsForNext, needs: catchesUp},
		{name: "CatchUpWaitsForSettlements", run: catchUpWaitsForSettlements, needs: catchesUp},
		{name: "CatchUpWaitsForRetries", run: catchUpWaitsForRetries, needs: catchesUp},
		{name: "CatchUpLeft", run: catchUpLeft, needs: catchesUp},
		{name: "CatchUpSeveral", run: catchUpSeveral, needs: catchesUp},
		{name: "CatchUpSession", run: catchUpSession, needs: catchesUp},
		{name: "CatchUpLaterEvents", run: catchUpLaterEvents, needs: catchesUp},
		{name: "CatchUpBeforeLaterEvents", run: catchUpBeforeLaterEvents, needs: catchesUp},
		{name: "CatchUpSteadyStream", run: catchUpSteadyStream, needs: catchesUp},
		{name: "CatchUpDelayedEvents", run: catchUpDelayedEvents, needs: catchesUp},
		{name: "CatchUpAfterPublish", run: catchUpAfterPublish, needs: catchesUp},
		{name: "CatchUpContext", run: catchUpContext, needs: catchesUp},
		{name: "CatchUpClose", run: catchUpClose, needs: catchesUp},
	}
}

// startCatchUp runs CatchUp beside the case.
func (e *env) startCatchUp(src transport.Source[transport.Delivery], left int) <-chan error {
	e.t.Helper()
	c, ctx := e.catchUpper(src), e.ctx()
	return start(func() error { return c.CatchUp(ctx, left) })
}

func (e *env) catchUpper(src transport.Source[transport.Delivery]) transport.CatchUpper {
	e.t.Helper()
	c, ok := src.(transport.CatchUpper)
	require.True(e.t, ok, "the source of a private reader is no transport.CatchUpper; see Features.NoCatchUp")
	return c
}

func (e *env) catchUp(src transport.Source[transport.Delivery], left int) {
	e.t.Helper()
	require.NoError(e.t, e.catchUpper(src).CatchUp(e.ctx(), left), "catch up")
}

// waits checks that what start began goes on for as long as the case watches.
func (e *env) waits(c <-chan error) {
	e.t.Helper()
	select {
	case err := <-c:
		require.Fail(e.t, "it did not wait", "it returned %v", err)
	case <-time.After(e.quiet):
	}
}

func catchUpIdle(e *env) {
	tr := e.open()
	e.publish(tr, e.event("a.done", "before the reader"))
	src := e.private(tr, "a.done")
	for _, left := range []int{0, 1, -1} {
		e.catchUp(src, left)
	}
	e.publish(tr, e.events("a.done", 10)...)
	e.take(src, 10)
	e.catchUp(src, 0)
	e.publish(tr, e.event("b.done", "another name"))
	e.catchUp(src, 0)
}

func catchUpWaitsForNext(e *env) {
	publisher, tr := e.open(), e.open()
	src := e.private(tr, "a.done")
	e.publish(publisher, e.events("a.done", 3)...)
	// What may be left unsettled has to be handed out all the same.
	all, none := e.startCatchUp(src, 3), e.startCatchUp(src, 0)
	e.waits(all)
	e.take(src, 2)
	e.waits(all)
	d := e.next(src)
	require.NoError(e.t, e.result(all))
	e.waits(none)
	e.ack(d)
	require.NoError(e.t, e.result(none))
}

func catchUpWaitsForSettlements(e *env) {
	tr := e.open()
	src := e.private(tr, "a.done")
	for name, settle := range map[string]func(context.Context, transport.Delivery) error{
		"ack":  func(ctx context.Context, d transport.Delivery) error { return d.Ack(ctx) },
		"term": func(ctx context.Context, d transport.Delivery) error { return d.Term(ctx, "no") },
	} {
		e.publish(tr, e.events("a.done", 2)...)
		d := e.next(src)
		e.take(src, 1)
		done := e.startCatchUp(src, 0)
		e.waits(done)
		require.NoError(e.t, d.Extend(e.ctx()))
		e.waits(done)
		require.NoError(e.t, settle(e.ctx(), d), name)
		require.NoError(e.t, e.result(done), name)
		require.ErrorIs(e.t, settle(e.ctx(), d), transport.ErrSettled, name)
		e.catchUp(src, 0) // a second settlement counts for nothing
	}
}

func catchUpWaitsForRetries(e *env) {
	tr := e.open()
	src := e.private(tr, "a.done")
	e.publish(tr, e.event("a.done", "x"))
	require.NoError(e.t, e.next(src).Nak(e.ctx(), e.delay))
	before := time.Now()
	early := e.startCatchUp(src, 1) // while it waits for its time
	e.waits(early)
	d := e.next(src)
	require.GreaterOrEqual(e.t, time.Since(before), e.delay-e.quiet)
	require.NoError(e.t, e.result(early), "one may be left")

	all := e.startCatchUp(src, 0)
	require.NoError(e.t, d.Nak(e.ctx(), 0))
	e.waits(all)
	require.NoError(e.t, e.next(src).Release(e.ctx()))
	e.waits(all)
	d = e.next(src)
	require.Equal(e.t, 3, d.Deliveries())
	e.waits(all)
	e.ack(d)
	require.NoError(e.t, e.result(all))
}

func catchUpLeft(e *env) {
	tr := e.open()
	src := e.private(tr, "a.done")
	e.publish(tr, e.events("a.done", 3)...)
	one, two := e.next(src), e.next(src)
	done := e.startCatchUp(src, 1)
	e.waits(done)
	three := e.next(src)
	e.waits(done)
	e.ack(two)
	e.waits(done)
	require.NoError(e.t, three.Release(e.ctx())) // it is to come again, which is not to be left
	e.waits(done)
	e.take(src, 1)
	require.NoError(e.t, e.result(done))
	e.catchUp(src, 1)
	e.catchUp(src, 2)
	e.ack(one)
	e.catchUp(src, 0)
}

func catchUpSeveral(e *env) {
	tr := e.open()
	src, other := e.private(tr, "a.done"), e.private(tr, "a.done")
	const n = 5
	e.publish(tr, e.events("a.done", n)...)
	ds := make([]transport.Delivery, n)
	for i := range ds {
		ds[i] = e.next(src)
	}
	waiting := make([]<-chan error, n)
	for left := range waiting {
		waiting[left] = e.startCatchUp(src, left)
	}
	require.NoError(e.t, e.result(e.startCatchUp(src, n)))
	for i := n - 1; i >= 0; i-- {
		e.waits(waiting[i])
		e.ack(ds[i])
		require.NoError(e.t, e.result(waiting[i]))
	}
	e.take(other, n)
	e.catchUp(other, 0)
}

func catchUpSession(e *env) {
	publisher, tr := e.open(), e.open()
	one := e.subscribe(tr, transport.Subscription{Name: "a.done", Session: "s/1"})
	two := e.subscribe(tr, transport.Subscription{Name: "a.done", Session: "s/2"})
	all := e.private(tr, "a.done")
	for _, session := range []string{"s/1", "s/2", "s/2", ""} {
		m := e.event("a.done", "in "+session)
		m.To.Session, m.Session = session, session
		e.publish(publisher, m)
	}
	// What the others have not handled is nobody else's business.
	e.take(one, 1)
	e.catchUp(one, 0)
	e.take(two, 1)
	second := e.startCatchUp(two, 0)
	e.waits(second)
	e.take(all, 3)
	third := e.startCatchUp(all, 0)
	e.waits(third)
	e.take(two, 1)
	require.NoError(e.t, e.result(second))
	e.take(all, 1)
	require.NoError(e.t, e.result(third))
	e.catchUp(one, 0)
}

// catchUpLaterEvents: what is stored after the call is not waited for, nor counted
// as left.
func catchUpLaterEvents(e *env) {
	publisher, tr := e.open(), e.open()
	src := e.private(tr, "a.done")
	e.publish(publisher, e.events("a.done", 2)...)
	first, second := e.next(src), e.next(src)
	none, one := e.startCatchUp(src, 0), e.startCatchUp(src, 1)
	e.waits(none)
	e.waits(one)
	e.publish(publisher, e.events("a.done", 3)...)
	held, again := e.next(src), e.next(src)
	require.NoError(e.t, again.Nak(e.ctx(), e.delay))
	e.ack(first)
	require.NoError(e.t, e.result(one))
	e.waits(none)
	e.ack(second)
	require.NoError(e.t, e.result(none))

	done := e.startCatchUp(src, 0)
	e.waits(done)
	e.ack(held)
	e.take(src, 2)
	require.NoError(e.t, e.result(done))
}

// catchUpBeforeLaterEvents: it does not matter either that nobody takes them, and
// that what the driver hands out beforehand is full of them.
func catchUpBeforeLaterEvents(e *env) {
	publisher, tr := e.open(), e.open()
	for _, session := range []string{"s", ""} {
		src := e.subscribe(tr, transport.Subscription{Name: "a.done", Session: session, Prefetch: 1})
		const n = 50
		publish := func() {
			ms := e.events("a.done", n)
			for _, m := range ms {
				m.To.Session, m.Session = session, session
			}
			e.publish(publisher, ms...)
		}
		publish()
		before := e.startCatchUp(src, 0)
		e.waits(before)
		publish()
		e.take(src, n-1)
		e.waits(before)
		held := e.next(src)
		e.waits(before)
		during := e.startCatchUp(src, 1)
		e.waits(during)
		publish()
		e.ack(held)
		require.NoError(e.t, e.result(before))
		e.take(src, n-1)
		e.waits(during)
		d := e.next(src)
		require.Equal(e.t, fmt.Sprint(n-1), text(d.Message()))
		require.NoError(e.t, e.result(during))
		e.ack(d)
		e.take(src, n)
		e.catchUp(src, 0)
		e.close(src)
	}
}

// catchUpSteadyStream: events that keep coming do not keep it waiting.
func catchUpSteadyStream(e *env) {
	publisher, tr := e.open(), e.open()
	src, ctx := e.private(tr, "a.done"), e.ctx()
	ctx, stop := context.WithCancel(ctx)
	var wg, publishing sync.WaitGroup
	var published, handled atomic.Int64
	ms := make(chan *transport.Message)
	publishing.Go(func() {
		for m := range ms {
			if err := publisher.Publish(ctx, m); err != nil {
				e.t.Errorf("publish: %v", err)
			}
			published.Add(1)
		}
	})
	wg.Go(func() {
		for {
			d, err := src.Next(ctx)
			if err != nil {
				return // stopped
			}
			handled.Add(1)
			if err := d.Ack(context.WithoutCancel(ctx)); err != nil {
				e.t.Errorf("ack: %v", err)
			}
		}
	})
	for round := range 20 {
		done := e.startCatchUp(src, 0)
		var err error
		for waiting := true; waiting; {
			select {
			case ms <- e.event("a.done", fmt.Sprint(round)):
			case err = <-done:
				waiting = false
			}
		}
		require.NoError(e.t, err)
	}
	close(ms)
	publishing.Wait()
	e.catchUp(src, 0)
	require.Equal(e.t, published.Load(), handled.Load())
	stop()
	wg.Wait()
}

// catchUpDelayedEvents: an event is not stored before its time.
func catchUpDelayedEvents(e *env) {
	tr := e.open()
	src := e.private(tr, "a.done")
	m := e.event("a.done", "x")
	m.DeliverAt = time.Now().Add(e.delay)
	e.publish(tr, m)
	e.catchUp(src, 0)
	e.take(src, 1)
	e.catchUp(src, 0)
}

// catchUpAfterPublish: whatever a Publish stored is handled when a CatchUp that
// began after it returns.
func catchUpAfterPublish(e *env) {
	publisher, tr := e.open(), e.open()
	of := []transport.Subscription{{Name: "a.done"}, {Name: "a.done", Session: "s"}}
	srcs, handled := make([]transport.Source[transport.Delivery], len(of)), make([]atomic.Int64, len(of))
	ctx, stop := context.WithCancel(e.ctx())
	var wg sync.WaitGroup
	for i, s := range of {
		srcs[i] = e.subscribe(tr, s)
		for range 2 {
			wg.Go(func() {
				for {
					d, err := srcs[i].Next(ctx)
					if err != nil {
						return // stopped
					}
					handled[i].Add(1)
					if err := d.Ack(context.WithoutCancel(ctx)); err != nil {
						e.t.Errorf("ack: %v", err)
					}
				}
			})
		}
	}
	published := 0
	for round := range 50 {
		n := 1 + round%3
		for range n {
			m := e.event("a.done", "x")
			m.To.Session, m.Session = "s", "s"
			e.publish(publisher, m)
		}
		published += n
		for i := range srcs {
			e.catchUp(srcs[i], 0)
			require.EqualValues(e.t, published, handled[i].Load(), "round %d of %+v", round, of[i])
		}
	}
	stop()
	wg.Wait()
}

func catchUpContext(e *env) {
	tr := e.open()
	src := e.private(tr, "a.done")
	ended, cancel := context.WithCancel(e.ctx())
	cancel()
	require.ErrorIs(e.t, e.catchUpper(src).CatchUp(ended, 0), context.Canceled)

	e.publish(tr, e.event("a.done", "x"))
	d := e.next(src)
	short, cancel := context.WithTimeout(e.t.Context(), e.quiet)
	defer cancel()
	require.ErrorIs(e.t, e.catchUpper(src).CatchUp(short, 0), context.DeadlineExceeded)
	ctx, cancel := context.WithCancel(e.ctx())
	c := e.catchUpper(src)
	cancelled, stays := start(func() error { return c.CatchUp(ctx, 0) }), e.startCatchUp(src, 0)
	e.waits(cancelled)
	cancel()
	require.ErrorIs(e.t, e.result(cancelled), context.Canceled)
	e.waits(stays)
	e.ack(d)
	require.NoError(e.t, e.result(stays))
	e.publish(tr, e.event("a.done", "y"))
	require.Equal(e.t, []string{"y"}, texts(e.take(src, 1)))
}

func catchUpClose(e *env) {
	tr := e.open()
	for _, session := range []string{"", "s"} {
		src := e.subscribe(tr, transport.Subscription{Name: "a.done", Session: session})
		m := e.event("a.done", "x")
		m.To.Session, m.Session = session, session
		e.publish(tr, m)
		d := e.next(src)
		held, enough := e.startCatchUp(src, 0), e.startCatchUp(src, 1)
		require.NoError(e.t, e.result(enough))
		e.waits(held)
		e.close(src)
		require.ErrorIs(e.t, e.result(held), transport.ErrClosed)
		require.ErrorIs(e.t, e.catchUpper(src).CatchUp(e.ctx(), 1), transport.ErrClosed)
		e.ack(d)
	}
	src := e.private(tr, "a.done")
	e.publish(tr, e.event("a.done", "y"))
	done := e.startCatchUp(src, 0)
	e.waits(done)
	require.NoError(e.t, tr.Close(e.ctx()))
	require.ErrorIs(e.t, e.result(done), transport.ErrClosed)
	require.ErrorIs(e.t, e.catchUpper(src).CatchUp(e.ctx(), 0), transport.ErrClosed)
}
