package transporttest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func leaseCases() []testCase {
	return []testCase{
		{name: "AckWaitExpires", run: ackWaitExpires},
		{name: "AckWaitExpiresForOtherReader", run: ackWaitExpiresForOtherReader},
		{name: "LeaseLost", run: leaseLost},
		{name: "ExtendDefersExpiry", run: extendDefersExpiry},
		{name: "LeaseIsPerDelivery", run: leaseIsPerDelivery},
		{name: "AckWaitDiffers", run: ackWaitDiffers},
	}
}

func ackWaitExpires(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.event("a.done", "x"))
	first := e.next(src)
	lease := first.Lease()
	require.Greater(e.t, time.Until(lease), time.Duration(0))
	require.LessOrEqual(e.t, time.Until(lease), e.ackWait*8/10)
	second := e.next(src)
	require.False(e.t, time.Now().Before(lease), "delivered again within the lease")
	require.Equal(e.t, 2, second.Deliveries())
	require.Equal(e.t, "x", text(second.Message()))
	require.ErrorIs(e.t, first.Ack(e.ctx()), transport.ErrLeaseLost)
	e.ack(second)
	e.nothing(src)
}

func ackWaitExpiresForOtherReader(e *env) {
	one, two := e.open(), e.open()
	a := e.group(one, "a.done", "g")
	e.publish(one, e.event("a.done", "x"))
	e.next(a) // and never settled
	e.close(a)
	b := e.group(two, "a.done", "g")
	d := e.next(b)
	require.Equal(e.t, 2, d.Deliveries())
	e.ack(d)
	e.nothing(b)
}

// leaseLost: past the lease nothing is sent, whatever the caller tries, and the
// group gets the event again.
func leaseLost(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.events("a.done", 5)...)
	var ds []transport.Delivery
	for range 5 {
		ds = append(ds, e.next(src))
	}
	e.close(src) // nobody else takes them meanwhile
	e.pass(time.Until(ds[4].Lease()) + time.Millisecond)
	for i, s := range settlements() {
		require.ErrorIs(e.t, s.do(e.ctx(), ds[i]), transport.ErrLeaseLost, s.name)
	}
	require.ErrorIs(e.t, ds[4].Extend(e.ctx()), transport.ErrLeaseLost)
	src = e.group(tr, "a.done", "g")
	again := e.take(src, 5)
	require.ElementsMatch(e.t, numbers(0, 4), texts(again))
	for _, d := range again {
		require.Equal(e.t, 2, d.Deliveries())
	}
	for i, s := range settlements() { // settled by its new holder: still not the old one's
		require.ErrorIs(e.t, s.do(e.ctx(), ds[i]), transport.ErrLeaseLost, s.name)
	}
	e.nothing(src)
}

func extendDefersExpiry(e *env) {
	tr := e.open()
	src, other := e.group(tr, "a.done", "g"), e.group(tr, "a.done", "h")
	e.publish(tr, e.event("a.done", "x"))
	e.take(other, 1)
	d := e.next(src)
	for range 6 {
		e.pass(e.ackWait / 2)
		lease := d.Lease()
		require.NoError(e.t, d.Extend(e.ctx()))
		require.True(e.t, d.Lease().After(lease), "lease %v, then %v", lease, d.Lease())
	}
	e.ack(d)
	e.pass(2 * e.ackWait)
	e.nothing(src)

	e.publish(tr, e.event("a.done", "y"))
	d = e.next(src)
	require.NoError(e.t, d.Extend(e.ctx()))
	lease := d.Lease()
	again := e.next(src) // extended once, then left alone
	require.False(e.t, time.Now().Before(lease), "delivered again within the extended lease")
	require.Equal(e.t, 2, again.Deliveries())
	e.ack(again)
}

// leaseIsPerDelivery: extending one delivery does not keep another.
func leaseIsPerDelivery(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.events("a.done", 2)...)
	kept, left := e.next(src), e.next(src)
	e.pass(e.ackWait / 2)
	require.NoError(e.t, kept.Extend(e.ctx()))
	d := e.next(src)
	require.Equal(e.t, text(left.Message()), text(d.Message()))
	require.Equal(e.t, 2, d.Deliveries())
	e.ack(d)
	d = e.next(src) // the extension ran out too
	require.Equal(e.t, text(kept.Message()), text(d.Message()))
	e.ack(d)
}

// ackWaitDiffers: whatever the readers of a group ask for, in whatever order, no
// lease ends early.
func ackWaitDiffers(e *env) {
	tr := e.open()
	for i, waits := range [][2]time.Duration{{e.ackWait, 3 * e.ackWait}, {3 * e.ackWait, e.ackWait}} {
		var srcs [2]transport.Source[transport.Delivery]
		group := []string{"g", "h"}[i]
		for i, wait := range waits {
			srcs[i] = e.subscribe(tr, transport.Subscription{Name: "a.done", Group: group, AckWait: wait, Prefetch: 1})
		}
		e.publish(tr, e.to(group, "a.done", "0"), e.to(group, "a.done", "1"))
		leases := map[string]time.Time{}
		for _, src := range srcs {
			d := e.next(src)
			leases[text(d.Message())] = d.Lease()
		}
		for range srcs {
			d := e.next(srcs[0])
			require.False(e.t, time.Now().Before(leases[text(d.Message())]), "delivered again within the lease")
			require.Equal(e.t, 2, d.Deliveries())
			e.ack(d)
		}
	}
}
