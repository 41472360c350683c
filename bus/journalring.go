package bus

import (
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// journal keeps the last records in a ring. Record n, counted from 1, has the slot
// n modulo its size, and each slot has a lock of its own: who writes takes the next
// number and then has a slot to itself, so that messages handled side by side do
// not wait for each other here, nor for who reads.
type journal struct {
	cfg    JournalConfig
	codecs codec.Set
	last   atomic.Uint64
	slots  []journalSlot
}

// journalSlot holds one record as plain values and one run of bytes, which is used
// again for the next record: a journal that has gone round once allocates nothing
// more, and nothing in it points at a message.
type journalSlot struct {
	mu             sync.Mutex
	n              uint64 // the record's number, 0 for none
	at, sentAt     time.Time
	stage          Stage
	kind           Kind
	attempt        int
	elapsed, delay time.Duration
	bodySize       int
	text           []byte
	ends           [journalTexts]int32 // of each text in text
}

// The texts of a record, in their order.
const (
	textName = iota
	textGroup
	textHandler
	textID
	textSession
	textCorrelation
	textCausation
	textKey
	textCode
	textErr
	textBody
	journalTexts
)

// Longer texts are cut. What the bus makes itself and what it takes from senders of
// its own is shorter, except keys.
const (
	maxJournalText  = 256
	maxJournalError = 1 << 10
)

func newJournal(cfg JournalConfig, codecs codec.Set) *journal {
	setDefault(&cfg.Size, defaultJournalSize)
	setDefault(&cfg.MaxBody, defaultJournalBody)
	return &journal{cfg: cfg, codecs: codecs, slots: make([]journalSlot, cfg.Size)}
}

// add is an Observer. Whatever calls the user's code comes before the lock.
func (j *journal) add(r Record) {
	m := r.Meta()
	text := [journalTexts]string{
		textName: r.Name, textGroup: r.Group, textHandler: r.Handler,
		textID: m.ID, textSession: m.Session, textCorrelation: m.CorrelationID,
		textCausation: m.CausationID, textKey: m.Key,
	}
	for i, s := range text[:textCode] {
		text[i] = cut(s, maxJournalText)
	}
	if r.Err != nil {
		text[textCode], text[textErr] = string(CodeOf(r.Err)), cut(r.Err.Error(), maxJournalError)
	}
	var body []byte
	if j.cfg.Bodies {
		body = j.body(r)
	}
	kept := body[:min(len(body), j.cfg.MaxBody)]
	size := len(kept)
	for _, s := range text {
		size += len(s)
	}
	now := time.Now()
	n := j.last.Add(1)

	s := &j.slots[n%uint64(len(j.slots))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n > n {
		return // the others have been once around the ring meanwhile
	}
	s.n, s.at, s.sentAt = n, now, m.SentAt
	s.stage, s.kind, s.attempt, s.elapsed, s.delay = r.Stage, r.Kind, r.Attempt, r.Elapsed, r.Delay
	s.bodySize = len(body)
	if s.text = s.text[:0]; cap(s.text) < size {
		s.text = make([]byte, 0, size)
	}
	for i := range text[:textBody] {
		s.text = append(s.text, text[i]...)
		s.ends[i] = int32(len(s.text))
	}
	s.text = append(s.text, kept...)
	s.ends[textBody] = int32(len(s.text))
}

// find returns the entries that q selects.
func (j *journal) find(q JournalQuery) []JournalEntry {
	if oldest := time.Now().Add(-j.cfg.MaxAge); j.cfg.MaxAge > 0 && q.Since.Before(oldest) {
		q.Since = oldest
	}
	q.ID, q.CorrelationID = cut(q.ID, maxJournalText), cut(q.CorrelationID, maxJournalText)
	last := j.last.Load()
	first := uint64(1)
	if size := uint64(len(j.slots)); last > size {
		first = last - size + 1
	}
	found := []JournalEntry{}
	for i := range last - first + 1 {
		n := first + i
		if q.Newest {
			n = last - i
		}
		if e, ok := j.slots[n%uint64(len(j.slots))].get(n, &q); ok {
			found = append(found, e)
			if len(found) == q.Limit {
				break
			}
		}
	}
	return found
}

// get returns record n as an entry if it is there and q selects it.
func (s *journalSlot) get(n uint64, q *JournalQuery) (JournalEntry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := func(i int, want string) bool { return want == "" || string(s.part(i)) == want }
	if s.n != n || s.at.Before(q.Since) || q.Kind != 0 && s.kind != q.Kind || q.Stage != 0 && s.stage != q.Stage ||
		!is(textName, q.Name) || !is(textSession, q.Session) || !is(textID, q.ID) || !is(textCorrelation, q.CorrelationID) {
		return JournalEntry{}, false
	}
	all := string(s.text)
	part := func(i int) string { return all[s.start(i):s.ends[i]] }
	return JournalEntry{
		Number: n, Time: s.at, Stage: s.stage, Kind: s.kind,
		Name: part(textName), Group: part(textGroup), Handler: part(textHandler), Attempt: s.attempt,
		ID: part(textID), Session: part(textSession), CorrelationID: part(textCorrelation),
		CausationID: part(textCausation), Key: part(textKey), SentAt: s.sentAt,
		Elapsed: s.elapsed, Delay: s.delay,
		Code: Code(part(textCode)), Err: part(textErr),
		Body: strings.ToValidUTF8(part(textBody), ""), BodySize: s.bodySize,
	}, true
}

func (s *journalSlot) part(i int) []byte { return s.text[s.start(i):s.ends[i]] }

func (s *journalSlot) start(i int) int32 {
	if i == 0 {
		return 0
	}
	return s.ends[i-1]
}

// encoded is a subject that may have its message in encoded form.
type encoded interface{ envelope() *transport.Message }

func (o outbound) envelope() *transport.Message { return o.m }

// body returns the message as JSON: as it travels, if it does so, or else made from
// its value. It is nil for a message that has none, or none that JSON knows.
func (j *journal) body(r Record) []byte {
	v := r.Value()
	if of, ok := r.of.(encoded); ok {
		if m := of.envelope(); len(m.Body) > 0 {
			if m.ContentType == "" || m.ContentType == codec.JSON.ContentType() {
				return m.Body
			}
			// Its sender may be changing the value by now: what is encoded has left it.
			v = j.decode(m, reflect.TypeOf(v))
		}
	}
	if v == nil {
		return nil
	}
	body, err := codec.Encode(codec.JSON, v)
	if err != nil {
		return nil
	}
	return body
}

// decode returns the message as a value of type t, nil if that cannot be.
func (j *journal) decode(m *transport.Message, t reflect.Type) any {
	if t == nil {
		return nil
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	c, err := j.codecs.Lookup(m.ContentType)
	if err != nil {
		return nil
	}
	v := reflect.New(t).Interface()
	if err := codec.Decode(c, m.Body, v); err != nil {
		return nil
	}
	return v
}

// cut returns at most the first n bytes of s, whole characters of it.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
