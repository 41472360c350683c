package transporttest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func addressedCases() []testCase {
	return []testCase{
		{name: "AddressedToGroup", run: addressedToGroup},
		{name: "AddressedToGroupLater", run: addressedToGroupLater},
		{name: "AddressedToGroupWaitsForReaders", run: addressedToGroupWaits},
		{name: "AddressedToGroupIsSettled", run: addressedToGroupIsSettled},
	}
}

// to makes an event that only one group is to see.
func (e *env) to(group, name, text string) *transport.Message {
	m := e.event(name, text)
	m.To.Group = group
	return m
}

func addressedToGroup(e *env) {
	publisher, reader := e.open(), e.open()
	g, h, p := e.group(reader, "a.done", "g"), e.group(reader, "a.done", "h"), e.private(reader, "a.done")
	other := e.group(reader, "b.done", "g")
	m := e.to("g", "a.done", "for g")
	m.To.Session, m.Session = "s1", "s1"
	e.publish(publisher, m)
	d := e.next(g)
	require.Equal(e.t, m.To, d.Message().To)
	require.Equal(e.t, m.ID, d.Message().ID)
	require.Equal(e.t, 1, d.Deliveries())
	e.ack(d)
	late := e.subscribe(reader, transport.Subscription{Name: "a.done", Group: "late", AckWait: e.ackWait,
		Start: transport.Start{All: true}})
	for _, src := range []transport.Source[transport.Delivery]{g, h, p, other, late} {
		e.nothing(src)
	}
}

func addressedToGroupLater(e *env) {
	tr := e.open()
	g, h, p := e.group(tr, "a.done", "g"), e.group(tr, "a.done", "h"), e.private(tr, "a.done")
	m := e.to("g", "a.done", "for g")
	m.DeliverAt = time.Now().Add(e.delay)
	e.publish(tr, m)
	d := e.next(g)
	require.False(e.t, time.Now().Before(m.DeliverAt), "delivered early")
	require.Equal(e.t, m.To, d.Message().To)
	e.ack(d)
	e.nothing(h)
	e.nothing(p)
}

func addressedToGroupWaits(e *env) {
	tr := e.open()
	e.close(e.group(tr, "a.done", "g"))
	e.publish(tr, e.to("g", "a.done", "for g"))
	e.pass(e.gap)
	e.nothing(e.group(tr, "a.done", "h"))
	require.Equal(e.t, []string{"for g"}, texts(e.take(e.group(tr, "a.done", "g"), 1)))
}

func addressedToGroupIsSettled(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.to("g", "a.done", "x"))
	d := e.next(src)
	require.NoError(e.t, d.Nak(e.ctx(), 0))
	d = e.next(src)
	require.Equal(e.t, 2, d.Deliveries())
	require.Equal(e.t, "g", d.Message().To.Group)
	require.NoError(e.t, d.Release(e.ctx()))
	d = e.next(src)
	require.Equal(e.t, 2, d.Deliveries())
	e.pass(e.ackWait)
	d = e.next(src) // its lease ran out
	require.Equal(e.t, 3, d.Deliveries())
	require.NoError(e.t, d.Term(e.ctx(), "done"))
	require.ErrorIs(e.t, d.Ack(e.ctx()), transport.ErrSettled)
	e.nothing(src)
}
