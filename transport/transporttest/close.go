package transporttest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func closeCases() []testCase {
	return []testCase{
		{name: "CloseReturnsUnclaimed", run: closeReturnsUnclaimed},
		{name: "CloseReturnsUnclaimedInOrder", run: closeReturnsUnclaimedInOrder},
		{name: "CloseUnblocksNext", run: closeUnblocksNext},
		{name: "CloseUnderLoad", run: closeUnderLoad},
		{name: "TransportCloseUnblocks", run: transportCloseUnblocks},
		{name: "TransportCloseRefusesCalls", run: transportCloseRefusesCalls},
		{name: "TransportCloseReturnsUnclaimed", run: transportCloseReturnsUnclaimed, needs: severalProcesses},
	}
}

// closeReturnsUnclaimed: what a closed reader had fetched and not handed out
// reaches the group at once, uncounted, not after AckWait.
func closeReturnsUnclaimed(e *env) {
	one, two := e.open(), e.open()
	long := transport.Subscription{Name: "a.done", Group: "g", AckWait: 24 * time.Hour, Prefetch: 10}
	a := e.subscribe(one, long)
	e.publish(one, e.events("a.done", 5)...)
	held := e.next(a)
	b := e.subscribe(two, long)
	e.close(a)
	ds := e.take(b, 4)
	require.ElementsMatch(e.t, numbers(1, 4), texts(ds))
	for _, d := range ds {
		require.Equal(e.t, 1, d.Deliveries())
	}
	e.ack(held) // what Next returned before stays the caller's
	e.nothing(b)
	_, err := a.Next(e.ctx())
	require.ErrorIs(e.t, err, transport.ErrClosed)
	e.close(a)
}

func closeReturnsUnclaimedInOrder(e *env) {
	tr := e.open()
	for i := range 5 {
		e.close(e.group(tr, "a.done", "g"))
		e.publish(tr, e.events("a.done", 3)...)
		src := e.group(tr, "a.done", "g")
		e.take(src, 1)
		e.close(src)
		src = e.group(tr, "a.done", "g")
		require.ElementsMatch(e.t, []string{"1", "2"}, texts(e.take(src, 2)), "round %d", i)
		e.close(src)
	}
}

func closeUnblocksNext(e *env) {
	tr := e.open()
	for _, src := range []transport.Source[transport.Delivery]{e.group(tr, "a.done", "g"), e.private(tr, "a.done")} {
		ctx := e.ctx()
		var waiting []<-chan error
		for range 3 {
			waiting = append(waiting, start(func() error { _, err := src.Next(ctx); return err }))
		}
		e.nothing(src) // long enough for the three to wait
		e.close(src)
		for _, w := range waiting {
			require.ErrorIs(e.t, e.result(w), transport.ErrClosed)
		}
		e.close(src)
	}
}

// closeUnderLoad: readers come and go while events flow. Each event is settled
// once, and none counts as delivered more often than it was.
func closeUnderLoad(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.steady(reader, "a.done", "g")
	const n = 400
	ctx := e.ctx()
	ms := e.events("a.done", n)
	published := start(func() error {
		for _, m := range ms {
			if err := publisher.Publish(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
	seen := map[string]int{}
	for len(seen) < n {
		for range min(37, n-len(seen)) {
			d := e.next(src)
			require.Equal(e.t, 1, d.Deliveries(), "event %s", text(d.Message()))
			seen[text(d.Message())]++
			e.ack(d)
		}
		e.close(src)
		src = e.steady(reader, "a.done", "g")
	}
	require.NoError(e.t, e.result(published))
	e.nothing(src)
	for s, times := range seen {
		require.Equal(e.t, 1, times, "event %s", s)
	}
}

func transportCloseUnblocks(e *env) {
	tr := e.open()
	ctx := e.ctx()
	group, private := e.group(tr, "a.done", "g"), e.private(tr, "a.done")
	served := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	watch, err := tr.Store().Watch(ctx, "")
	require.NoError(e.t, err)
	_, err = watch.Next(ctx)
	require.NoError(e.t, err)
	_, asked := e.ask(tr, e.command("a.do", "x"))
	e.request(served)
	waiting := map[string]<-chan error{
		"group":   start(func() error { _, err := group.Next(ctx); return err }),
		"private": start(func() error { _, err := private.Next(ctx); return err }),
		"server":  start(func() error { _, err := served.Next(ctx); return err }),
		"watch":   start(func() error { _, err := watch.Next(ctx); return err }),
		"request": asked,
	}
	require.NoError(e.t, tr.Close(e.ctx()))
	for who, w := range waiting {
		require.ErrorIs(e.t, e.result(w), transport.ErrClosed, who)
	}
	require.NoError(e.t, tr.Close(e.ctx()), "a second close")
	e.close(group)
	e.close(served)
	e.close(watch)
}

func transportCloseRefusesCalls(e *env) {
	tr := e.open()
	served := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	_, asked := e.ask(tr, e.command("a.do", "x"))
	r := e.request(served)
	require.NoError(e.t, tr.Close(e.ctx()))
	require.Error(e.t, e.result(asked))
	require.ErrorIs(e.t, r.Reply(e.ctx(), &transport.Message{}), transport.ErrClosed, "reply")
	for name, call := range e.calls(tr) {
		require.ErrorIs(e.t, call(e.ctx()), transport.ErrClosed, name)
	}
}

// calls is every method of a transport, with arguments that are fine.
func (e *env) calls(tr transport.Transport) map[string]func(context.Context) error {
	dead, store := tr.DeadLetters(), tr.Store()
	return map[string]func(context.Context) error{
		"request": func(ctx context.Context) error { _, err := tr.Request(ctx, e.command("a.do", "x")); return err },
		"serve": func(ctx context.Context) error {
			_, err := tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "b.do"}})
			return err
		},
		"publish":       func(ctx context.Context) error { return tr.Publish(ctx, e.event("a.done", "x")) },
		"publish batch": func(ctx context.Context) error { return tr.Publish(ctx, e.events("a.done", 3)...) },
		"subscribe": func(ctx context.Context) error {
			_, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Group: "x"})
			return err
		},
		"subscribe privately": func(ctx context.Context) error {
			_, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done"})
			return err
		},
		"add dead letter":    func(ctx context.Context) error { return dead.Add(ctx, e.deadLetter("x")) },
		"list dead letters":  func(ctx context.Context) error { _, err := dead.List(ctx, transport.DeadLetterQuery{}); return err },
		"get dead letter":    func(ctx context.Context) error { _, err := dead.Get(ctx, "x"); return err },
		"remove dead letter": func(ctx context.Context) error { return dead.Remove(ctx, "x") },
		"dead letter stats":  func(ctx context.Context) error { _, err := dead.Stats(ctx); return err },
		"create":             func(ctx context.Context) error { _, err := store.Create(ctx, "k", nil, 0); return err },
		"get":                func(ctx context.Context) error { _, err := store.Get(ctx, "k"); return err },
		"update":             func(ctx context.Context) error { _, err := store.Update(ctx, "k", nil, 1, 0); return err },
		"delete":             func(ctx context.Context) error { return store.Delete(ctx, "k", 0) },
		"watch":              func(ctx context.Context) error { _, err := store.Watch(ctx, ""); return err },
	}
}

func transportCloseReturnsUnclaimed(e *env) {
	one, two := e.open(), e.open()
	long := transport.Subscription{Name: "a.done", Group: "g", AckWait: 24 * time.Hour, Prefetch: 10}
	a := e.subscribe(one, long)
	e.publish(one, e.events("a.done", 5)...)
	e.take(a, 1)
	b := e.subscribe(two, long)
	require.NoError(e.t, one.Close(e.ctx()))
	ds := e.take(b, 4)
	require.ElementsMatch(e.t, numbers(1, 4), texts(ds))
	for _, d := range ds {
		require.Equal(e.t, 1, d.Deliveries())
	}
}
