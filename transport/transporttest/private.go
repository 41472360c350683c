package transporttest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func privateCases() []testCase {
	return []testCase{
		{name: "PrivateReadersEachGetACopy", run: privateEach},
		{name: "PrivateStartsNew", run: privateStartsNew},
		{name: "PrivateOrder", run: privateOrder},
		{name: "PrivateHasNoLease", run: privateHasNoLease},
		{name: "PrivateNak", run: privateNak},
		{name: "PrivateReleaseAndTerm", run: privateReleaseAndTerm},
		{name: "PrivateSettleTwice", run: privateSettleTwice},
		{name: "PrivateCloseForgets", run: privateCloseForgets},
		{name: "PrivateSessionFilter", run: privateSessionFilter},
	}
}

func privateEach(e *env) {
	publisher, one, two := e.open(), e.open(), e.open()
	a, b, c := e.private(one, "a.done"), e.private(one, "a.done"), e.private(two, "a.done")
	other := e.private(two, "b.done")
	e.publish(publisher, e.events("a.done", 3)...)
	for _, src := range []transport.Source[transport.Delivery]{a, b, c} {
		ds := e.take(src, 3)
		require.Equal(e.t, numbers(0, 2), texts(ds))
		require.Equal(e.t, 1, ds[0].Deliveries())
		e.nothing(src)
	}
	e.nothing(other)
}

func privateStartsNew(e *env) {
	tr := e.open()
	e.publish(tr, e.event("a.done", "before"))
	src := e.private(tr, "a.done")
	e.publish(tr, e.event("a.done", "after"))
	require.Equal(e.t, []string{"after"}, texts(e.take(src, 1)))
	e.nothing(src)
}

// privateOrder: a burst that nobody reads yet arrives whole and in order.
func privateOrder(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.private(reader, "a.done")
	const n = 1000
	e.publish(publisher, e.events("a.done", n)...)
	require.Equal(e.t, numbers(0, n-1), texts(e.take(src, n)))
	e.nothing(src)
}

func privateHasNoLease(e *env) {
	tr := e.open()
	src := e.subscribe(tr, transport.Subscription{Name: "a.done", AckWait: e.ackWait})
	e.publish(tr, e.event("a.done", "x"))
	d := e.next(src)
	require.Zero(e.t, d.Lease())
	e.pass(2 * e.ackWait)
	e.nothing(src)
	require.NoError(e.t, d.Extend(e.ctx()))
	require.Zero(e.t, d.Lease())
	e.ack(d)
}

func privateNak(e *env) {
	tr := e.open()
	src, other := e.private(tr, "a.done"), e.private(tr, "a.done")
	e.publish(tr, e.events("a.done", 2)...)
	before := time.Now()
	require.NoError(e.t, e.next(src).Nak(e.ctx(), e.delay))
	require.Equal(e.t, []string{"1"}, texts(e.take(src, 1)))
	d := e.next(src)
	require.GreaterOrEqual(e.t, time.Since(before), e.delay, "delivered early")
	require.Equal(e.t, "0", text(d.Message()))
	require.Equal(e.t, 2, d.Deliveries())
	require.NoError(e.t, d.Nak(e.ctx(), 0))
	require.Equal(e.t, 3, e.take(src, 1)[0].Deliveries())
	e.take(other, 2)
	e.nothing(other) // it is that reader's nak
}

func privateReleaseAndTerm(e *env) {
	tr := e.open()
	src := e.private(tr, "a.done")
	e.publish(tr, e.event("a.done", "x"))
	require.NoError(e.t, e.next(src).Release(e.ctx()))
	d := e.next(src)
	require.Equal(e.t, 1, d.Deliveries())
	require.NoError(e.t, d.Term(e.ctx(), "no"))
	e.nothing(src)
}

func privateSettleTwice(e *env) {
	tr := e.open()
	src := e.private(tr, "a.done")
	for _, first := range settlements() {
		e.publish(tr, e.event("a.done", "x"))
		d := e.next(src)
		require.NoError(e.t, first.do(e.ctx(), d), first.name)
		for _, second := range settlements() {
			require.ErrorIs(e.t, second.do(e.ctx(), d), transport.ErrSettled, "%s, then %s", first.name, second.name)
		}
		if first.name == "release" {
			e.take(src, 1)
		}
	}
}

func privateCloseForgets(e *env) {
	tr := e.open()
	src := e.private(tr, "a.done")
	e.publish(tr, e.events("a.done", 3)...)
	d := e.next(src)
	e.close(src)
	if err := d.Nak(e.ctx(), 0); err != nil { // nobody is left to get it
		require.ErrorIs(e.t, err, transport.ErrClosed)
	}
	e.nothing(e.private(tr, "a.done"))
}

func privateSessionFilter(e *env) {
	publisher, reader := e.open(), e.open()
	one := e.subscribe(reader, transport.Subscription{Name: "a.done", Session: "s1"})
	two := e.subscribe(reader, transport.Subscription{Name: "a.done", Session: "s2"})
	all, group := e.private(reader, "a.done"), e.group(reader, "a.done", "g")
	for _, session := range []string{"s1", "", "s2", "s3", "s1"} {
		m := e.event("a.done", "in "+session)
		m.To.Session, m.Session = session, session
		e.publish(publisher, m)
	}
	require.Equal(e.t, []string{"in s1", "in s1"}, texts(e.take(one, 2)))
	require.Equal(e.t, []string{"in s2"}, texts(e.take(two, 1)))
	everything := []string{"in s1", "in ", "in s2", "in s3", "in s1"}
	require.Equal(e.t, everything, texts(e.take(all, 5)))
	require.Equal(e.t, everything, texts(e.take(group, 5)))
	e.nothing(one)
	e.nothing(two)
}
