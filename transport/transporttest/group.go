package transporttest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func groupCases() []testCase {
	return []testCase{
		{name: "GroupCompetes", run: groupCompetes},
		{name: "GroupsAreIndependent", run: groupsAreIndependent},
		{name: "GroupReadsItsNameOnly", run: groupReadsItsNameOnly},
		{name: "GroupStartsNew", run: groupStartsNew},
		{name: "GroupStartsAll", run: groupStartsAll},
		{name: "GroupStartsSince", run: groupStartsSince},
		{name: "GroupStartsOnce", run: groupStartsOnce},
		{name: "GroupSurvivesReaders", run: groupSurvivesReaders},
		{name: "GroupSurvivesProcess", run: groupSurvivesProcess, needs: severalProcesses},
		{name: "GroupConcurrentNext", run: groupConcurrentNext},
		{name: "GroupMaxAckPending", run: groupMaxAckPending},
		{name: "GroupWakesWaiting", run: groupWakesWaiting},
		{name: "GroupSlowBlocksNobody", run: groupSlowBlocksNobody},
	}
}

func groupCompetes(e *env) {
	publisher, one, two := e.open(), e.open(), e.open()
	a, b := e.group(one, "a.done", "g"), e.group(two, "a.done", "g")
	const n = 100
	e.publish(publisher, e.events("a.done", n)...)

	var mu sync.Mutex
	var got []string
	ctx, cancel := context.WithCancel(e.ctx())
	read := func(src transport.Source[transport.Delivery]) <-chan error {
		return start(func() error {
			for {
				d, err := src.Next(ctx)
				if ctx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				if err := d.Ack(ctx); err != nil {
					return err
				}
				mu.Lock()
				if got = append(got, text(d.Message())); len(got) == n {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	first, second := read(a), read(b)
	require.NoError(e.t, e.result(first))
	require.NoError(e.t, e.result(second))
	require.ElementsMatch(e.t, numbers(0, n-1), got)
	e.nothing(a)
	e.nothing(b)
}

func groupsAreIndependent(e *env) {
	publisher, reader := e.open(), e.open()
	a, b := e.group(reader, "a.done", "one"), e.group(reader, "a.done", "two")
	e.publish(publisher, e.events("a.done", 5)...)
	require.Equal(e.t, numbers(0, 4), texts(e.take(a, 5)))
	require.Equal(e.t, numbers(0, 4), texts(e.take(b, 5)))
}

func groupReadsItsNameOnly(e *env) {
	tr := e.open()
	a, ab, b := e.group(tr, "a", "g"), e.group(tr, "a.b", "g"), e.group(tr, "b", "g")
	e.publish(tr, e.event("a", "to a"), e.event("a.b", "to a.b"), e.event("b", "to b"), e.event("a.b.c", "to none"))
	require.Equal(e.t, []string{"to a"}, texts(e.take(a, 1)))
	require.Equal(e.t, []string{"to a.b"}, texts(e.take(ab, 1)))
	require.Equal(e.t, []string{"to b"}, texts(e.take(b, 1)))
	e.nothing(a)
	e.nothing(ab)
	e.nothing(b)
}

func groupStartsNew(e *env) {
	tr := e.open()
	e.publish(tr, e.event("a.done", "before"))
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.event("a.done", "after"))
	require.Equal(e.t, []string{"after"}, texts(e.take(src, 1)))
	e.nothing(src)
}

func groupStartsAll(e *env) {
	tr := e.open()
	e.publish(tr, e.event("a.done", "0"), e.event("other", "x"), e.event("a.done", "1"))
	e.take(e.subscribe(tr, transport.Subscription{Name: "a.done", Group: "first",
		AckWait: e.ackWait, Start: transport.Start{All: true}}), 2) // settled by one group
	src := e.subscribe(tr, transport.Subscription{Name: "a.done", Group: "g", AckWait: e.ackWait,
		Start: transport.Start{All: true}})
	e.publish(tr, e.event("a.done", "2"))
	require.Equal(e.t, numbers(0, 2), texts(e.take(src, 3)))
	e.nothing(src)
}

func groupStartsSince(e *env) {
	tr := e.open()
	e.publish(tr, e.event("a.done", "old"))
	e.pass(50 * time.Millisecond)
	since := time.Now()
	e.pass(50 * time.Millisecond)
	e.publish(tr, e.event("a.done", "0"))
	src := e.subscribe(tr, transport.Subscription{Name: "a.done", Group: "g", AckWait: e.ackWait,
		Start: transport.Start{Since: since}})
	e.publish(tr, e.event("a.done", "1"))
	require.Equal(e.t, numbers(0, 1), texts(e.take(src, 2)))
	e.nothing(src)
}

// groupStartsOnce: Start has no effect on a group that exists.
func groupStartsOnce(e *env) {
	tr := e.open()
	e.publish(tr, e.event("a.done", "before"))
	e.close(e.group(tr, "a.done", "g"))
	e.publish(tr, e.event("a.done", "0"))
	src := e.subscribe(tr, transport.Subscription{Name: "a.done", Group: "g", AckWait: e.ackWait,
		Start: transport.Start{All: true}})
	require.Equal(e.t, []string{"0"}, texts(e.take(src, 1)))
	e.nothing(src)
}

func groupSurvivesReaders(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	e.publish(tr, e.event("a.done", "settled"))
	e.take(src, 1)
	e.close(src)
	e.publish(tr, e.event("a.done", "0"))
	e.pass(e.gap)
	e.publish(tr, e.event("a.done", "1"))
	src = e.group(tr, "a.done", "g")
	require.Equal(e.t, numbers(0, 1), texts(e.take(src, 2)))
	e.nothing(src)
}

func groupSurvivesProcess(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.group(reader, "a.done", "g")
	e.publish(publisher, e.event("a.done", "held"))
	e.next(src) // unsettled when its process goes
	require.NoError(e.t, reader.Close(e.ctx()))
	e.publish(publisher, e.event("a.done", "meanwhile"))
	e.pass(e.gap)
	src = e.group(e.open(), "a.done", "g")
	require.ElementsMatch(e.t, []string{"held", "meanwhile"}, texts(e.take(src, 2)))
	e.nothing(src)
}

func groupConcurrentNext(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	const readers, each = 8, 25
	ctx := e.ctx()
	got := make(chan string, readers*each)
	var done []<-chan error
	for range readers {
		done = append(done, start(func() error {
			for range each {
				d, err := src.Next(ctx)
				if err != nil {
					return err
				}
				got <- text(d.Message())
				if err := d.Ack(ctx); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	for _, m := range e.events("a.done", readers*each) {
		e.publish(tr, m)
	}
	for _, d := range done {
		require.NoError(e.t, e.result(d))
	}
	var all []string
	for range readers * each {
		all = append(all, <-got)
	}
	require.ElementsMatch(e.t, numbers(0, readers*each-1), all)
}

func groupMaxAckPending(e *env) {
	tr := e.open()
	s := transport.Subscription{Name: "a.done", Group: "g", AckWait: time.Hour, MaxAckPending: 2}
	src := e.subscribe(tr, s)
	e.publish(tr, e.events("a.done", 4)...)
	first, second := e.next(src), e.next(src)
	e.nothing(src)
	other := e.subscribe(tr, s)
	e.nothing(other) // it counts for the whole group
	e.close(other)
	e.ack(first)
	third := e.next(src)
	require.Equal(e.t, "2", text(third.Message()))
	e.nothing(src)
	require.NoError(e.t, third.Term(e.ctx(), "enough"))
	e.ack(e.next(src))
	e.ack(second)
	e.nothing(src)
}

func groupSlowBlocksNobody(e *env) {
	tr := e.open()
	e.group(tr, "a.done", "slow")
	held := e.group(tr, "a.done", "stuck")
	quick := e.group(tr, "a.done", "quick")
	for i := range 200 {
		e.publish(tr, e.event("a.done", fmt.Sprint(i)))
		if i == 0 {
			e.next(held)
		}
		require.Equal(e.t, []string{fmt.Sprint(i)}, texts(e.take(quick, 1)))
	}
}

// groupWakesWaiting: whatever makes an event ready reaches a Next that waits.
func groupWakesWaiting(e *env) {
	tr := e.open()
	src := e.subscribe(tr, transport.Subscription{Name: "a.done", Group: "g", AckWait: time.Hour, MaxAckPending: 1})
	ctx := e.ctx()
	wait := func() (**transport.Delivery, <-chan error) {
		got := new(*transport.Delivery)
		return got, start(func() error {
			d, err := src.Next(ctx)
			*got = &d
			return err
		})
	}
	got, done := wait()
	e.publish(tr, e.events("a.done", 2)...)
	require.NoError(e.t, e.result(done))
	for name, settle := range map[string]func(transport.Delivery) error{
		"nak":     func(d transport.Delivery) error { return d.Nak(ctx, 0) },
		"later":   func(d transport.Delivery) error { return d.Nak(ctx, e.ackWait/5) },
		"release": func(d transport.Delivery) error { return d.Release(ctx) },
		"ack":     func(d transport.Delivery) error { return d.Ack(ctx) },
	} {
		d := **got
		got, done = wait()
		e.pass(e.quiet)
		require.Empty(e.t, done, "one event at a time")
		require.NoError(e.t, settle(d), name)
		require.NoError(e.t, e.result(done), name)
		if name == "ack" {
			e.publish(tr, e.event("a.done", "one more"))
		}
	}
}
