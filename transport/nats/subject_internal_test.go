package nats

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func TestSessionToken(t *testing.T) {
	for session, token := range map[string]string{
		"":             "_",
		"_":            "=5F",
		"__":           "__",
		"import-42":    "import-42",
		"a.b":          "a=2Eb",
		"*":            "=2A",
		">":            "=3E",
		"=":            "=3D",
		"=5F":          "=3D5F",
		"a b\t\r\n":    "a=20b=09=0D=0A",
		"\x00\x1b":     "=00=1B",
		"ж":            "=D0=B6",
		"jobs/7:retry": "jobs=2F7=3Aretry",
		"$JS":          "=24JS",
	} {
		got, err := sessionToken(session)
		require.NoError(t, err, session)
		require.Equal(t, token, got)
		back, err := sessionOf(token)
		require.NoError(t, err)
		require.Equal(t, session, back)
	}
}

func TestSessionTokenRefuses(t *testing.T) {
	for _, session := range []string{"\xff", "a\xc3", strings.Repeat("a", 129)} {
		_, err := sessionToken(session)
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", session)
	}
	for _, token := range []string{"", "=", "=5", "=5f", "=41", "a=", "=GG", "a.b", "*", "=FF", "=5F=5F", "ж", "a=2E=2"} {
		_, err := sessionOf(token)
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", token)
	}
}

// Every session of up to two bytes of ASCII has a token of its own.
func TestSessionTokenIsInjective(t *testing.T) {
	seen := map[string]string{}
	check := func(s string) {
		tok, err := sessionToken(s)
		require.NoError(t, err)
		if other, ok := seen[tok]; ok {
			t.Fatalf("%q and %q share the token %q", s, other, tok)
		}
		seen[tok] = s
	}
	check("")
	for a := range 128 {
		check(string(rune(a)))
		for b := range 128 {
			check(string(rune(a)) + string(rune(b)))
		}
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, ns := range []string{"", "A", "a.b", "*", ">", "ns ", strings.Repeat("a", 33)} {
		_, err := newNames(ns)
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", ns)
	}
	n, err := newNames("app-1_x")
	require.NoError(t, err)
	require.Equal(t, "APP-1_X_EVT", n.events())
	for _, name := range []string{"", ".", "a.", ".a", "a..b", "A", "a b", "a.*", ">", "ж", strings.Repeat("a", 129)} {
		_, err := n.event(transport.Address{Name: name})
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", name)
		_, err = n.live(transport.Address{Name: name})
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", name)
		_, err = n.retry("g", name)
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", name)
	}
	for _, group := range []string{"", "a.b", "*", "A", strings.Repeat("a", 65)} {
		_, err := n.retry(group, "user.created")
		require.ErrorIs(t, err, transport.ErrInvalid, "%q", group)
	}
}

func TestDurableNamesAreDistinct(t *testing.T) {
	require.Equal(t, "mailer=user=created", durable("mailer", "user.created"))
	require.NotEqual(t, durable("a", "b.c"), durable("a-b", "c"))
	require.NotEqual(t, durable("a", "b_c"), durable("a", "b.c"))
}

// The longest subject stays far below the control line of 4,096 bytes.
func TestLongestSubject(t *testing.T) {
	n, err := newNames(strings.Repeat("n", maxNamespace))
	require.NoError(t, err)
	s, err := n.event(transport.Address{Session: strings.Repeat("*", maxSession), Name: strings.Repeat("a", maxName)})
	require.NoError(t, err)
	require.Less(t, len(s), 1000)
}

func FuzzSessionToken(f *testing.F) {
	for _, s := range []string{"", "_", ".", "*", ">", "a.b", "=5F", "ж", "\xff", "a b"} {
		f.Add(s)
	}
	n, err := newNames("jitney")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// As a session id.
		tok, err := sessionToken(s)
		if err != nil {
			require.ErrorIs(t, err, transport.ErrInvalid)
			require.True(t, len(s) > maxSession || !utf8.ValidString(s))
		} else {
			require.NotEmpty(t, tok)
			require.NotContains(t, tok, ".")
			for i := range len(tok) {
				require.True(t, isPlain(tok[i]) || tok[i] == '=', "%q", tok)
			}
			back, err := sessionOf(tok)
			require.NoError(t, err)
			require.Equal(t, s, back)
			subj, err := n.command(transport.Address{Session: s, Name: "a.b"})
			require.NoError(t, err)
			_, gotTok, name, ok := n.split(subj)
			require.True(t, ok)
			require.Equal(t, tok, gotTok)
			require.Equal(t, "a.b", name)
		}
		// As a token.
		if session, err := sessionOf(s); err == nil {
			back, err := sessionToken(session)
			require.NoError(t, err)
			require.Equal(t, s, back)
		} else {
			require.True(t, errors.Is(err, transport.ErrInvalid))
		}
	})
}

// An answer goes to an inbox, and to nothing that only the bus or the server may
// publish on.
func TestIsInbox(t *testing.T) {
	n, err := newNames("shop")
	require.NoError(t, err)
	for reply, want := range map[string]bool{
		"": true, "_INBOX.x.y": true, "_R_.x": true, "shop": true, "shops.x": true, "other.evt._.x": true,
		"shop.": false, "shop.evt._.x": false, "shop.cmd._.x": false, "shop.anything": false,
		"$JS.API.STREAM.DELETE.X": false, "$JS.ACK.x": false, "$KV.X.y": false, "$SYS.x": false, "$": false,
	} {
		require.Equal(t, want, n.isInbox(reply), "%q", reply)
	}
}

// A subject that is accepted is the one that its address has, and no other.
func FuzzPlace(f *testing.F) {
	for _, s := range []string{
		"", "shop", "shop.", "shop.evt", "shop.evt._", "shop.evt._.user.created", "shop.cmd.a=2Fb.x", "shop.retry.mailer.user.created",
		"shop.live.*.x", "shop.evt.>", "shop.evt.=5F.x", "shop.evt..x", "shop.due._.x", "shop.evt._.\xff", "shops.evt._.x", "shop.retry._.x", "shop.evt.a=2fb.x",
	} {
		f.Add(s)
	}
	n, err := newNames("shop")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, subject string) {
		p := n.place(subject)
		if p.err != nil {
			require.ErrorIs(t, p.err, transport.ErrInvalid)
			return
		}
		back, err := n.scoped(p.kind, p.to)
		if p.kind == "retry" {
			back, err = n.retry(p.to.Group, p.to.Name)
			if err != nil {
				return // the server's filter lets no such group through
			}
		}
		require.NoError(t, err)
		require.Equal(t, subject, back)
	})
}
