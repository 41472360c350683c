package transporttest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func groupStateCases() []testCase {
	tells := func(f Features) bool { return !f.NoGroups }
	return []testCase{
		{name: "GroupsLag", run: groupsLag, needs: tells},
		{name: "GroupsAddressed", run: groupsAddressed, needs: tells},
		{name: "GroupRetired", run: groupRetired, needs: tells},
		{name: "GroupRetiredWithDeliveries", run: groupRetiredWithDeliveries, needs: tells},
	}
}

// state is how far a group is, nil if there is no such group.
func (e *env) state(tr transport.Transport, name, group string) *transport.GroupState {
	e.t.Helper()
	l, ok := tr.(transport.GroupLister)
	require.True(e.t, ok, "the transport is no transport.GroupLister; see Features.NoGroups")
	all, err := l.Groups(e.ctx())
	require.NoError(e.t, err)
	var found *transport.GroupState
	for _, s := range all {
		if s.Name == name && s.Group == group {
			require.Nil(e.t, found, "a group is listed twice: %v", all)
			found = &s
		}
	}
	return found
}

// lags waits until a group has so many events before it, settled or not.
func (e *env) lags(tr transport.Transport, name, group string, want int) transport.GroupState {
	e.t.Helper()
	for end := time.Now().Add(e.limit); ; e.pass(e.quiet / 100) {
		s := e.state(tr, name, group)
		require.NotNil(e.t, s, "group %q of %q is not listed", group, name)
		if s.Pending+s.Unsettled == want {
			return *s
		}
		if time.Now().After(end) {
			require.Fail(e.t, "lag", "%+v, wanted %d", *s, want)
		}
	}
}

func (e *env) retire(tr transport.Transport, name, group string) error {
	e.t.Helper()
	r, ok := tr.(transport.GroupRetirer)
	require.True(e.t, ok, "the transport is no transport.GroupRetirer; see Features.NoGroups")
	return r.RetireGroup(e.ctx(), name, group)
}

func groupsLag(e *env) {
	tr := e.open()
	require.Nil(e.t, e.state(tr, "a.b-c_d", "g_1-x"))
	e.close(e.group(tr, "a.b-c_d", "g_1-x"))
	e.private(tr, "a.b-c_d")
	other := e.group(tr, "a.b-c_d", "h")
	require.Equal(e.t, transport.GroupState{Name: "a.b-c_d", Group: "g_1-x"}, e.lags(tr, "a.b-c_d", "g_1-x", 0))
	e.publish(tr, e.events("a.b-c_d", 5)...)
	e.publish(tr, e.events("a", 3)...)
	require.Equal(e.t, transport.GroupState{Name: "a.b-c_d", Group: "g_1-x", Pending: 5}, e.lags(tr, "a.b-c_d", "g_1-x", 5), "nobody reads it")
	e.take(other, 5)
	e.lags(tr, "a.b-c_d", "h", 0)

	src := e.group(tr, "a.b-c_d", "g_1-x")
	d := e.next(src)
	s := e.lags(tr, "a.b-c_d", "g_1-x", 5)
	require.Positive(e.t, s.Unsettled)
	require.Zero(e.t, s.Redelivered)
	e.ack(d)
	e.lags(tr, "a.b-c_d", "g_1-x", 4)
	e.take(src, 3)
	again := e.next(src)
	require.NoError(e.t, again.Nak(e.ctx(), 0))
	again = e.next(src)
	require.Equal(e.t, 1, e.lags(tr, "a.b-c_d", "g_1-x", 1).Redelivered)
	e.ack(again)
	require.Equal(e.t, transport.GroupState{Name: "a.b-c_d", Group: "g_1-x"}, e.lags(tr, "a.b-c_d", "g_1-x", 0))
}

func groupsAddressed(e *env) {
	tr := e.open()
	e.close(e.group(tr, "a", "g"))
	m := e.event("a", "for g alone")
	m.To.Group = "g"
	e.publish(tr, m)
	e.lags(tr, "a", "g", 1)
	e.take(e.group(tr, "a", "g"), 1)
	e.lags(tr, "a", "g", 0)
}

func groupRetired(e *env) {
	tr := e.open()
	require.ErrorIs(e.t, e.retire(tr, "a", "g"), transport.ErrNotFound)
	src, other := e.group(tr, "a", "g"), e.group(tr, "a", "h")
	require.ErrorIs(e.t, e.retire(tr, "a", "g"), transport.ErrConflict, "it is being read")
	e.close(src)
	e.publish(tr, e.events("a", 3)...)
	m := e.event("a", "for g alone")
	m.To.Group = "g"
	e.publish(tr, m)
	e.lags(tr, "a", "g", 4)
	require.NoError(e.t, e.retire(tr, "a", "g"))
	require.Nil(e.t, e.state(tr, "a", "g"))
	require.ErrorIs(e.t, e.retire(tr, "a", "g"), transport.ErrNotFound)
	require.ElementsMatch(e.t, numbers(0, 2), texts(e.take(other, 3)), "others have what they had")
	src = e.group(tr, "a", "g") // a new one, which begins now
	e.nothing(src)
	e.publish(tr, e.event("a", "new"))
	require.Equal(e.t, "new", text(e.next(src).Message()))
}

// What a group had in hands when it was retired is nobody's any more, and does not
// hold up the log.
func groupRetiredWithDeliveries(e *env) {
	tr := e.open()
	src := e.group(tr, "a", "g")
	e.publish(tr, e.events("a", 3)...)
	one, two := e.next(src), e.next(src)
	require.NoError(e.t, one.Nak(e.ctx(), e.delay))
	e.close(src)
	require.NoError(e.t, e.retire(tr, "a", "g"))
	_ = two.Ack(e.ctx()) // whatever it says
	e.close(e.group(tr, "a", "g"))
	e.pass(2 * e.delay)
	e.lags(tr, "a", "g", 0)
}
