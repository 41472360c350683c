package transporttest

import (
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func messageCases() []testCase {
	return []testCase{
		{name: "MessageFidelity", run: messageFidelity},
		{name: "HeaderFidelity", run: headerFidelity},
		{name: "HeaderHostile", run: headerHostile},
		{name: "BodyFidelity", run: bodyFidelity},
		{name: "MessageIsCopied", run: messageIsCopied},
	}
}

// deliver publishes m and returns it as a group, and as a private reader, has
// it.
func (e *env) deliver(m *transport.Message) []*transport.Message {
	e.t.Helper()
	publisher, reader := e.open(), e.open()
	group, private := e.group(reader, m.To.Name, "g"), e.private(reader, m.To.Name)
	e.publish(publisher, m)
	return []*transport.Message{e.take(group, 1)[0].Message(), e.take(private, 1)[0].Message()}
}

func messageFidelity(e *env) {
	tr := e.open()
	m := &transport.Message{
		To: transport.Address{Session: "s1", Name: "a-1.b_2.done"}, ID: "7f-ü ö", Key: "order 7/ü",
		Session: "s1", CorrelationID: "corr é", CausationID: "cause",
		SentAt: time.Now().Truncate(time.Millisecond), ContentType: "application/x-protobuf; type=\"a b\"",
	}
	e.fill(m, "x")
	src := e.group(tr, m.To.Name, "g")
	private := e.subscribe(tr, transport.Subscription{Name: m.To.Name, Session: "s1"})
	e.publish(tr, m)
	for _, got := range []*transport.Message{e.take(src, 1)[0].Message(), e.take(private, 1)[0].Message()} {
		require.Equal(e.t, m.To, got.To)
		require.Equal(e.t, m.ID, got.ID)
		require.Equal(e.t, m.Key, got.Key)
		require.Equal(e.t, m.Session, got.Session)
		require.Equal(e.t, m.CorrelationID, got.CorrelationID)
		require.Equal(e.t, m.CausationID, got.CausationID)
		require.True(e.t, m.SentAt.Equal(got.SentAt), "sent at %v, got %v", m.SentAt, got.SentAt)
		require.Equal(e.t, m.ContentType, got.ContentType)
		require.Equal(e.t, "x", text(got))
		require.NoError(e.t, got.Malformed)
	}
}

func headerFidelity(e *env) {
	e.open()
	m := e.event("a.done", "x")
	m.Header = transport.Header{
		"Trace-Id": {"upper"}, "trace-id": {"lower"}, "traceparent": {"00-ab-cd-01"},
		"Empty": {""}, "Two": {"b", "a"}, "Twice": {"a", "a"}, "Holes": {"", "x", ""},
		"Utf8": {"héllo wörld ✓ 日本"}, "Punct": {`a:b;c="d", {e} \ %20`},
		"Jitney-Attempt": {"3"}, "X_under.dot-9": {"k"}, "Long": {strings.Repeat("0123456789", 400)},
	}
	for _, got := range e.deliver(m) {
		require.Equal(e.t, m.Header, got.Header)
	}
}

// headerHostile: what a driver's wire format cannot carry is refused as a
// whole. It never changes, splits or adds a header.
func headerHostile(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	for key, value := range map[string]string{
		"Crlf": "a\r\nInjected: yes", "Lf": "a\nInjected: yes", "Cr": "a\rb", "Nul": "a\x00b",
		"Spaces": "  a  ", "Tab": "\ta\t", "Blank": " ", "Latin1": "\xe9", "Key: x": "y", "Key\r\nInjected": "y",
		"Key with space": "y", "": "y", "Ü": "y", "Nats-Msg-Id": "y", "Jitney-Unknown": "y",
	} {
		m := e.event("a.done", "x")
		m.Header = transport.Header{key: {value}}
		if err := tr.Publish(e.ctx(), m); err != nil {
			require.ErrorIs(e.t, err, transport.ErrInvalid, "header %q: %q", key, value)
			continue
		}
		d := e.next(src)
		require.Equal(e.t, m.Header, d.Message().Header)
		require.Equal(e.t, m.ID, d.Message().ID)
		e.ack(d)
	}
	e.nothing(src)
}

func bodyFidelity(e *env) {
	tr := e.open()
	src := e.group(tr, "a.done", "g")
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	for _, body := range [][]byte{nil, {}, {0}, []byte("\r\n"), []byte("NATS/1.0\r\n\r\n"), binary, []byte(strings.Repeat("0123456789", 5000))} {
		m := e.event("a.done", "")
		m.Body, m.Value = body, nil
		e.publish(tr, m)
		got := e.take(src, 1)[0].Message().Body
		require.Equal(e.t, len(body), len(got))
		require.Equal(e.t, string(body), string(got))
	}
}

// messageIsCopied: the driver keeps nothing of what Publish was given, and no
// two receivers share a message.
func messageIsCopied(e *env) {
	tr := e.open()
	g, h, p := e.group(tr, "a.done", "g"), e.group(tr, "a.done", "h"), e.private(tr, "a.done")
	m := e.event("a.done", "")
	m.Body, m.Value = []byte("before"), nil
	m.Header = transport.Header{"K": {"before"}}
	e.publish(tr, m)
	m.To.Name, m.CorrelationID = "changed", "changed"
	if !e.inProcess {
		copy(m.Body, "AFTER!")
	}
	m.Header["K"][0] = "after"
	m.Header.Set("New", "x")
	for _, src := range []transport.Source[transport.Delivery]{g, h, p} {
		got := e.take(src, 1)[0].Message()
		require.Equal(e.t, "a.done", got.To.Name)
		require.Empty(e.t, got.CorrelationID)
		require.Equal(e.t, "before", string(got.Body))
		require.Equal(e.t, transport.Header{"K": {"before"}}, got.Header)
		if !e.inProcess { // the receiver's own, to change as it likes
			got.To.Name, got.CorrelationID = "spoiled", "spoiled"
			got.Header["K"][0] = "spoiled"
			copy(got.Body, "SPOILT")
		}
	}
}
