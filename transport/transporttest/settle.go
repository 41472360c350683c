package transporttest

import (
	"context"
	"math"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func settleCases() []testCase {
	return []testCase{
		{name: "AckSettles", run: ackSettles},
		{name: "NakNow", run: nakNow},
		{name: "NakDelay", run: nakDelay},
		{name: "NakFar", run: nakFar},
		{name: "NakOrder", run: nakOrder},
		{name: "NakReachesOtherReader", run: nakReachesOtherReader},
		{name: "NakBlocksNobody", run: nakBlocksNobody},
		{name: "ReleaseIsNotCounted", run: releaseIsNotCounted},
		{name: "ReleaseReachesOtherReader", run: releaseReachesOtherReader},
		{name: "TermStops", run: termStops},
		{name: "SettleTwice", run: settleTwice},
		{name: "SettleAfterSourceClose", run: settleAfterSourceClose},
		{name: "SettleAfterTransportClose", run: settleAfterTransportClose},
		{name: "SettleConcurrently", run: settleConcurrently},
		{name: "DeliveriesCount", run: deliveriesCount},
	}
}

// settlement is one way to settle a delivery.
type settlement struct {
	name string
	do   func(context.Context, transport.Delivery) error
}

func settlements() []settlement {
	return []settlement{
		{"ack", func(ctx context.Context, d transport.Delivery) error { return d.Ack(ctx) }},
		{"nak", func(ctx context.Context, d transport.Delivery) error { return d.Nak(ctx, time.Hour) }},
		{"release", func(ctx context.Context, d transport.Delivery) error { return d.Release(ctx) }},
		{"term", func(ctx context.Context, d transport.Delivery) error { return d.Term(ctx, "no") }},
	}
}

func ackSettles(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.events("a.done", 3)...)
	e.take(src, 3)
	e.pass(2 * e.ackWait)
	e.nothing(src)
}

func nakNow(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	m := e.event("a.done", "x")
	m.Header = transport.Header{"K": {"v"}}
	e.publish(tr, m)
	first := e.next(src)
	require.NoError(e.t, first.Nak(e.ctx(), 0))
	d := e.next(src)
	require.Equal(e.t, 2, d.Deliveries())
	require.Equal(e.t, m.ID, d.Message().ID)
	require.Equal(e.t, m.Header, d.Message().Header)
	require.Equal(e.t, "x", text(d.Message()))
	require.Equal(e.t, first.Sequence(), d.Sequence())
	e.ack(d)
	e.nothing(src)
}

func nakDelay(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.event("a.done", "x"))
	d := e.next(src)
	before := time.Now()
	require.NoError(e.t, d.Nak(e.ctx(), e.delay)) // longer than AckWait
	d = e.next(src)
	require.GreaterOrEqual(e.t, time.Since(before), e.delay, "delivered early")
	require.Equal(e.t, 2, d.Deliveries())
	e.ack(d)
	e.nothing(src)
}

// nakFar: a delay that never ends holds up no other.
func nakFar(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.pass(e.quiet) // the backend's clock is past its start
	e.publish(tr, e.events("a.done", 2)...)
	require.NoError(e.t, e.next(src).Nak(e.ctx(), math.MaxInt64))
	require.NoError(e.t, e.next(src).Nak(e.ctx(), e.delay))
	require.Equal(e.t, []string{"1"}, texts(e.take(src, 1)))
	e.nothing(src)
}

// nakOrder: what is due first comes first, whatever was nak'd first.
func nakOrder(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.events("a.done", 3)...)
	for i := range 3 {
		require.NoError(e.t, e.next(src).Nak(e.ctx(), e.delay*time.Duration(3-i)))
	}
	require.Equal(e.t, []string{"2", "1", "0"}, texts(e.take(src, 3)))
}

func nakReachesOtherReader(e *env) {
	one, two := e.open(), e.open()
	a := e.group(one, "a.done", "g")
	e.publish(one, e.event("a.done", "x"))
	d := e.next(a)
	b := e.group(two, "a.done", "g")
	e.close(a)
	require.NoError(e.t, d.Nak(e.ctx(), e.delay/2))
	d = e.next(b)
	require.Equal(e.t, 2, d.Deliveries())
	e.ack(d)
}

func nakBlocksNobody(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.events("a.done", 3)...)
	require.NoError(e.t, e.next(src).Nak(e.ctx(), e.delay))
	require.Equal(e.t, []string{"1", "2", "0"}, texts(e.take(src, 3)))
}

func releaseIsNotCounted(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.event("a.done", "x"))
	for range 5 {
		d := e.next(src)
		require.Equal(e.t, 1, d.Deliveries())
		require.NoError(e.t, d.Release(e.ctx()))
	}
	d := e.next(src)
	require.Equal(e.t, 1, d.Deliveries())
	require.NoError(e.t, d.Nak(e.ctx(), 0))
	d = e.next(src)
	require.Equal(e.t, 2, d.Deliveries())
	require.NoError(e.t, d.Release(e.ctx()))
	d = e.next(src)
	require.Equal(e.t, 2, d.Deliveries())
	e.ack(d)
	e.nothing(src)
}

func releaseReachesOtherReader(e *env) {
	one, two := e.open(), e.open()
	long := transport.Subscription{Name: "a.done", Group: "g", AckWait: 24 * time.Hour}
	a := e.subscribe(one, long)
	e.publish(one, e.event("a.done", "x"))
	d := e.next(a)
	b := e.subscribe(two, long)
	e.close(a)
	require.NoError(e.t, d.Release(e.ctx()))
	d = e.next(b) // at once, not after AckWait
	require.Equal(e.t, 1, d.Deliveries())
	e.ack(d)
}

func termStops(e *env) {
	tr := e.open()
	g, h := e.group(tr, "a.done", "g"), e.group(tr, "a.done", "h")
	e.publish(tr, e.event("a.done", "x"))
	require.NoError(e.t, e.next(g).Term(e.ctx(), "not wanted: a long\r\nreason ✓"))
	e.pass(2 * e.ackWait)
	e.nothing(g)
	e.take(h, 1) // another group is not concerned
}

func settleTwice(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	for _, first := range settlements() {
		for _, second := range settlements() {
			e.publish(tr, e.event("a.done", first.name+", then "+second.name))
			d := e.next(src)
			require.NoError(e.t, first.do(e.ctx(), d), first.name)
			require.ErrorIs(e.t, second.do(e.ctx(), d), transport.ErrSettled, "%s, then %s", first.name, second.name)
			require.ErrorIs(e.t, d.Extend(e.ctx()), transport.ErrSettled, "%s, then extend", first.name)
			if first.name == "release" {
				d = e.next(src) // the second settlement had no effect on it
				require.Equal(e.t, 1, d.Deliveries())
				e.ack(d)
			}
		}
	}
	if e.features.Bubble { // the nak'd come back after their hour, once each
		for range settlements() {
			require.Equal(e.t, 2, e.take(src, 1)[0].Deliveries())
		}
	}
	e.nothing(src)
}

func settleAfterSourceClose(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.events("a.done", 4)...)
	ds := []transport.Delivery{e.next(src), e.next(src), e.next(src), e.next(src)}
	e.close(src)
	require.NoError(e.t, ds[0].Extend(e.ctx()))
	e.ack(ds[0])
	require.NoError(e.t, ds[1].Nak(e.ctx(), 0))
	require.NoError(e.t, ds[2].Term(e.ctx(), "no"))
	require.NoError(e.t, ds[3].Release(e.ctx()))
	src = e.group(tr, "a.done", "g")
	got := map[string]int{}
	for _, d := range e.take(src, 2) {
		got[text(d.Message())] = d.Deliveries()
	}
	require.Equal(e.t, map[string]int{"1": 2, "3": 1}, got)
	e.nothing(src)
}

func settleAfterTransportClose(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.events("a.done", 5)...)
	var ds []transport.Delivery
	for range 5 {
		ds = append(ds, e.next(src))
	}
	require.NoError(e.t, tr.Close(e.ctx()))
	for i, s := range settlements() {
		require.ErrorIs(e.t, s.do(e.ctx(), ds[i]), transport.ErrClosed, s.name)
	}
	require.ErrorIs(e.t, ds[4].Extend(e.ctx()), transport.ErrClosed)
}

// settleConcurrently: of several settlements at once exactly one counts.
func settleConcurrently(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	ctx := e.ctx()
	for range 20 {
		e.publish(tr, e.event("a.done", "x"))
		d := e.next(src)
		results := make(chan error, 4)
		for range 4 {
			go func() { results <- d.Ack(ctx) }()
		}
		acked := 0
		for range 4 {
			if err := e.result(results); err == nil {
				acked++
			} else {
				require.ErrorIs(e.t, err, transport.ErrSettled)
			}
		}
		require.Equal(e.t, 1, acked)
	}
	e.nothing(src)
}

// deliveriesCount: each way a delivery can end, and what it does to the count.
func deliveriesCount(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.event("a.done", "x"))
	d := e.next(src)
	require.Equal(e.t, 1, d.Deliveries())
	require.NoError(e.t, d.Nak(e.ctx(), 0))
	d = e.next(src)
	require.Equal(e.t, 2, d.Deliveries(), "after nak")
	require.NoError(e.t, d.Extend(e.ctx()))
	require.Equal(e.t, 2, d.Deliveries(), "after extend")
	require.NoError(e.t, d.Release(e.ctx()))
	d = e.next(src)
	require.Equal(e.t, 2, d.Deliveries(), "after release")
	d = e.next(src) // the lease runs out meanwhile
	require.Equal(e.t, 3, d.Deliveries(), "after expiry")
	e.close(src)
	require.NoError(e.t, d.Nak(e.ctx(), 0))
	for range 3 { // readers come and go, and may have fetched it
		e.close(e.group(tr, "a.done", "g"))
	}
	src = e.group(tr, "a.done", "g")
	d = e.next(src)
	require.Equal(e.t, 4, d.Deliveries(), "after closing readers")
	e.ack(d)
	e.nothing(src)
}
