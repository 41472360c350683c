package transporttest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func delayCases() []testCase {
	return []testCase{
		{name: "DeliverAt", run: deliverAt},
		{name: "DeliverAtFar", run: deliverAtFar},
		{name: "DeliverAtPast", run: deliverAtPast},
		{name: "DeliverAtOrder", run: deliverAtOrder},
		{name: "DeliverAtReachesLaterGroup", run: deliverAtReachesLaterGroup},
		{name: "DeliverAtSurvivesPublisher", run: deliverAtSurvivesPublisher, needs: severalProcesses},
	}
}

func (e *env) later(name, text string, d time.Duration) *transport.Message {
	m := e.event(name, text)
	m.DeliverAt = time.Now().Add(d)
	return m
}

func deliverAt(e *env) {
	tr := e.open()
	g, h, p := e.group(tr, "a.done", "g"), e.group(tr, "a.done", "h"), e.private(tr, "a.done")
	m := e.later("a.done", "later", e.delay)
	m.Header, m.Key, m.CorrelationID = transport.Header{"K": {"v"}}, "k", "c"
	e.publish(tr, m, e.event("a.done", "now"))
	for _, src := range []transport.Source[transport.Delivery]{g, h, p} {
		require.Equal(e.t, []string{"now"}, texts(e.take(src, 1)))
	}
	for _, src := range []transport.Source[transport.Delivery]{g, h, p} {
		d := e.next(src)
		require.False(e.t, time.Now().Before(m.DeliverAt), "delivered early")
		got := d.Message()
		require.Equal(e.t, "later", text(got))
		require.Equal(e.t, m.To, got.To)
		require.Equal(e.t, m.ID, got.ID)
		require.Equal(e.t, m.Key, got.Key)
		require.Equal(e.t, m.CorrelationID, got.CorrelationID)
		require.Equal(e.t, m.Header, got.Header)
		require.Equal(e.t, 1, d.Deliveries())
		e.ack(d)
	}
	e.nothing(g)
}

func deliverAtPast(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.later("a.done", "an hour ago", -time.Hour))
	e.publish(tr, e.later("a.done", "just now", 0))
	require.ElementsMatch(e.t, []string{"an hour ago", "just now"}, texts(e.take(src, 2)))
}

func deliverAtOrder(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.later("a.done", "third", 3*e.delay), e.later("a.done", "first", e.delay), e.later("a.done", "second", 2*e.delay))
	require.Equal(e.t, []string{"first", "second", "third"}, texts(e.take(src, 3)))
}

// deliverAtReachesLaterGroup: a delayed event is an event of the time when it
// is due.
func deliverAtReachesLaterGroup(e *env) {
	tr := e.open()
	e.publish(tr, e.later("a.done", "x", e.delay))
	src := e.group(tr, "a.done", "g")
	require.Equal(e.t, []string{"x"}, texts(e.take(src, 1)))
}

func deliverAtSurvivesPublisher(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.group(reader, "a.done", "g")
	e.publish(publisher, e.later("a.done", "x", e.delay))
	require.NoError(e.t, publisher.Close(e.ctx()))
	require.Equal(e.t, []string{"x"}, texts(e.take(src, 1)))
}

// deliverAtFar: a time that no clock reaches is refused or waited for, but it is
// not now, and it holds up nothing.
func deliverAtFar(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	far := e.event("a.done", "far")
	far.DeliverAt = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := tr.Publish(e.ctx(), far); err != nil {
		require.ErrorIs(e.t, err, transport.ErrInvalid)
	}
	e.publish(tr, e.later("a.done", "near", e.delay))
	require.Equal(e.t, []string{"near"}, texts(e.take(src, 1)))
	e.nothing(src)
}
