package transporttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func serveCases() []testCase {
	return []testCase{
		{name: "ServersCompete", run: serversCompete},
		{name: "ServeBusy", run: serveBusy},
		{name: "ServeCloseAnswersStopping", run: serveCloseAnswersStopping},
		{name: "ServeCloseKeepsTaken", run: serveCloseKeepsTaken},
		{name: "ServeCloseUnderLoad", run: serveCloseUnderLoad},
		{name: "ServeCloseUnblocksNext", run: serveCloseUnblocksNext},
		{name: "ServeAgain", run: serveAgain},
		{name: "ServeCloseLeavesOthers", run: serveCloseLeavesOthers},
	}
}

// echo answers what src hands out with the text asked and the server's name,
// until src is closed.
func (e *env) echo(src transport.Source[transport.Request], name string) <-chan error {
	ctx := e.ctx()
	inProcess := e.inProcess
	return start(func() error {
		for {
			r, err := src.Next(ctx)
			if errors.Is(err, transport.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			m := &transport.Message{Header: transport.Header{"By": {name}}}
			(&env{inProcess: inProcess}).fill(m, text(r.Message()))
			if err := r.Reply(ctx, m); err != nil {
				return err
			}
		}
	})
}

func serversCompete(e *env) {
	caller, one, two := e.open(), e.open(), e.open()
	at := transport.Endpoint{Address: transport.Address{Name: "a.do"}}
	a, b := e.serve(one, at), e.serve(two, at)
	first, second := e.echo(a, "one"), e.echo(b, "two")
	by := map[string]int{}
	for i := range 50 {
		reply, err := caller.Request(e.ctx(), e.command("a.do", fmt.Sprint(i)))
		require.NoError(e.t, err)
		require.Equal(e.t, fmt.Sprint(i), text(reply))
		by[reply.Header.Get("By")]++
	}
	require.Equal(e.t, 50, by["one"]+by["two"])

	e.close(a) // the other one goes on alone
	require.NoError(e.t, e.result(first))
	for range 10 {
		reply, err := caller.Request(e.ctx(), e.command("a.do", "x"))
		require.NoError(e.t, err)
		require.Equal(e.t, "two", reply.Header.Get("By"))
	}
	e.close(b)
	require.NoError(e.t, e.result(second))
}

// fillBacklog sends requests until one is refused as busy: the others wait. It
// returns where their results arrive.
func (e *env) fillBacklog(tr transport.Transport, name string, backlog int) <-chan error {
	ctx := e.ctx()
	all := make(chan error, backlog+1)
	for range backlog + 1 {
		m := e.command(name, "x")
		go func() { _, err := tr.Request(ctx, m); all <- err }()
	}
	require.ErrorIs(e.t, e.result(all), transport.ErrBusy)
	return all
}

func serveBusy(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "a.do"}, Backlog: 3})
	done := e.fillBacklog(caller, "a.do", 3)
	_, err := caller.Request(e.ctx(), e.command("a.do", "x"))
	require.ErrorIs(e.t, err, transport.ErrBusy)
	for range 3 {
		e.answer(e.request(src), "ok")
	}
	for range 3 {
		require.NoError(e.t, e.result(done))
	}
	_, next := e.ask(caller, e.command("a.do", "x")) // there is room again
	e.answer(e.request(src), "ok")
	require.NoError(e.t, e.result(next))
}

func serveCloseAnswersStopping(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "a.do"}, Backlog: 3})
	done := e.fillBacklog(caller, "a.do", 3)
	e.close(src)
	for range 3 {
		require.ErrorIs(e.t, e.result(done), transport.ErrStopping)
	}
	_, err := src.Next(e.ctx())
	require.ErrorIs(e.t, err, transport.ErrClosed)
	_, err = caller.Request(e.ctx(), e.command("a.do", "x"))
	require.ErrorIs(e.t, err, transport.ErrNoHandler)
}

func serveCloseKeepsTaken(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	reply, done := e.ask(caller, e.command("a.do", "x"))
	r := e.request(src)
	e.close(src)
	e.answer(r, "finished")
	require.NoError(e.t, e.result(done))
	require.Equal(e.t, "finished", text(*reply))
}

// serveCloseUnderLoad: while servers come and go, a request either has an
// answer or an error that says that nothing ran.
func serveCloseUnderLoad(e *env) {
	caller, server := e.open(), e.open()
	at := transport.Endpoint{Address: transport.Address{Name: "a.do"}}
	ctx := e.ctx()
	const callers, each = 8, 50
	var wg sync.WaitGroup
	bad := make(chan error, callers)
	for range callers {
		ms := e.events("a.do", each)
		wg.Go(func() {
			for _, m := range ms {
				reply, err := caller.Request(ctx, m)
				switch {
				case err == nil && text(reply) != text(m):
					bad <- fmt.Errorf("asked %q, answered %q", text(m), text(reply))
					return
				case err != nil && !oneOf(err, transport.ErrNoHandler, transport.ErrStopping, transport.ErrBusy):
					bad <- err
					return
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	for running := true; running; {
		src := e.serve(server, at)
		served := e.echo(src, "s")
		_, err := caller.Request(ctx, e.command("a.do", "probe"))
		require.NoError(e.t, err)
		e.close(src)
		require.NoError(e.t, e.result(served))
		select {
		case <-finished:
			running = false
		case <-time.After(time.Millisecond): // a caller may wait, which in fake time needs a pause of everybody
		}
	}
	select {
	case err := <-bad:
		require.NoError(e.t, err)
	default:
	}
}

func serveCloseUnblocksNext(e *env) {
	src := e.serve(e.open(), transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	ctx := e.ctx()
	waiting := start(func() error { _, err := src.Next(ctx); return err })
	e.close(src)
	require.ErrorIs(e.t, e.result(waiting), transport.ErrClosed)
	e.close(src)

	src = e.serve(e.open(), transport.Endpoint{Address: transport.Address{Name: "b.do"}})
	short, cancel := context.WithTimeout(e.t.Context(), e.quiet)
	defer cancel()
	_, err := src.Next(short)
	require.ErrorIs(e.t, err, context.DeadlineExceeded)
}

func serveAgain(e *env) {
	caller, server := e.open(), e.open()
	at := transport.Endpoint{Address: transport.Address{Name: "a.do"}}
	for range 20 {
		src := e.serve(server, at)
		_, done := e.ask(caller, e.command("a.do", "x"))
		e.answer(e.request(src), "ok")
		require.NoError(e.t, e.result(done))
		e.close(src)
		_, err := caller.Request(e.ctx(), e.command("a.do", "x"))
		require.ErrorIs(e.t, err, transport.ErrNoHandler)
	}
}

// serveCloseLeavesOthers: a request that meets a closing server is answered by
// the other one, or refused; it does not hang.
func serveCloseLeavesOthers(e *env) {
	caller, server := e.open(), e.open()
	at := transport.Endpoint{Address: transport.Address{Name: "a.do"}}
	stays := e.serve(server, at)
	served := e.echo(stays, "stays")
	for range 200 {
		leaves := e.serve(server, at)
		gone := e.echo(leaves, "leaves")
		e.pass(time.Millisecond) // it waits; then the other one waits behind it
		_, err := caller.Request(e.ctx(), e.command("a.do", "x"))
		require.NoError(e.t, err)
		_, done := e.ask(caller, e.command("a.do", "x"))
		e.close(leaves)
		if err := e.result(done); err != nil {
			require.True(e.t, oneOf(err, transport.ErrStopping, transport.ErrNoHandler), "%v", err)
		}
		require.NoError(e.t, e.result(gone))
	}
	e.close(stays)
	require.NoError(e.t, e.result(served))
}
