package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

var errRegistered = errors.New("registered")

func fuzzedBus() *Bus {
	return &Bus{cfg: Config{Errors: map[string]error{"a.b": errRegistered}}}
}

// What another process replies is an error for the caller, whatever it is.
func FuzzReplyError(f *testing.F) {
	for _, body := range []string{
		"", "{}", "null", "[]", `"text"`, `{"code":"busy","message":"m","error":"a.b","details":{"k":"v"},"attempts":3}`,
		`{"message":1}`, `{"attempts":-1}`, `{"attempts":1e99}`, `{"details":{"k":null}}`, "{", "\xff\x00", strings.Repeat("[", 10_000),
	} {
		f.Add("failed", []byte(body))
		f.Add("", []byte(body))
	}
	b := fuzzedBus()
	m := &transport.Message{To: transport.Address{Name: "user.create"}, ID: "id"}
	f.Fuzz(func(t *testing.T, code string, body []byte) {
		r := &transport.Message{Header: Header{headerError: {code}}, Body: body}
		err := b.replyError(m, r)
		var e *Error
		require.ErrorAs(t, err, &e)
		require.NotEmpty(t, e.Code)
		if checkName(code) == nil {
			require.Equal(t, Code(code), e.Code, "the header has the code, not the body")
		} else {
			require.Equal(t, CodeFailed, e.Code)
		}
		require.Equal(t, "execute", e.Op)
		require.Equal(t, "user.create", e.Name)
		require.Equal(t, "id", e.ID)
		require.NotEmpty(t, e.Error())
		require.Equal(t, e.Wire == "a.b", errors.Is(err, errRegistered))
		if !json.Valid(body) {
			require.Contains(t, e.Message, "cannot be read")
			require.Empty(t, e.Wire)
		}
	})
}

// A handler's error arrives as it was, but for codes that it may not choose.
func FuzzErrorTravels(f *testing.F) {
	f.Add("conflict", "taken", "", "by", "bob", true)
	f.Add("busy", "m", "a.b", "", "", false)
	f.Add("", "", "", "", "", false)
	f.Add("a\r\nb", strings.Repeat("é", maxWireMessage), "c", "k", "\x00", true)
	f.Fuzz(func(t *testing.T, code, message, wire, key, value string, wrapped bool) {
		b := fuzzedBus()
		k := new(call)
		sent := &Error{Code: Code(code), Message: message, Wire: wire, Details: map[string]string{key: value}}
		err := error(sent)
		if wrapped {
			err = fmt.Errorf("outer: %w", sent)
		}
		r := new(transport.Message)
		b.encodeError(r, b.toWire(k.outcome(err), 2))
		require.NotEmpty(t, r.Header.Get(headerError), "an error never looks like a result")

		var e *Error
		require.ErrorAs(t, b.replyError(&transport.Message{To: transport.Address{Name: "user.create"}}, r), &e)
		if Code(code).handlers() {
			require.Equal(t, sent.Code, e.Code)
		} else {
			require.Equal(t, CodeFailed, e.Code)
		}
		require.NoError(t, checkName(string(e.Code)), "a code is a name")
		require.Equal(t, 2, e.Attempts)
		require.True(t, utf8.ValidString(e.Message))
		require.LessOrEqual(t, len(strings.ToValidUTF8(e.Message, "")), 3*maxWireMessage+len("…"))
		text := strings.TrimPrefix(err.Error(), "outer: ")
		if utf8.ValidString(text) && len(err.Error()) <= maxWireMessage {
			require.Equal(t, err.Error(), e.Message)
		}
		if utf8.ValidString(wire) {
			require.Equal(t, wire, e.Wire)
		}
		if utf8.ValidString(key) && utf8.ValidString(value) {
			require.Equal(t, sent.Details, e.Details)
		}
	})
}

// A header that is accepted is one line, and reads back as it was written.
func FuzzCheckHeader(f *testing.F) {
	for _, h := range [][2]string{
		{"Tenant", "t-7"}, {"", ""}, {"A:B", "x"}, {"A", "x\r\nB: y"}, {"nats-msg-id", "x"}, {"JITNEY-", ""},
		{"Status", "503"}, {"content-TYPE", "x"}, {"ü", "x"}, {"A", " x"}, {"A", "käse 🧀"}, {"A", "\xff"},
		{"A", "\u2028"}, {"A", "\u0085"}, {"A", strings.Repeat("x", maxHeaderValue+1)}, {"Kelvin-\u212a", "x"},
	} {
		f.Add(h[0], h[1])
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		if checkHeader(key, value) != nil {
			return
		}
		require.NotEmpty(t, key)
		for _, c := range []byte(key) {
			require.True(t, c > ' ' && c < 0x7f && c != ':', "%q", key)
		}
		lower := strings.ToLower(key)
		for _, prefix := range []string{"nats-", "jitney-"} {
			require.False(t, strings.HasPrefix(lower, prefix), "%q", key)
		}
		require.NotContains(t, []string{"status", "description", "content-type"}, lower)
		require.LessOrEqual(t, len(value), maxHeaderValue)
		require.True(t, utf8.ValidString(value))
		line := key + ": " + value
		require.False(t, strings.ContainsFunc(line, unicode.IsControl), "%q", line)
		gotKey, gotValue, _ := strings.Cut(line, ":")
		require.Equal(t, key, gotKey)
		require.Equal(t, value, strings.TrimSpace(gotValue))
		require.Equal(t, Header{key: {value}}, userHeader(Header{key: {value}, headerError: {"x"}}))
	})
}

// The name of a type is a wire name or refused, and its own snake case.
func FuzzSnake(f *testing.F) {
	for _, s := range []string{"", "UserCreated", "HTTPServerV2", "ID", "userID", "a_b", "ÄrgerÜber", "X1Y", "\xff", "ǅ", "İ", "aϓ", "00\xffaϓ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := snake(s)
		require.True(t, utf8.ValidString(got))
		require.Equal(t, got, snake(got), "it is in snake case already")
		plain := strings.ReplaceAll(got, "_", "")
		for _, r := range plain {
			require.False(t, r < utf8.RuneSelf && unicode.IsUpper(r), "%q", got)
		}
		if utf8.ValidString(s) && isASCII(s) {
			require.Equal(t, strings.ToLower(strings.ReplaceAll(s, "_", "")), plain, "no letter is lost")
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// The numbers on a copy are the bus's, or somebody's who writes anything.
func FuzzCount(f *testing.F) {
	for _, s := range []string{"", "0", "3", "-1", "99999999999999999999", " 1", "1e3", "0x1", "\u0661"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := count(s)
		require.GreaterOrEqual(t, n, 0)
		if n > 0 && n < 1<<31-1 {
			require.Contains(t, s, fmt.Sprint(n))
		}
	})
}
