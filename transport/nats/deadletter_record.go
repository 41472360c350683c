package nats

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport"
)

// The headers that a record adds to those of the original. Their values are
// percent-encoded where they have to be.
const (
	deadPrefix         = transport.HeaderPrefix + "Dead-"
	deadKind           = deadPrefix + "Kind"
	deadGroup          = deadPrefix + "Group"
	deadHandler        = deadPrefix + "Handler"
	deadCode           = deadPrefix + "Code"
	deadError          = deadPrefix + "Error"
	deadStack          = deadPrefix + "Stack"
	deadAttempts       = deadPrefix + "Attempts"
	deadFirst          = deadPrefix + "First"
	deadLast           = deadPrefix + "Last"
	deadService        = deadPrefix + "Service"
	deadHost           = deadPrefix + "Host"
	deadStreamSequence = deadPrefix + "Stream-Sequence"

	// About the original: where it was addressed, and what was wrong with it.
	deadName      = deadPrefix + "Name"
	deadToSession = deadPrefix + "To-Session"
	deadToGroup   = deadPrefix + "To-Group"
	deadDeliverAt = deadPrefix + "Deliver-At"
	deadMalformed = deadPrefix + "Malformed"
	// deadHeader begins the name of an original header that cannot stand under
	// its own, which follows percent-encoded.
	deadHeader = deadPrefix + "Header-"
	// deadLeftOut counts the original headers that did not fit, and deadSize is
	// the size of a body that was cut. Neither happens to what this driver sent.
	deadLeftOut = deadPrefix + "Left-Out"
	deadSize    = deadPrefix + "Size"
)

// How much of the 64 KiB that the server allows for headers goes to what.
const (
	recordHeaders = 62 << 10
	recordFields  = 8 << 10 // what the record keeps for its own, without the stack
	fieldRoom     = 512
	errorRoom     = 4 << 10
	stackRoom     = 24 << 10
)

// encodeRecord returns the headers and body that store dl in a message of at most
// limit bytes.
func encodeRecord(dl *transport.DeadLetter, limit int) (nats.Header, []byte) {
	m := dl.Message
	w := headerWriter{h: make(nats.Header, 20+len(m.Header))}
	for key, value := range map[string]string{
		hdrID: m.ID, hdrKey: m.Key, hdrCorrelation: m.CorrelationID, hdrCausation: m.CausationID,
		hdrSession: m.Session, hdrContentType: m.ContentType,
	} {
		if value != "" || key == hdrCorrelation && m.ID != "" {
			w.text(key, value)
		}
	}
	if !m.SentAt.IsZero() {
		w.set(hdrSent, formatTime(m.SentAt))
	}
	for key, values := range m.Header {
		if checkHeaderKey(key) != nil || strings.HasPrefix(key, deadPrefix) {
			key = deadHeader + escapeKey(key)
		}
		w.h[key] = values
		for _, s := range values {
			w.size += len(key) + len(s) + 4
			w.escape = w.escape || mustEscape(s)
		}
	}
	if w.escape {
		w.escapeAll()
	}
	// A body that came from another program may leave no room.
	need := min(w.size+recordFields, recordHeaders)
	body := m.Body[:max(min(len(m.Body), limit-need), 0)]
	room := min(recordHeaders, max(limit-len(body), need))
	leftOut := w.shrink(room - recordFields)

	h := w.h
	used := w.size
	put := func(key, value string, room int) {
		if value != "" {
			h[key] = []string{escapeText(value, room)}
			used += len(key) + len(h[key][0]) + 4
		}
	}
	put(deadKind, dl.Kind, fieldRoom)
	put(deadGroup, dl.Group, fieldRoom)
	put(deadHandler, dl.Handler, fieldRoom)
	put(deadCode, dl.Code, fieldRoom)
	put(deadService, dl.Service, fieldRoom)
	put(deadHost, dl.Host, fieldRoom)
	put(deadName, m.To.Name, fieldRoom)
	put(deadToSession, m.To.Session, fieldRoom)
	put(deadToGroup, m.To.Group, fieldRoom)
	put(deadAttempts, formatInt(dl.Attempts), fieldRoom)
	put(deadStreamSequence, formatUint(dl.StreamSequence), fieldRoom)
	put(deadFirst, formatTime(dl.First), fieldRoom)
	put(deadLast, formatTime(dl.Last), fieldRoom)
	put(deadDeliverAt, formatTime(m.DeliverAt), fieldRoom)
	put(deadLeftOut, formatInt(leftOut), fieldRoom)
	if len(body) < len(m.Body) {
		put(deadSize, formatInt(len(m.Body)), fieldRoom)
	}
	if m.Malformed != nil {
		put(deadMalformed, m.Malformed.Error(), fieldRoom)
	}
	put(deadError, dl.Error, min(errorRoom, max(room-used-len(deadError)-64, 0)))
	put(deadStack, dl.Stack, min(stackRoom, max(room-used-len(deadStack)-64, 0)))
	return h, body
}

// shrink removes the largest headers until all of them take at most room bytes,
// and returns how many it removed.
func (w *headerWriter) shrink(room int) (removed int) {
	size := func(key string) (n int) {
		for _, v := range w.h[key] {
			n += len(key) + len(v) + 4
		}
		return n
	}
	for w.size > room && len(w.h) > 0 {
		var largest string
		for key := range w.h {
			if key != hdrEscaped && (largest == "" || size(key) > size(largest)) {
				largest = key
			}
		}
		if largest == "" {
			break
		}
		w.size -= size(largest)
		delete(w.h, largest)
		removed++
	}
	return removed
}

// decodeRecord reads a record, which may come from anybody. What cannot be read
// is told in the message's Malformed.
func decodeRecord(h nats.Header, body []byte) *transport.DeadLetter {
	r := recordReader{dead: map[string]string{}, rest: make(nats.Header, len(h))}
	for key, values := range h {
		r.sort(key, values)
	}
	m := &transport.Message{Body: body}
	env := headerReader{m: m, noToken: true}
	env.headers("", "dead", r.rest)
	m.To = transport.Address{Name: r.dead[deadName], Session: r.dead[deadToSession], Group: r.dead[deadToGroup]}
	m.DeliverAt = r.time(deadDeliverAt)
	for key, values := range r.moved {
		if m.Header == nil {
			m.Header = transport.Header{}
		}
		if _, escaped := h[hdrEscaped]; escaped {
			for i := range values {
				values[i] = env.unescape(key, values[i])
			}
		}
		m.Header[key] = values
	}
	dl := &transport.DeadLetter{
		Message: m, Kind: r.dead[deadKind], Group: r.dead[deadGroup], Handler: r.dead[deadHandler],
		Code: r.dead[deadCode], Error: r.dead[deadError], Stack: r.dead[deadStack],
		Attempts: int(min(r.number(deadAttempts), 1<<31-1)), First: r.time(deadFirst), Last: r.time(deadLast),
		Service: r.dead[deadService], Host: r.dead[deadHost], StreamSequence: r.number(deadStreamSequence),
	}
	if dl.Kind == "" {
		r.fail(errors.New("it has no kind"))
	}
	if n := r.number(deadLeftOut); n > 0 {
		r.fail(fmt.Errorf("%d headers of the original did not fit", n))
	}
	if n := r.number(deadSize); n > 0 {
		r.fail(fmt.Errorf("the body of %d bytes was cut to %d", n, len(body)))
	}
	switch text := r.dead[deadMalformed]; {
	case text != "":
		m.Malformed = errors.New(text)
	case r.err != nil:
		m.Malformed = fmt.Errorf("%w dead letter: %w", transport.ErrInvalid, r.err)
	}
	return dl
}

// recordReader tells the headers of a record from those of the original.
type recordReader struct {
	dead  map[string]string
	moved map[string][]string // the original's that stood under another name
	rest  nats.Header
	err   error // the first thing that is wrong
}

func (r *recordReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *recordReader) sort(key string, values []string) {
	if name, ok := strings.CutPrefix(key, deadHeader); ok {
		original, err := url.PathUnescape(name)
		if err != nil {
			r.fail(fmt.Errorf("header %q: %w", key, err))
			original = name
		}
		if r.moved == nil {
			r.moved = map[string][]string{}
		}
		r.moved[original] = values
		return
	}
	if !strings.HasPrefix(key, deadPrefix) {
		r.rest[key] = values
		return
	}
	if len(values) != 1 {
		r.fail(fmt.Errorf("header %q has %d values", key, len(values)))
		return
	}
	text, err := url.PathUnescape(values[0])
	if err != nil {
		r.fail(fmt.Errorf("header %q: %w", key, err))
		text = values[0]
	}
	r.dead[key] = text
}

func (r *recordReader) number(key string) uint64 {
	s, ok := r.dead[key]
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		r.fail(fmt.Errorf("header %q: %w", key, err))
		return 0
	}
	return n
}

func (r *recordReader) time(key string) time.Time {
	s, ok := r.dead[key]
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		r.fail(fmt.Errorf("header %q: %w", key, err))
	}
	return t
}

// escapeText returns s for a header, percent-encoding what would not arrive as it
// is, and as much of it as fits into room bytes.
func escapeText(s string, room int) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); {
		_, n := utf8.DecodeRuneInString(s[i:])
		c := s[i]
		edge := c == ' ' && (i == 0 || i == len(s)-1)
		plain := c >= ' ' && c != 0x7f && c != '%' && !edge
		if plain && b.Len()+n > room || !plain && b.Len()+3 > room {
			break
		}
		if plain {
			b.WriteString(s[i : i+n])
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
		i += n
	}
	return strings.TrimRight(b.String(), " ")
}

// escapeKey percent-encodes whatever may not be in the name of a header.
func escapeKey(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isPlain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func formatInt(n int) string { return formatUint(uint64(max(n, 0))) }

func formatUint(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
