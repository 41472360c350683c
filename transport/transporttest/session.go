package transporttest

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func sessionCases() []testCase {
	return []testCase{
		{name: "SessionHostileIDs", run: sessionHostileIDs},
		{name: "SessionFellBack", run: sessionFellBack},
		{name: "SessionThousand", run: sessionThousand},
		{name: "SessionsOneAfterAnother", run: sessionsOneAfterAnother},
	}
}

func hostileSessions() []string {
	return []string{".", "..", "*", ">", "a.b", "a.*", "a.>", " ", "a b", "_", "__", "-", "\x00", "a\x00b",
		"\r\n", "a/b:c#d?e=f&g", "%2E", "=", "==", "$SYS", "$JS.API", "ü", "日本", "a", "A", "s_1", "S_1",
		strings.Repeat("x", 128), strings.Repeat("ü", 64), strings.Repeat(".", 128)}
}

// sessionHostileIDs: whatever a session is called, it gets its own messages and
// nobody else's, and its id comes back unchanged.
func sessionHostileIDs(e *env) {
	tr := e.open()
	// So long that nothing goes back unread meanwhile.
	all := e.subscribe(tr, transport.Subscription{Name: "a.done", Group: "g", AckWait: time.Hour})
	sessions := hostileSessions()
	servers := make([]transport.Source[transport.Request], len(sessions))
	readers := make([]transport.Source[transport.Delivery], len(sessions))
	for i, s := range sessions {
		servers[i] = e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do", Session: s}})
		readers[i] = e.subscribe(tr, transport.Subscription{Name: "a.done", Session: s})
	}
	for i, s := range sessions {
		m := e.command("a.do", s)
		m.To.Session, m.Session = s, s
		reply, done := e.ask(tr, m)
		r := e.request(servers[i])
		require.Equal(e.t, m.To, r.Message().To)
		require.Equal(e.t, s, r.Message().Session)
		e.answer(r, s)
		require.NoError(e.t, e.result(done), "session %q", s)
		require.Equal(e.t, s, text(*reply))

		m = e.event("a.done", s)
		m.To.Session, m.Session = s, s
		e.publish(tr, m)
	}
	for i, d := range e.take(all, len(sessions)) {
		require.Equal(e.t, sessions[i], d.Message().To.Session)
		require.Equal(e.t, sessions[i], d.Message().Session)
	}
	e.publish(tr, e.event("a.done", "of the bus"))
	last := make([]*transport.Message, len(sessions))
	for i, s := range sessions {
		last[i] = e.event("a.done", "last of "+s)
		last[i].To.Session = s
	}
	e.publish(tr, last...)
	for i, src := range readers {
		require.Equal(e.t, []string{sessions[i], "last of " + sessions[i]}, texts(e.take(src, 2)))
	}
	e.take(all, len(sessions)+1)
}

// sessionFellBack: a command that the bus's handler gets for a session keeps the
// session's id, whatever it is.
func sessionFellBack(e *env) {
	tr := e.open()
	server := e.serve(tr, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	for _, s := range hostileSessions() {
		m := e.command("a.do", s)
		m.Session = s
		_, done := e.ask(tr, m)
		r := e.request(server)
		require.Equal(e.t, transport.Address{Name: "a.do"}, r.Message().To)
		require.Equal(e.t, s, r.Message().Session)
		e.answer(r, s)
		require.NoError(e.t, e.result(done), "session %q", s)
	}
}

func sessionThousand(e *env) {
	tr := e.open()
	const n = 1000
	ctx := e.ctx()
	group := e.subscribe(tr, transport.Subscription{Name: "a.done", Group: "g", AckWait: time.Hour}) // so many take a while
	readers := make([]transport.Source[transport.Delivery], n)
	servers := make([]transport.Source[transport.Request], n)
	ms := e.events("a.done", n)
	for i := range n {
		session := fmt.Sprintf("import/%d", i)
		ms[i].To.Session = session
		var err error
		readers[i], err = tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Session: session})
		require.NoError(e.t, err)
		servers[i], err = tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do", Session: session}})
		require.NoError(e.t, err)
	}
	e.publish(tr, ms...)
	require.Equal(e.t, numbers(0, n-1), texts(e.take(group, n)))
	for i, src := range readers {
		d, err := src.Next(ctx)
		require.NoError(e.t, err)
		require.Equal(e.t, fmt.Sprint(i), text(d.Message()))
		require.NoError(e.t, d.Ack(ctx))
	}
	for i := 0; i < n; i += 100 {
		m := e.command("a.do", "x")
		m.To.Session = fmt.Sprintf("import/%d", i)
		_, done := e.ask(tr, m)
		e.answer(e.request(servers[i]), "ok")
		require.NoError(e.t, e.result(done))
	}
	for i := range n {
		e.close(readers[i])
		e.close(servers[i])
	}
}

// sessionsOneAfterAnother: sessions that are over leave no goroutine behind. What
// else they may leave a driver measures itself.
func sessionsOneAfterAnother(e *env) {
	tr := e.open()
	ctx := e.ctx()
	open := func(i int) {
		session := fmt.Sprintf("import/%d", i)
		reader, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Session: session})
		require.NoError(e.t, err)
		server, err := tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do", Session: session}})
		require.NoError(e.t, err)
		if i%10 == 0 {
			m := e.event("a.done", session)
			m.To.Session, m.Session = session, session
			e.publish(tr, m)
			require.Equal(e.t, []string{session}, texts(e.take(reader, 1)))
			m = e.command("a.do", session)
			m.To.Session, m.Session = session, session
			_, done := e.ask(tr, m)
			e.answer(e.request(server), "ok")
			require.NoError(e.t, e.result(done))
		}
		if c, ok := reader.(transport.CatchUpper); ok {
			require.NoError(e.t, c.CatchUp(ctx, 0))
		}
		e.close(server)
		e.close(reader)
	}
	for i := range 20 {
		open(i) // what is made once is made now
	}
	before := runtime.NumGoroutine()
	n := e.features.Sessions
	if n <= 0 {
		n = 1000
	}
	for i := range n {
		open(i)
	}
	if e.features.Parallel && !e.features.Bubble {
		return // other cases have goroutines of their own
	}
	const some = 10 // that come and go in any case
	after := runtime.NumGoroutine()
	for give := 0; after > before+some && give < 100; give++ {
		e.pass(e.quiet / 10)
		after = runtime.NumGoroutine()
	}
	require.LessOrEqual(e.t, after, before+some, "goroutines after %d sessions", n)
}
