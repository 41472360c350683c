package transporttest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func dedupCases() []testCase {
	return []testCase{
		{name: "DuplicateIDIsStoredOnce", run: duplicateID},
		{name: "DuplicateIDInBatch", run: duplicateIDInBatch},
		{name: "DuplicateIDOnOtherAddress", run: duplicateIDOnOtherAddress},
		{name: "DuplicateIDAfterAck", run: duplicateIDAfterAck},
		{name: "DuplicateIDOfDelayed", run: duplicateIDOfDelayed},
		{name: "DuplicateIDAfterWindow", run: duplicateIDAfterWindow, needs: func(f Features) bool {
			return f.DedupWindow > 0 && (f.Bubble || f.DedupWindow <= 2*time.Second)
		}},
		{name: "NoIDNoDedup", run: noIDNoDedup},
	}
}

func duplicateID(e *env) {
	one, two := e.open(), e.open()
	src := e.steady(one, "a.done", "g")
	m := e.event("a.done", "first")
	e.publish(one, m)
	again := e.event("a.done", "again")
	again.ID = m.ID
	e.publish(one, again)
	e.publish(two, again)
	e.publish(two, e.event("a.done", "last"))
	require.Equal(e.t, []string{"first", "last"}, texts(e.take(src, 2)))
	e.nothing(src)
}

func duplicateIDInBatch(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	m := e.event("a.done", "first")
	again := e.event("a.done", "again")
	again.ID = m.ID
	e.publish(tr, m, again, e.event("a.done", "last"))
	require.Equal(e.t, []string{"first", "last"}, texts(e.take(src, 2)))
	e.nothing(src)
}

// duplicateIDOnOtherAddress: the dedup id is scoped, so that equal IDs cannot
// swallow each other's events.
func duplicateIDOnOtherAddress(e *env) {
	tr := e.open()
	g, h := e.group(tr, "a.done", "g"), e.group(tr, "b.done", "g")
	var ms []*transport.Message
	for _, at := range []transport.Address{
		{Name: "a.done"}, {Name: "b.done"}, {Name: "a.done", Session: "s1"},
		{Name: "a.done", Session: "s2"}, {Name: "a.done", Group: "g"},
	} {
		m := e.event(at.Name, at.Name+at.Session+at.Group)
		m.ID, m.To = "same", at
		ms = append(ms, m)
	}
	for range 2 {
		e.publish(tr, ms...)
	}
	require.ElementsMatch(e.t, []string{"a.done", "a.dones1", "a.dones2", "a.doneg"}, texts(e.take(g, 4)))
	require.Equal(e.t, []string{"b.done"}, texts(e.take(h, 1)))
	e.nothing(g)
	e.nothing(h)
}

func duplicateIDAfterAck(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	m := e.event("a.done", "first")
	e.publish(tr, m)
	e.take(src, 1)
	e.publish(tr, m)
	e.nothing(src)
}

func duplicateIDOfDelayed(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	m := e.event("a.done", "once")
	m.DeliverAt = time.Now().Add(e.delay)
	e.publish(tr, m)
	e.publish(tr, m)
	require.Equal(e.t, []string{"once"}, texts(e.take(src, 1)))
	e.nothing(src)
}

func duplicateIDAfterWindow(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	m := e.event("a.done", "x")
	e.publish(tr, m)
	e.pass(e.features.DedupWindow / 2)
	e.publish(tr, m)
	e.pass(e.features.DedupWindow + e.features.DedupWindow/4)
	e.publish(tr, m)
	e.take(src, 2)
	e.nothing(src)
}

func noIDNoDedup(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	for _, s := range []string{"one", "two"} {
		m := e.event("a.done", s)
		m.ID = ""
		e.publish(tr, m)
	}
	require.Equal(e.t, []string{"one", "two"}, texts(e.take(src, 2)))
}
