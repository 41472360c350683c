package transporttest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func contextCases() []testCase {
	return []testCase{
		{name: "ContextCancelled", run: contextCancelled},
		{name: "ContextCancelledStoresNothing", run: contextCancelledStoresNothing},
		{name: "ContextCancelledNext", run: contextCancelledNext},
		{name: "ContextCancelledSettlement", run: contextCancelledSettlement},
		{name: "ContextOfSetUpEnds", run: contextOfSetUpEnds},
		{name: "NextLosesNothing", run: nextLosesNothing},
		{name: "NextGivesUpForOthers", run: nextGivesUpForOthers},
	}
}

func cancelled(e *env) context.Context {
	ctx, cancel := context.WithCancel(e.t.Context())
	cancel()
	return ctx
}

func contextCancelled(e *env) {
	tr := e.open()
	for name, call := range e.calls(tr) {
		require.ErrorIs(e.t, call(cancelled(e)), context.Canceled, name)
	}
}

func contextCancelledStoresNothing(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	served := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	m := e.event("a.done", "x")
	require.ErrorIs(e.t, tr.Publish(cancelled(e), m), context.Canceled)
	_, err := tr.Request(cancelled(e), e.command("a.do", "x"))
	require.ErrorIs(e.t, err, context.Canceled)
	e.nothing(src)
	ctx, stop := context.WithTimeout(e.t.Context(), e.quiet)
	defer stop()
	_, err = served.Next(ctx)
	require.ErrorIs(e.t, err, context.DeadlineExceeded)
	e.publish(tr, m) // the same ID
	e.take(src, 1)
}

func contextCancelledNext(e *env) {
	tr := e.open()
	group, private := e.group(tr, "a.done", "g"), e.private(tr, "a.done")
	served := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	watch, err := tr.Store().Watch(e.ctx(), "")
	require.NoError(e.t, err)
	_, err = watch.Next(e.ctx())
	require.NoError(e.t, err)
	_, err = watch.Next(cancelled(e))
	require.ErrorIs(e.t, err, context.Canceled)
	_, err = served.Next(cancelled(e))
	require.ErrorIs(e.t, err, context.Canceled)
	_, err = group.Next(cancelled(e))
	require.ErrorIs(e.t, err, context.Canceled)
	_, err = private.Next(cancelled(e))
	require.ErrorIs(e.t, err, context.Canceled)
}

// contextCancelledSettlement: a settlement with a cancelled context either
// settles, or leaves the delivery to be settled.
func contextCancelledSettlement(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	for _, s := range settlements() {
		e.publish(tr, e.event("a.done", "x"))
		d := e.next(src)
		if err := s.do(cancelled(e), d); err != nil {
			require.ErrorIs(e.t, err, context.Canceled, s.name)
			e.ack(d)
			continue
		}
		require.ErrorIs(e.t, d.Ack(e.ctx()), transport.ErrSettled, s.name)
		if s.name == "release" {
			e.take(src, 1)
		}
	}
}

// contextOfSetUpEnds: a ctx bounds the call that it is passed to and nothing
// after it.
func contextOfSetUpEnds(e *env) {
	tr := e.open()
	ctx, cancel := context.WithCancel(e.t.Context())
	served, err := tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	require.NoError(e.t, err)
	group, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Group: "g", AckWait: e.ackWait})
	require.NoError(e.t, err)
	private, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done"})
	require.NoError(e.t, err)
	watch, err := tr.Store().Watch(ctx, "")
	require.NoError(e.t, err)
	m := e.later("a.done", "later", e.delay)
	require.NoError(e.t, tr.Publish(ctx, m))
	cancel()

	_, done := e.ask(tr, e.command("a.do", "x"))
	e.answer(e.request(served), "ok")
	require.NoError(e.t, e.result(done))
	e.publish(tr, e.event("a.done", "now"))
	require.Equal(e.t, []string{"now", "later"}, texts(e.take(group, 2)))
	require.Equal(e.t, []string{"now", "later"}, texts(e.take(private, 2)))
	_, err = tr.Store().Create(e.ctx(), "k", []byte("v"), 0)
	require.NoError(e.t, err)
	for range 2 {
		_, err = watch.Next(e.ctx())
		require.NoError(e.t, err)
	}
}

// nextLosesNothing: a Next that gives up just as an event arrives does not take
// the event with it.
func nextLosesNothing(e *env) {
	tr := e.open()
	src := e.steady(tr, "a.done", "g")
	const n = 200
	got := map[string]bool{}
	for _, m := range e.events("a.done", n) {
		ctx, cancel := context.WithTimeout(e.t.Context(), time.Millisecond)
		waiting := make(chan transport.Delivery, 1)
		go func() {
			d, err := src.Next(ctx)
			if err != nil {
				d = nil
			}
			waiting <- d
		}()
		e.publish(tr, m)
		cancel()
		if d := <-waiting; d != nil {
			require.Equal(e.t, 1, d.Deliveries())
			got[text(d.Message())] = true
			e.ack(d)
		}
	}
	for len(got) < n {
		d := e.next(src)
		require.Equal(e.t, 1, d.Deliveries())
		got[text(d.Message())] = true
		e.ack(d)
	}
	e.nothing(src)
}

// nextGivesUpForOthers: an event that arrives as one Next gives up, or as its
// source closes, reaches the one that waits beside it.
func nextGivesUpForOthers(e *env) {
	tr := e.open()
	stays := e.group(tr, "a.done", "g")
	type result struct {
		d   transport.Delivery
		err error
	}
	for i, m := range e.events("a.done", 200) {
		leaves := e.group(tr, "a.done", "g")
		long, stop := context.WithTimeout(e.t.Context(), e.limit)
		short, cancel := context.WithCancel(e.t.Context())
		results := make(chan result, 2)
		wait := func(ctx context.Context, src transport.Source[transport.Delivery]) {
			d, err := src.Next(ctx)
			results <- result{d, err}
		}
		go wait(short, leaves)
		e.pass(time.Millisecond) // both wait, and the one that leaves is first
		go wait(long, stays)
		e.pass(time.Millisecond)
		e.publish(tr, m)
		if i%2 == 0 {
			cancel()
		} else {
			e.close(leaves)
		}
		r := <-results
		for n := 1; r.err != nil; n++ {
			require.True(e.t, n < 2 && oneOf(r.err, context.Canceled, transport.ErrClosed), "%v", r.err)
			r = <-results
		}
		require.Equal(e.t, m.ID, r.d.Message().ID)
		require.Equal(e.t, 1, r.d.Deliveries())
		e.ack(r.d)
		stop()
		cancel()
		e.close(leaves)
	}
}
