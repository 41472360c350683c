package transporttest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func requestCases() []testCase {
	limited := func(f Features) bool { return f.MaxBody > 0 }
	return []testCase{
		{name: "RequestReply", run: requestReply},
		{name: "RequestNoHandler", run: requestNoHandler},
		{name: "RequestExactAddress", run: requestExactAddress},
		{name: "RequestDeadline", run: requestDeadline},
		{name: "RequestTimesOut", run: requestTimesOut},
		{name: "RequestCancelled", run: requestCancelled},
		{name: "RequestsDoNotMix", run: requestsDoNotMix},
		{name: "RequestOversize", run: requestOversize, needs: limited},
		{name: "ReplyOversize", run: replyOversize, needs: limited},
		{name: "ReplyTwice", run: replyTwice},
	}
}

// command is a request to name with the text as its content.
func (e *env) command(name, text string) *transport.Message { return e.event(name, text) }

// ask sends m beside the case; the answer is in reply once the error is nil.
func (e *env) ask(tr transport.Transport, m *transport.Message) (reply **transport.Message, done <-chan error) {
	ctx := e.ctx()
	reply = new(*transport.Message)
	return reply, start(func() error {
		r, err := tr.Request(ctx, m)
		*reply = r
		return err
	})
}

// answer replies to r with the text.
func (e *env) answer(r transport.Request, text string) {
	e.t.Helper()
	m := &transport.Message{}
	e.fill(m, text)
	require.NoError(e.t, r.Reply(e.ctx(), m), "reply")
}

func requestReply(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "user.create"}})
	m := e.command("user.create", "alice")
	m.Session, m.CorrelationID, m.CausationID = "s1", "corr", "cause"
	m.ContentType = "application/cbor"
	m.Header = transport.Header{"Trace": {"a", "b"}, "trace": {""}}
	reply, done := e.ask(caller, m)

	r := e.request(src)
	got := r.Message()
	require.Equal(e.t, m.To, got.To)
	require.Equal(e.t, m.ID, got.ID)
	require.Equal(e.t, "s1", got.Session)
	require.Equal(e.t, "corr", got.CorrelationID)
	require.Equal(e.t, "cause", got.CausationID)
	require.Equal(e.t, "application/cbor", got.ContentType)
	require.Equal(e.t, m.Header, got.Header)
	require.Equal(e.t, "alice", text(got))
	require.NoError(e.t, got.Malformed)

	back := &transport.Message{ID: "r-1", ContentType: "application/msgpack",
		CorrelationID: "corr", Header: transport.Header{"Code": {"ok"}, "code": {"", "x"}}}
	e.fill(back, "id-7")
	require.NoError(e.t, r.Reply(e.ctx(), back))
	require.NoError(e.t, e.result(done))
	require.Equal(e.t, "id-7", text(*reply))
	require.Equal(e.t, back.ID, (*reply).ID)
	require.Equal(e.t, back.ContentType, (*reply).ContentType)
	require.Equal(e.t, back.CorrelationID, (*reply).CorrelationID)
	require.Equal(e.t, back.Header, (*reply).Header)
}

func requestNoHandler(e *env) {
	tr := e.open()
	_, err := tr.Request(e.ctx(), e.command("nobody.home", "x"))
	require.ErrorIs(e.t, err, transport.ErrNoHandler)
	e.group(tr, "nobody.home", "g")
	_, err = tr.Request(e.ctx(), e.command("nobody.home", "x"))
	require.ErrorIs(e.t, err, transport.ErrNoHandler, "a listener is no server")
}

func requestExactAddress(e *env) {
	tr := e.open()
	inBus := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	inSession := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do", Session: "s1"}})
	for _, at := range []transport.Address{
		{Name: "a.do", Session: "s2"}, {Name: "a"}, {Name: "a.do.more"}, {Name: "b.do", Session: "s1"},
	} {
		m := e.command(at.Name, "x")
		m.To = at
		_, err := tr.Request(e.ctx(), m)
		require.ErrorIs(e.t, err, transport.ErrNoHandler, "%+v", at)
	}
	for session, src := range map[string]transport.Source[transport.Request]{"": inBus, "s1": inSession} {
		m := e.command("a.do", "to "+session)
		m.To.Session = session
		reply, done := e.ask(tr, m)
		r := e.request(src)
		require.Equal(e.t, m.To, r.Message().To)
		e.answer(r, "from "+session)
		require.NoError(e.t, e.result(done))
		require.Equal(e.t, "from "+session, text(*reply))
	}
}

func requestDeadline(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "a.do"}})

	ctx, cancel := context.WithTimeout(e.t.Context(), e.limit)
	defer cancel()
	want, _ := ctx.Deadline()
	done := start(func() error { _, err := caller.Request(ctx, e.command("a.do", "x")); return err })
	r := e.request(src)
	require.WithinDuration(e.t, want, r.Deadline(), 2*time.Second)
	e.answer(r, "")
	require.NoError(e.t, e.result(done))

	forever, stop := context.WithCancel(e.t.Context())
	defer stop()
	m := e.command("a.do", "x")
	done = start(func() error { _, err := caller.Request(forever, m); return err })
	r = e.request(src)
	require.Zero(e.t, r.Deadline(), "a caller without deadline")
	e.answer(r, "")
	require.NoError(e.t, e.result(done))
}

func requestTimesOut(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	ctx, cancel := context.WithTimeout(e.t.Context(), e.quiet)
	defer cancel()
	m := e.command("a.do", "x")
	done := start(func() error { _, err := caller.Request(ctx, m); return err })
	r := e.request(src)
	require.ErrorIs(e.t, e.result(done), context.DeadlineExceeded)
	e.answer(r, "late") // goes nowhere, harms nobody

	// A late reply must not become the answer to the next request.
	reply, done := e.ask(caller, e.command("a.do", "again"))
	e.answer(e.request(src), "in time")
	require.NoError(e.t, e.result(done))
	require.Equal(e.t, "in time", text(*reply))
}

func requestCancelled(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	ctx, cancel := context.WithCancel(e.t.Context())
	defer cancel()
	m := e.command("a.do", "x")
	done := start(func() error { _, err := caller.Request(ctx, m); return err })
	e.request(src)
	cancel()
	require.ErrorIs(e.t, e.result(done), context.Canceled)
}

func requestsDoNotMix(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	const n = 64
	var replies [n]**transport.Message
	var done [n]<-chan error
	for i := range n {
		replies[i], done[i] = e.ask(caller, e.command("a.do", fmt.Sprint(i)))
	}
	rs := make([]transport.Request, n)
	for i := range rs {
		rs[i] = e.request(src)
	}
	for i := n - 1; i >= 0; i-- { // answered in another order than asked
		e.answer(rs[i], "re "+text(rs[i].Message()))
	}
	for i := range n {
		require.NoError(e.t, e.result(done[i]))
		require.Equal(e.t, fmt.Sprint("re ", i), text(*replies[i]))
	}
}

func requestOversize(e *env) {
	tr := e.open()
	src := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	m := e.command("a.do", "")
	m.Body = make([]byte, e.features.MaxBody+1)
	_, err := tr.Request(e.ctx(), m)
	var size *transport.SizeError
	require.ErrorAs(e.t, err, &size)
	require.Equal(e.t, e.features.MaxBody, size.Limit)
	require.GreaterOrEqual(e.t, size.Size, e.features.MaxBody+1)

	m.Body = m.Body[1:]
	_, done := e.ask(tr, m)
	r := e.request(src)
	require.Len(e.t, r.Message().Body, e.features.MaxBody, "the refused one was not sent")
	e.answer(r, "")
	require.NoError(e.t, e.result(done))
}

func replyOversize(e *env) {
	tr := e.open()
	src := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	reply, done := e.ask(tr, e.command("a.do", "x"))
	r := e.request(src)
	var size *transport.SizeError
	require.ErrorAs(e.t, r.Reply(e.ctx(), &transport.Message{Body: make([]byte, e.features.MaxBody+1)}), &size)
	e.answer(r, "too large") // the request is still to be answered
	require.NoError(e.t, e.result(done))
	require.Equal(e.t, "too large", text(*reply))
}

func replyTwice(e *env) {
	caller, server := e.open(), e.open()
	src := e.serve(server, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	reply, done := e.ask(caller, e.command("a.do", "x"))
	r := e.request(src)
	e.answer(r, "first")
	second := &transport.Message{}
	e.fill(second, "second")
	require.ErrorIs(e.t, r.Reply(e.ctx(), second), transport.ErrSettled)
	require.NoError(e.t, e.result(done))
	require.Equal(e.t, "first", text(*reply))
}

// oneOf reports whether err is one of those allowed.
func oneOf(err error, allowed ...error) bool {
	for _, a := range allowed {
		if errors.Is(err, a) {
			return true
		}
	}
	return false
}
