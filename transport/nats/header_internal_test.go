package nats

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

// The names and forms on the wire are a contract with other programs and with
// stored events: a change here breaks both.
func TestHeaderGolden(t *testing.T) {
	n, err := newNames("jitney")
	require.NoError(t, err)
	m := &transport.Message{
		To: transport.Address{Session: "job/7", Name: "user.created"}, ID: "m1", Key: "u1", Session: "job/7",
		CorrelationID: "c1", CausationID: "m0", SentAt: time.Date(2026, 11, 23, 10, 0, 0, 5000, time.UTC),
		ContentType: "application/cbor", Header: transport.Header{"traceparent": {"00-1"}, "Jitney-Attempt": {"2"}},
		Body: []byte("{}"),
	}
	subj, err := n.event(m.To)
	require.NoError(t, err)
	require.Equal(t, "jitney.evt.job=2F7.user.created", subj)
	h, err := encode(m, "job=2F7", false)
	require.NoError(t, err)
	h.Set(hdrMsgID, dedupID(m.ID, tailOf(subj)))
	require.Equal(t, nats.Header{
		"Nats-Msg-Id":        {"m1@job=2F7.user.created"},
		"Jitney-Key":         {"u1"},
		"Jitney-Session":     {"job/7"},
		"Jitney-Correlation": {"c1"},
		"Jitney-Causation":   {"m0"},
		"Jitney-Sent":        {"2026-11-23T10:00:00.000005Z"},
		"Content-Type":       {"application/cbor"},
		"traceparent":        {"00-1"},
		"Jitney-Attempt":     {"2"},
	}, h)
	require.Equal(t, m, n.decode(subj, h, []byte("{}")))
}

// The common message has few headers: each costs on every hop.
func TestHeaderIsSmall(t *testing.T) {
	h, err := encode(&transport.Message{To: transport.Address{Session: "s1", Name: "a"}, ID: "m1", CorrelationID: "m1"}, "s1", false)
	require.NoError(t, err)
	require.Empty(t, h)
}

func TestHeaderRoundTrip(t *testing.T) {
	n, err := newNames("jitney")
	require.NoError(t, err)
	for name, m := range map[string]*transport.Message{
		"bare":              {To: transport.Address{Name: "a"}},
		"no correlation":    {To: transport.Address{Name: "a"}, ID: "1"},
		"line break in id":  {To: transport.Address{Name: "a"}, ID: "1\n2", CorrelationID: "1\n2"},
		"percent, no flag":  {To: transport.Address{Name: "a"}, Header: transport.Header{"p": {"100%41"}}},
		"percent and flag":  {To: transport.Address{Name: "a"}, Header: transport.Header{"p": {"100%41", " x\r\ny\t"}, "Q": {""}}},
		"hostile session":   {To: transport.Address{Session: "a\nb *", Name: "a"}, Session: "a\nb *"},
		"case, UTF-8, many": {To: transport.Address{Name: "a"}, Header: transport.Header{"k": {"1"}, "K": {"ж", "", "2"}}},
		"id with @":         {To: transport.Address{Name: "a"}, ID: "@x", CorrelationID: "@x"},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := sessionToken(m.To.Session)
			require.NoError(t, err)
			subj, err := n.event(m.To)
			require.NoError(t, err)
			h, err := encode(m, tok, true)
			require.NoError(t, err)
			require.Equal(t, m, n.decode(subj, overWire(t, h), nil))
		})
	}
}

func TestHeaderRetryCopyNamesItsSession(t *testing.T) {
	n, err := newNames("jitney")
	require.NoError(t, err)
	m := &transport.Message{To: transport.Address{Session: "s", Name: "a.b", Group: "g"}, Session: "s", ID: "1", CorrelationID: "1"}
	h, err := encode(m, "", true)
	require.NoError(t, err)
	subj, err := n.retry("g", "a.b")
	require.NoError(t, err)
	require.Equal(t, m, n.decode(subj, h, nil))
}

func TestHeaderCommandThatFellBack(t *testing.T) {
	n, err := newNames("jitney")
	require.NoError(t, err)
	m := &transport.Message{To: transport.Address{Name: "a"}, Session: "s"}
	h, err := encode(m, "_", true)
	require.NoError(t, err)
	require.Equal(t, m, n.decode("jitney.cmd._.a", h, nil))
	require.ErrorIs(t, n.decode("jitney.evt._.a", h, nil).Malformed, transport.ErrInvalid)
}

func TestForeignMessages(t *testing.T) {
	n, err := newNames("jitney")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		subject string
		header  nats.Header
		want    transport.Message
	}{
		"bare":       {"jitney.evt._.a.b", nil, transport.Message{To: transport.Address{Name: "a.b"}}},
		"own msg id": {"jitney.evt._.a", nats.Header{"Nats-Msg-Id": {"x"}}, transport.Message{To: transport.Address{Name: "a"}, ID: "x", CorrelationID: "x"}},
		"nonce":      {"jitney.evt._.a", nats.Header{"Nats-Msg-Id": {"@x"}}, transport.Message{To: transport.Address{Name: "a"}}},
		"other tail": {"jitney.evt._.a", nats.Header{"Nats-Msg-Id": {"x@_.b"}}, transport.Message{To: transport.Address{Name: "a"}, ID: "x@_.b", CorrelationID: "x@_.b"}},
		"server headers": {"jitney.evt._.a", nats.Header{"Nats-Scheduler": {"x"}, "Nats-Stream-Source": {"x"}},
			transport.Message{To: transport.Address{Name: "a"}}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, &c.want, n.decode(c.subject, c.header, nil))
		})
	}
}

func TestMalformedMessages(t *testing.T) {
	n, err := newNames("jitney")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		subject string
		header  nats.Header
	}{
		"two values":      {"jitney.evt._.a", nats.Header{hdrID: {"1", "2"}}},
		"no value":        {"jitney.evt._.a", nats.Header{hdrID: {}}},
		"garbage token":   {"jitney.evt.=zz.a", nil},
		"other session":   {"jitney.evt.s1.a", nats.Header{hdrSession: {"s2"}}},
		"session on bus":  {"jitney.evt._.a", nats.Header{hdrSession: {"s2"}}},
		"bad session":     {"jitney.retry.g.a", nats.Header{hdrSession: {"\xff"}}},
		"bad time":        {"jitney.evt._.a", nats.Header{hdrSent: {"yesterday"}}},
		"bad escape":      {"jitney.evt._.a", nats.Header{hdrEscaped: {"1"}, "x": {"%G"}}},
		"bad name":        {"jitney.evt._.A", nil},
		"other namespace": {"other.evt._.a", nil},
		"empty":           {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, n.decode(c.subject, c.header, []byte("x")).Malformed, transport.ErrInvalid)
		})
	}
}

func TestHeaderRefuses(t *testing.T) {
	for _, key := range []string{"", "Nats-Rollup", "nats-ttl", "Jitney-Id", "Jitney-Timeout", "Content-Type", "Status", "a b", "a:b", "a\n", "ж"} {
		_, err := encode(&transport.Message{Header: transport.Header{key: {"1"}}}, "_", true)
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", key)
	}
	_, err := encode(&transport.Message{Header: transport.Header{"a": {strings.Repeat("x", maxHeader)}}}, "_", true)
	require.ErrorIs(t, err, transport.ErrInvalid)
	// A copy for one group has room for what the bus adds.
	large := transport.Header{"a": {strings.Repeat("x", maxHeader)}}
	_, err = encode(&transport.Message{To: transport.Address{Group: "g"}, Header: large}, "", true)
	require.NoError(t, err)
	large["b"] = []string{strings.Repeat("x", maxAdded)}
	_, err = encode(&transport.Message{To: transport.Address{Group: "g"}, Header: large}, "", true)
	require.ErrorIs(t, err, transport.ErrInvalid)
	_, err = encode(&transport.Message{To: transport.Address{Session: "a"}, Session: "b"}, "a", true)
	require.ErrorIs(t, err, transport.ErrInvalid)
}

func TestTimeoutHeader(t *testing.T) {
	for d, want := range map[time.Duration]string{1: "1", time.Millisecond: "1", time.Second + 1: "1001"} {
		require.Equal(t, want, encodeTimeout(d))
	}
	for _, s := range []string{"", "x", "-1", "0", "1.5", "99999999999999999999"} {
		_, err := decodeTimeout(nats.Header{hdrTimeout: {s}})
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", s)
	}
	d, err := decodeTimeout(nats.Header{hdrTimeout: {"9223372036854775807"}})
	require.NoError(t, err)
	require.Equal(t, maxTimeout, d)
	d, err = decodeTimeout(nil)
	require.NoError(t, err)
	require.Zero(t, d)
}

func TestReplySubject(t *testing.T) {
	b := appendReply([]byte("_INBOX.J-X.1a"), 1500*time.Microsecond, "id-1_A")
	require.Equal(t, "_INBOX.J-X.1a.2.id-1_A", string(b))
	for _, s := range []string{string(b), "_GR_.a.b." + string(b)} {
		left, id, ok := fromReply(s)
		require.True(t, ok, s)
		require.Equal(t, 2*time.Millisecond, left)
		require.Equal(t, "id-1_A", id)
	}
	for _, s := range []string{"", "_INBOX.a", "_INBOX.X.1a.2.id", "J-X.2.id", "a.J-X.1.-2.id", "a.J-X.1.x.id", "a.J-X.1.2.", "a.J-X.1.2.i=d",
		"a.J-X.1.9999999999999.id"} {
		_, _, ok := fromReply(s)
		require.False(t, ok, s)
	}
	for id, want := range map[string]bool{"": false, "a": true, "a.b": false, "*": false, "ж": false, strings.Repeat("a", 65): false} {
		require.Equal(t, want, inReply(id), "%q", id)
	}
}

func FuzzFromReply(f *testing.F) {
	f.Add("_INBOX.J-X.1a.2.id")
	f.Add("....")
	f.Fuzz(func(t *testing.T, s string) {
		left, id, ok := fromReply(s)
		if !ok {
			return
		}
		require.True(t, inReply(id))
		require.GreaterOrEqual(t, left, time.Duration(0))
		l2, id2, ok := fromReply(string(appendReply([]byte("a.J-.1"), left, id)))
		require.True(t, ok)
		require.Equal(t, left, l2)
		require.Equal(t, id, id2)
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("jitney.evt._.a", "Jitney-Id", "x", "")
	f.Add("jitney.retry.g.a", "Jitney-Session", "s", "x%41")
	f.Add("jitney.evt.=2E.a.b", "Nats-Msg-Id", "@", "\n")
	f.Add("jitney.evt._.a", "Nats-Msg-Id", "x@_.a", " ")
	n, err := newNames("jitney")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, subject, key, value, user string) {
		m := n.decode(subject, nats.Header{key: {value}, "U": {user}, hdrEscaped: {"1"}}, nil)
		m2 := n.decode(subject, nats.Header{key: {value, user}}, nil)
		if m.Malformed == nil && m.To.Group == "" {
			_, err := n.event(m.To)
			require.NoError(t, err, "an address that was read can be written")
		}
		_ = m2
	})
}

// FuzzHeaderRoundTrip: whatever encode accepts arrives as it was.
func FuzzHeaderRoundTrip(f *testing.F) {
	f.Add("1", "k", "c", "a", "key", "v", "")
	f.Add("1\n", " k", "%", "", "key", " v", "%41")
	n, err := newNames("jitney")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id, key, corr, session, hk, v1, v2 string) {
		m := &transport.Message{
			To: transport.Address{Session: session, Name: "a"}, Session: session, ID: id, Key: key, CorrelationID: corr,
			Header: transport.Header{hk: {v1, v2}},
		}
		tok, err := sessionToken(session)
		if err != nil {
			return
		}
		h, err := encode(m, tok, true)
		if err != nil {
			require.ErrorIs(t, err, transport.ErrInvalid)
			return
		}
		subj, err := n.event(m.To)
		require.NoError(t, err)
		require.Equal(t, m, n.decode(subj, overWire(t, h), nil))
	})
}

// overWire passes h through the client's own encoding.
func overWire(t *testing.T, h nats.Header) nats.Header {
	t.Helper()
	var b strings.Builder
	b.WriteString("NATS/1.0\r\n")
	for k, vs := range h {
		for _, v := range vs {
			v = strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.Trim(v, " \t\r\n"))
			b.WriteString(k + ": " + v + "\r\n")
		}
	}
	b.WriteString("\r\n")
	if len(h) == 0 {
		return nil
	}
	got, err := nats.DecodeHeadersMsg([]byte(b.String()))
	require.NoError(t, err)
	return got
}
