package nats

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jitney-bus/jitney/transport"
)

// Limits on what becomes part of a subject. Together they keep every subject
// well under the server's control line of 4,096 bytes.
const (
	maxSession   = 128 // bytes of a session id, before encoding
	maxName      = 128 // bytes of a wire name
	maxGroup     = 64  // bytes of a group
	maxNamespace = 32  // bytes of a namespace
)

// busToken is the scope token of what belongs to no session.
const busToken = "_"

// names makes every subject, stream, consumer and bucket name of one namespace.
// It is the only place that joins what a caller passed to what the server reads.
//
//	<ns>.cmd.<scope>.<name>     commands, core request/reply
//	<ns>.evt.<scope>.<name>     events, in stream <NS>_EVT
//	<ns>.live.<scope>.<name>    the same events, republished for private readers
//	<ns>.retry.<group>.<name>   events that one group sees, in stream <NS>_RETRY
//	<ns>.sched.<id>             schedules, in stream <NS>_RETRY
//	<ns>.due.<scope>.<name>     events whose schedule fired, sourced into <NS>_EVT
//	<ns>.dlq.<id>.<kind>.<group or _>.<name or _>  dead letters, in stream <NS>_DLQ
type names struct {
	ns    string // the namespace, the first token of every subject
	upper string // the namespace in upper case, the head of every asset
}

func newNames(namespace string) (names, error) {
	if err := checkToken("namespace", namespace, maxNamespace); err != nil {
		return names{}, err
	}
	return names{ns: namespace, upper: strings.ToUpper(namespace)}, nil
}

func (n names) events() string      { return n.upper + "_EVT" }
func (n names) retries() string     { return n.upper + "_RETRY" }
func (n names) deadLetters() string { return n.upper + "_DLQ" }
func (n names) bucket() string      { return n.upper + "_STATE" }

// below returns the wildcard over everything of one kind, such as "evt".
func (n names) below(kind string) string { return n.ns + "." + kind + ".>" }

// command returns the subject on which a is requested and served.
func (n names) command(a transport.Address) (string, error) {
	return n.scoped("cmd", a)
}

// event returns the subject under which an event for a is stored.
func (n names) event(a transport.Address) (string, error) {
	return n.scoped("evt", a)
}

// due returns the subject that the schedule of an event for a fires on.
func (n names) due(a transport.Address) (string, error) {
	return n.scoped("due", a)
}

// live returns the subject on which an event for a is republished. With
// a.Session "" it is the wildcard over every session and the bus.
func (n names) live(a transport.Address) (string, error) {
	if a.Session == "" {
		if err := checkName(a.Name); err != nil {
			return "", err
		}
		return n.ns + ".live.*." + a.Name, nil
	}
	return n.scoped("live", a)
}

// retry returns the subject that only group reads.
func (n names) retry(group, name string) (string, error) {
	if err := checkToken("group", group, maxGroup); err != nil {
		return "", err
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	return n.ns + ".retry." + group + "." + name, nil
}

// everyScope returns the filter for the events of name in every scope.
func (n names) everyScope(name string) string { return n.ns + ".evt.*." + name }

// schedule returns the subject of the schedule called id.
func (n names) schedule(id string) string { return n.ns + ".sched." + id }

// durable returns the consumer name of a group's interest in one event name.
// The dots of the name become "=", which neither may contain, so that the first
// "=" ends the group and two pairs never share a consumer.
func durable(group, name string) string {
	return group + "=" + strings.ReplaceAll(name, ".", "=")
}

// isInbox says whether an answer may be sent to a reply subject. Whoever asks could
// otherwise have a server publish where only the server may: into a stream of the
// bus's, or to the API of NATS.
func (n names) isInbox(reply string) bool {
	return !strings.HasPrefix(reply, "$") && (len(reply) <= len(n.ns) || reply[len(n.ns)] != '.' || reply[:len(n.ns)] != n.ns)
}

func (n names) scoped(kind string, a transport.Address) (string, error) {
	if err := checkName(a.Name); err != nil {
		return "", err
	}
	tok, err := sessionToken(a.Session)
	if err != nil {
		return "", err
	}
	return n.ns + "." + kind + "." + tok + "." + a.Name, nil
}

// split takes "<ns>.<kind>.<token>.<name>" apart.
func (n names) split(subject string) (kind, token, name string, ok bool) {
	rest, ok := strings.CutPrefix(subject, n.ns)
	if !ok || rest == "" || rest[0] != '.' {
		return "", "", "", false
	}
	kind, rest, ok = strings.Cut(rest[1:], ".")
	if !ok {
		return "", "", "", false
	}
	token, name, ok = strings.Cut(rest, ".")
	return kind, token, name, ok
}

// sessionToken turns a session id into one subject token. "" is the bus and
// becomes "_"; letters, digits, "-" and "_" stay; every other byte becomes "="
// and two upper-case hexadecimal digits, and so does a session id that is just
// "_". The mapping is injective, and a token is also a legal part of a Store key.
func sessionToken(session string) (string, error) {
	switch {
	case session == "":
		return busToken, nil
	case session == busToken:
		return "=5F", nil
	case len(session) > maxSession:
		return "", fmt.Errorf("%w session id of %d bytes: at most %d are allowed",
			transport.ErrInvalid, len(session), maxSession)
	case !utf8.ValidString(session):
		return "", fmt.Errorf("%w session id %q: it is not UTF-8", transport.ErrInvalid, session)
	}
	if !strings.ContainsFunc(session, func(r rune) bool { return r >= utf8.RuneSelf || !isPlain(byte(r)) }) {
		return session, nil
	}
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, 3*len(session))
	for i := range len(session) {
		if c := session[i]; isPlain(c) {
			b = append(b, c)
		} else {
			b = append(b, '=', digits[c>>4], digits[c&15])
		}
	}
	return string(b), nil
}

// sessionOf is the inverse of sessionToken. It refuses every token that
// sessionToken does not make, so that one session has one subject.
func sessionOf(token string) (string, error) {
	if token == busToken {
		return "", nil
	}
	session := token
	if strings.IndexByte(token, '=') >= 0 {
		b := make([]byte, 0, len(token))
		for i := 0; i < len(token); i++ {
			if token[i] != '=' {
				b = append(b, token[i])
				continue
			}
			if len(token)-i < 3 {
				return "", fmt.Errorf("%w session token %q: it ends inside an escape", transport.ErrInvalid, token)
			}
			var err error
			if b, err = hex.AppendDecode(b, []byte(token[i+1:i+3])); err != nil {
				return "", fmt.Errorf("%w session token %q: %w", transport.ErrInvalid, token, err)
			}
			i += 2
		}
		session = string(b)
	}
	if back, err := sessionToken(session); err != nil || back != token || session == "" {
		return "", fmt.Errorf("%w session token %q: no session id is written so", transport.ErrInvalid, token)
	}
	return session, nil
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// checkToken says whether s may be one token of a subject that nobody encodes:
// [a-z0-9_-]+ of at most limit bytes.
func checkToken(what, s string, limit int) error {
	if s == "" || len(s) > limit {
		return fmt.Errorf("%w %s %q: it needs 1 to %d characters of [a-z0-9_-]", transport.ErrInvalid, what, s, limit)
	}
	for i := range len(s) {
		if !isNameByte(s[i]) {
			return fmt.Errorf("%w %s %q: only [a-z0-9_-] is allowed", transport.ErrInvalid, what, s)
		}
	}
	return nil
}

// checkName says whether s is a wire name: dotted tokens of [a-z0-9_-]+.
func checkName(s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("%w name %q: it needs 1 to %d characters", transport.ErrInvalid, s, maxName)
	}
	dot := true // the byte before was a dot, or there is none
	for i := range len(s) {
		switch {
		case isNameByte(s[i]):
			dot = false
		case s[i] == '.' && !dot:
			dot = true
		default:
			return fmt.Errorf("%w name %q: it must be dotted tokens of [a-z0-9_-]", transport.ErrInvalid, s)
		}
	}
	if dot {
		return fmt.Errorf("%w name %q: it ends in a dot", transport.ErrInvalid, s)
	}
	return nil
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
