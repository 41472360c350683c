package transporttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func publishCases() []testCase {
	return []testCase{
		{name: "PublishReachesGroup", run: publishReachesGroup},
		{name: "PublishWithoutReaders", run: publishWithoutReaders},
		{name: "PublishNothing", run: publishNothing},
		{name: "PublishOrder", run: publishOrder},
		{name: "PublishConcurrently", run: publishConcurrently},
		{name: "PublishBatchOrder", run: publishBatchOrder},
		{name: "PublishBatchOutcomes", run: publishBatchOutcomes},
		{name: "PublishInvalid", run: publishInvalid},
		{name: "PublishOversize", run: publishOversize, needs: func(f Features) bool { return f.MaxBody > 0 }},
		{name: "PublishBacklog", run: publishBacklog, needs: func(f Features) bool { return f.MaxEvents > 0 }},
	}
}

func publishReachesGroup(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.group(reader, "a.done", "g")
	m := e.event("a.done", "x")
	e.publish(publisher, m)
	d := e.next(src)
	require.Equal(e.t, m.To, d.Message().To)
	require.Equal(e.t, m.ID, d.Message().ID)
	require.Equal(e.t, "x", text(d.Message()))
	require.Equal(e.t, 1, d.Deliveries())
	require.True(e.t, d.Lease().After(time.Now()), "lease %v", d.Lease())
	require.False(e.t, d.Lease().After(time.Now().Add(e.ackWait)), "lease %v", d.Lease())
	e.ack(d)
	e.publish(publisher, e.event("a.done", "y"))
	second := e.next(src)
	require.Equal(e.t, "y", text(second.Message()))
	if d.Sequence() != 0 {
		require.Greater(e.t, second.Sequence(), d.Sequence())
	}
	e.ack(second)
}

func publishWithoutReaders(e *env) {
	tr := e.open()
	e.publish(tr, e.events("a.done", 20)...)
}

func publishNothing(e *env) { e.publish(e.open()) }

func publishOrder(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.steady(reader, "a.done", "g")
	const n = 300
	for _, m := range e.events("a.done", n) {
		e.publish(publisher, m)
	}
	require.Equal(e.t, numbers(0, n-1), texts(e.take(src, n)))
}

func publishConcurrently(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.group(reader, "a.done", "g")
	const publishers, each = 8, 50
	ctx := e.ctx()
	var wg sync.WaitGroup
	errs := make(chan error, publishers)
	for p := range publishers {
		ms := make([]*transport.Message, each)
		for i := range ms {
			ms[i] = e.event("a.done", fmt.Sprintf("%d/%d", p, i))
		}
		wg.Go(func() {
			for _, m := range ms {
				if err := publisher.Publish(ctx, m); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	got := texts(e.take(src, publishers*each))
	wg.Wait()
	select {
	case err := <-errs:
		require.NoError(e.t, err)
	default:
	}
	for p := range publishers {
		var mine []string
		for _, s := range got {
			if of, i, _ := strings.Cut(s, "/"); of == fmt.Sprint(p) {
				mine = append(mine, i)
			}
		}
		require.Equal(e.t, numbers(0, each-1), mine, "events of publisher %d", p)
	}
}

func publishBatchOrder(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.steady(reader, "a.done", "g")
	ms := e.events("a.done", 100)
	for _, m := range ms {
		m.Key = "order-7"
	}
	e.publish(publisher, ms...)
	ds := e.take(src, 100)
	require.Equal(e.t, numbers(0, 99), texts(ds))
	require.Equal(e.t, "order-7", ds[50].Message().Key)
}

func publishBatchOutcomes(e *env) {
	publisher, reader := e.open(), e.open()
	src := e.group(reader, "a.done", "g")
	known := e.event("a.done", "known")
	e.publish(publisher, known)

	bad := e.event("not a name", "bad")
	err := publisher.Publish(e.ctx(), e.event("a.done", "one"), known, bad, nil, e.event("a.done", "two"))
	var pe *transport.PublishError
	require.ErrorAs(e.t, err, &pe)
	var got []transport.Status
	for _, o := range pe.Outcomes {
		got = append(got, o.Status)
	}
	require.Equal(e.t, []transport.Status{transport.Stored, transport.Duplicate,
		transport.Refused, transport.Refused, transport.Stored}, got)
	for i, o := range pe.Outcomes {
		if o.Status == transport.Refused {
			require.ErrorIs(e.t, o.Err, transport.ErrInvalid, "outcome %d", i)
		} else {
			require.NoError(e.t, o.Err, "outcome %d", i)
		}
	}
	require.Equal(e.t, []string{"known", "one", "two"}, texts(e.take(src, 3)))
	e.nothing(src)
}

func publishInvalid(e *env) {
	tr := e.open()
	for _, name := range []string{"", "*", ">", "a.*", "a.>", ".", "a.", ".a", "a..b", "a b", "A.b", "a\x00", "ä"} {
		require.ErrorIs(e.t, tr.Publish(e.ctx(), e.event(name, "x")), transport.ErrInvalid, "publish %q", name)
		_, err := tr.Request(e.ctx(), e.command(name, "x"))
		require.ErrorIs(e.t, err, transport.ErrInvalid, "request %q", name)
		_, err = tr.Serve(e.ctx(), transport.Endpoint{Address: transport.Address{Name: name}})
		require.ErrorIs(e.t, err, transport.ErrInvalid, "serve %q", name)
		_, err = tr.Subscribe(e.ctx(), transport.Subscription{Name: name, Group: "g"})
		require.ErrorIs(e.t, err, transport.ErrInvalid, "subscribe %q", name)
	}
	for _, group := range []string{"*", ">", "a.b", "a b", "A", "\x00", "ä"} {
		_, err := tr.Subscribe(e.ctx(), transport.Subscription{Name: "a.done", Group: group})
		require.ErrorIs(e.t, err, transport.ErrInvalid, "group %q", group)
		m := e.event("a.done", "x")
		m.To.Group = group
		require.ErrorIs(e.t, tr.Publish(e.ctx(), m), transport.ErrInvalid, "to group %q", group)
	}
	_, err := tr.Subscribe(e.ctx(), transport.Subscription{Name: "a.done", Group: "g", Session: "s"})
	require.ErrorIs(e.t, err, transport.ErrInvalid, "a group has no session")
	_, err = tr.Serve(e.ctx(), transport.Endpoint{Address: transport.Address{Name: "a.do", Group: "g"}})
	require.ErrorIs(e.t, err, transport.ErrInvalid, "an endpoint has no group")
	_, err = tr.Request(e.ctx(), nil)
	require.ErrorIs(e.t, err, transport.ErrInvalid, "nil request")
}

func publishOversize(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	m := e.event("a.done", "")
	m.Body = make([]byte, e.features.MaxBody+1)
	err := tr.Publish(e.ctx(), m)
	var size *transport.SizeError
	require.ErrorAs(e.t, err, &size)
	require.Equal(e.t, e.features.MaxBody, size.Limit)
	require.GreaterOrEqual(e.t, size.Size, e.features.MaxBody+1)
	var pe *transport.PublishError
	require.ErrorAs(e.t, err, &pe)
	require.Equal(e.t, transport.Refused, pe.Outcomes[0].Status)

	m.Body = m.Body[1:] // the same ID: the refused one left no trace
	e.publish(tr, m)
	d := e.next(src)
	require.Len(e.t, d.Message().Body, e.features.MaxBody)
	e.ack(d)
}

// publishBacklog: a group that does not read fills the log; then Publish says
// so instead of waiting for ever or dropping anything.
func publishBacklog(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "slow")
	const batch = 500
	stored := 0
	for {
		ctx, cancel := context.WithTimeout(e.t.Context(), e.limit/4)
		ms := make([]*transport.Message, batch)
		for i := range ms {
			ms[i] = e.event("a.done", fmt.Sprint(stored+i))
		}
		err := tr.Publish(ctx, ms...)
		cancel()
		if err == nil {
			stored += batch
			require.Less(e.t, stored, 2*e.features.MaxEvents+batch, "no limit in sight")
			continue
		}
		require.ErrorIs(e.t, err, transport.ErrBacklog)
		var pe *transport.PublishError
		require.True(e.t, errors.As(err, &pe))
		require.Len(e.t, pe.Outcomes, batch)
		for _, o := range pe.Outcomes {
			if o.Status == transport.Stored {
				stored++
				continue
			}
			require.Equal(e.t, transport.Refused, o.Status)
			require.ErrorIs(e.t, o.Err, transport.ErrBacklog)
		}
		break
	}
	require.Equal(e.t, e.features.MaxEvents, stored)
	ctx := e.ctx()
	for i := range stored {
		d, err := src.Next(ctx)
		require.NoError(e.t, err)
		require.Equal(e.t, fmt.Sprint(i), text(d.Message()))
		require.NoError(e.t, d.Ack(ctx))
	}
}
