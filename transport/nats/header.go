package nats

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport"
)

// The headers of the wire contract, which doc.go describes. A user's header may
// have none of these names.
const (
	hdrMsgID       = "Nats-Msg-Id"
	hdrID          = transport.HeaderPrefix + "Id"
	hdrKey         = transport.HeaderPrefix + "Key"
	hdrSession     = transport.HeaderPrefix + "Session"
	hdrCorrelation = transport.HeaderPrefix + "Correlation"
	hdrCausation   = transport.HeaderPrefix + "Causation"
	hdrSent        = transport.HeaderPrefix + "Sent"
	hdrTimeout     = transport.HeaderPrefix + "Timeout"
	hdrStatus      = transport.HeaderPrefix + "Status"
	hdrEscaped     = transport.HeaderPrefix + "Escaped"
	hdrContentType = "Content-Type"

	// hdrError is the bus's, on a reply that is an error.
	hdrError = transport.HeaderPrefix + "Error"

	// hdrStored is the server's, on a republished event: when it was stored.
	hdrStored = "Nats-Time-Stamp"
	// hdrScheduler is the server's, on an event that was delayed.
	hdrScheduler = "Nats-Scheduler"
)

// maxHeader is how many bytes the headers of one message may take, and maxAdded how
// many more those that the bus adds to a copy for one group. The server allows
// 64 KiB; a dead-letter record adds its own to those of the original.
const (
	maxHeader = 32 << 10
	maxAdded  = 8 << 10
)

// maxTimeout bounds what a caller may claim to wait for.
const maxTimeout = 365 * 24 * time.Hour

// encode returns the headers that carry m, apart from those that depend on how
// it is sent: the dedup id, the schedule, the timeout and the status. withID
// writes m.ID as a header of its own; token is the scope token of the subject,
// or "" if the subject has none. A message without headers has nil.
func encode(m *transport.Message, token string, withID bool) (nats.Header, error) {
	session := m.To.Session
	if session == "" {
		session = m.Session
	} else if m.Session != "" && m.Session != session {
		return nil, fmt.Errorf("%w message: it belongs to session %q and is addressed to session %q",
			transport.ErrInvalid, m.Session, session)
	}
	var w headerWriter
	if withID && m.ID != "" {
		w.text(hdrID, m.ID)
	}
	if m.Key != "" {
		w.text(hdrKey, m.Key)
	}
	// The token names the session, except that the token of the bus names none.
	if session != "" && (m.To.Session == "" || session != token) {
		w.text(hdrSession, session)
	}
	if m.CorrelationID != m.ID {
		w.text(hdrCorrelation, m.CorrelationID)
	}
	if m.CausationID != "" {
		w.text(hdrCausation, m.CausationID)
	}
	if !m.SentAt.IsZero() {
		w.set(hdrSent, m.SentAt.UTC().Format(time.RFC3339Nano))
	}
	if m.ContentType != "" {
		w.text(hdrContentType, m.ContentType)
	}
	for k, v := range m.Header {
		if err := checkHeaderKey(k); err != nil {
			return nil, err
		}
		w.make()
		w.h[k] = v
		for _, s := range v {
			w.size += len(k) + len(s) + 4
			w.escape = w.escape || mustEscape(s)
		}
	}
	if w.escape {
		w.escapeAll()
	}
	limit := maxHeader
	if m.To.Group != "" {
		limit += maxAdded
	}
	if w.size > limit {
		return nil, fmt.Errorf("%w message: %w", transport.ErrInvalid,
			fmt.Errorf("its headers take %d bytes, at most %d are allowed", w.size, limit))
	}
	return w.h, nil
}

// headerWriter collects headers whose values share one array.
type headerWriter struct {
	h      nats.Header
	vals   []string
	size   int
	escape bool
}

// text sets a header to any text, which may need escaping.
func (w *headerWriter) text(key, value string) {
	w.set(key, value)
	w.escape = w.escape || mustEscape(value)
}

func (w *headerWriter) set(key, value string) {
	if w.vals == nil {
		w.vals = make([]string, 0, 7)
	}
	w.make()
	w.vals = append(w.vals, value)
	i := len(w.vals)
	w.h[key] = w.vals[i-1 : i : i]
	w.size += len(key) + len(value) + 4
}

func (w *headerWriter) make() {
	if w.h == nil {
		w.h = make(nats.Header, 4)
	}
}

func (w *headerWriter) escapeAll() {
	w.size = 0
	for k, v := range w.h {
		e := make([]string, len(v))
		for i, s := range v {
			e[i] = escapeValue(s)
			w.size += len(k) + len(e[i]) + 4
		}
		w.h[k] = e
	}
	w.set(hdrEscaped, "1")
}

// mustEscape says whether a header value would not arrive as it is: the client
// turns line breaks into spaces and trims the ends.
func mustEscape(s string) bool {
	if s == "" {
		return false
	}
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return true
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

func escapeValue(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '%' {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// checkHeaderKey refuses the keys that a user must not set or that the protocol
// cannot carry.
func checkHeaderKey(key string) error {
	switch key {
	case hdrID, hdrKey, hdrSession, hdrCorrelation, hdrCausation, hdrSent, hdrTimeout, hdrStatus, hdrEscaped,
		hdrContentType, "Status", "Description":
		return fmt.Errorf("%w header %q: the name is reserved", transport.ErrInvalid, key)
	case "":
		return fmt.Errorf("%w header: its name is empty", transport.ErrInvalid)
	}
	if isServerHeader(key) {
		return fmt.Errorf("%w header %q: names that begin with Nats- are the server's", transport.ErrInvalid, key)
	}
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c > '~' || strings.IndexByte("\"()/,:;<=>?@[\\]{}", c) >= 0 {
			return fmt.Errorf("%w header %q: the name may have letters, digits and -_.!#$%%&'*+^`|~", transport.ErrInvalid, key)
		}
	}
	return nil
}

// isServerHeader says whether key belongs to the server.
func isServerHeader(key string) bool {
	return len(key) >= 5 && strings.EqualFold(key[:5], "Nats-")
}

// place is what a subject says of its messages. A reader keeps that of the last
// one, since most messages come on the same subject.
type place struct {
	subject, kind string
	to            transport.Address
	err           error
}

// place reads a subject of names.command, event, live or retry.
func (n names) place(subject string) place {
	p := place{subject: subject}
	kind, token, name, ok := n.split(subject)
	p.kind, p.to.Name = kind, name
	switch {
	case !ok:
		p.err = fmt.Errorf("%w subject %q", transport.ErrInvalid, subject)
		return p
	case kind == "retry":
		p.to.Group = token
	default:
		p.to.Session, p.err = sessionOf(token)
	}
	if err := checkName(name); p.err == nil {
		p.err = err
	}
	return p
}

// read fills m with a message that came on the subject. It never fails; what
// breaks the contract is told in Malformed. m shares data and h with the caller.
func (p *place) read(m *transport.Message, h nats.Header, data []byte) {
	m.Body, m.To, m.Session, m.Malformed = data, p.to, p.to.Session, p.err
	if len(h) > 0 {
		r := headerReader{m: m, noToken: p.kind == "retry"}
		r.headers(p.subject, p.kind, h)
	}
}

// decode reads one message off the wire.
func (n names) decode(subject string, h nats.Header, data []byte) *transport.Message {
	m := new(transport.Message)
	p := n.place(subject)
	p.read(m, h, data)
	return m
}

// decodeReply reads the answer to a request.
func decodeReply(h nats.Header, data []byte) *transport.Message {
	m := &transport.Message{Body: data}
	if len(h) > 0 {
		r := headerReader{m: m, noToken: true}
		r.headers("", "reply", h)
		m.To = transport.Address{}
	}
	return m
}

// headerReader fills the envelope of a message from its headers.
type headerReader struct {
	m       *transport.Message
	noToken bool // the subject does not name the session
}

func (r *headerReader) fail(err error) {
	if r.m.Malformed == nil {
		r.m.Malformed = err
	}
}

func (r *headerReader) headers(subject, kind string, h nats.Header) {
	m := r.m
	_, escaped := h[hdrEscaped]
	correlated := false
	var dedup string
	user := 0
	for k, v := range h {
		if k == hdrMsgID && len(v) == 1 {
			dedup = v[0]
			continue
		}
		if k == hdrUnreadable {
			r.fail(fmt.Errorf("%w headers: they cannot be read", transport.ErrInvalid))
			continue
		}
		if !isEnvelope(k) {
			if k == hdrStored && len(v) == 1 && len(h[hdrSent]) == 0 {
				m.SentAt, _ = time.Parse(time.RFC3339Nano, v[0]) // zero if a stranger wrote it
			}
			if !isServerHeader(k) {
				user++
			}
			continue
		}
		if r.single(k, v); len(v) == 0 {
			continue
		}
		s := v[0]
		if escaped {
			s = r.unescape(k, s)
		}
		switch k {
		case hdrID:
			m.ID = s
		case hdrKey:
			m.Key = s
		case hdrSession:
			r.session(kind, s)
		case hdrCorrelation:
			m.CorrelationID, correlated = s, true
		case hdrCausation:
			m.CausationID = s
		case hdrContentType:
			m.ContentType = s
		case hdrSent:
			t, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				r.fail(fmt.Errorf("%w header %q: %w", transport.ErrInvalid, k, err))
			}
			m.SentAt = t
		}
	}
	if m.ID == "" && dedup != "" {
		m.ID = idOf(dedup, subject)
	}
	if !correlated {
		m.CorrelationID = m.ID
	}
	if user > 0 {
		r.user(h, user, escaped)
	}
}

// single refuses a header that has several values where one is meant.
func (r *headerReader) single(key string, values []string) {
	if len(values) != 1 {
		r.fail(fmt.Errorf("%w header %q: it has %d values, one is allowed", transport.ErrInvalid, key, len(values)))
	}
}

// user copies the headers that are not the driver's.
func (r *headerReader) user(h nats.Header, n int, escaped bool) {
	u := make(transport.Header, n)
	for k, v := range h {
		if isEnvelope(k) || isServerHeader(k) || k == hdrUnreadable {
			continue
		}
		if strings.HasPrefix(k, transport.HeaderPrefix) {
			r.single(k, v)
		}
		if escaped {
			for i := range v {
				v[i] = r.unescape(k, v[i])
			}
		}
		u[k] = v
	}
	r.m.Header = u
}

func (r *headerReader) session(kind, s string) {
	if _, err := sessionToken(s); err != nil {
		r.fail(err)
		return
	}
	m := r.m
	switch {
	case r.noToken:
		m.To.Session, m.Session = s, s
	case kind == "cmd" && m.To.Session == "":
		m.Session = s
	case s != m.To.Session:
		r.fail(fmt.Errorf("%w header %q: it names session %q and the subject session %q",
			transport.ErrInvalid, hdrSession, s, m.To.Session))
	}
}

func (r *headerReader) unescape(key, s string) string {
	u, err := url.PathUnescape(s)
	if err != nil {
		r.fail(fmt.Errorf("%w header %q: %w", transport.ErrInvalid, key, err))
		return s
	}
	return u
}

// isEnvelope says whether key is one of the driver's own headers.
func isEnvelope(key string) bool {
	switch key {
	case hdrID, hdrKey, hdrSession, hdrCorrelation, hdrCausation, hdrSent, hdrTimeout, hdrStatus, hdrEscaped, hdrContentType:
		return true
	}
	return false
}

// dedupID joins a message's id with its address, so that equal ids of two
// addresses do not swallow each other in one stream. tail is the subject without
// the namespace and kind.
func dedupID(id, tail string) string { return id + "@" + tail }

// idOf is the inverse of dedupID for a message that was read from subject. What
// another program wrote is an id as it stands, unless it begins with "@".
func idOf(dedup, subject string) string {
	tail := tailOf(subject)
	if i := len(dedup) - len(tail) - 1; i >= 0 && dedup[i] == '@' && dedup[i+1:] == tail {
		return dedup[:i]
	}
	if dedup[0] == '@' {
		return ""
	}
	return dedup
}

// tailOf returns a subject without its first two tokens.
func tailOf(subject string) string {
	for range 2 {
		i := strings.IndexByte(subject, '.')
		if i < 0 {
			return ""
		}
		subject = subject[i+1:]
	}
	return subject
}

// encodeTimeout writes the time that remains, in milliseconds, rounded up.
func encodeTimeout(d time.Duration) string {
	return strconv.FormatInt(milliseconds(d), 10)
}

// decodeTimeout reads the time that remains; 0 means that none was given.
func decodeTimeout(h nats.Header) (time.Duration, error) {
	v := h[hdrTimeout]
	if len(v) == 0 {
		return 0, nil
	}
	ms, err := strconv.ParseInt(v[0], 10, 64)
	if err != nil || ms <= 0 || len(v) > 1 {
		return 0, fmt.Errorf("%w header %q: %q is no number of milliseconds", transport.ErrInvalid, hdrTimeout, v)
	}
	return min(time.Duration(min(ms, int64(maxTimeout/time.Millisecond)))*time.Millisecond, maxTimeout), nil
}
