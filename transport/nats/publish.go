package nats

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport"
)

// lastSchedule is the last time for which the server keeps a schedule: it counts
// nanoseconds in 64 bits.
var lastSchedule = time.Unix(0, math.MaxInt64).UTC()

// How long a publish waits before it is sent again with the same id. A PubAck
// that a change of leader swallowed costs the first of these, not the caller's
// deadline; an election takes several seconds.
const (
	firstTry    = 250 * time.Millisecond
	maxTry      = 2 * time.Second
	firstRefuse = 50 * time.Millisecond // after a refusal that passes
	maxRefuse   = time.Second
)

// bodyMargin is what is kept free of the server's maximum payload, so that the
// dead-letter record of every message fits.
const bodyMargin = 64 << 10

// Publish implements transport.Transport. Messages go out in the order given;
// those of one key one at a time, across all callers of this transport.
func (t *Transport) Publish(ctx context.Context, ms ...*transport.Message) error {
	if err := t.usable(ctx); err != nil {
		return err
	}
	if len(ms) == 0 {
		return nil
	}
	b := newBatch(len(ms))
	refused := 0
	for i, m := range ms {
		p := &b.all[i]
		p.w, p.b = t.win, b
		if err := t.prepare(p, m); err != nil {
			p.out = transport.Outcome{Status: transport.Refused, Err: fmt.Errorf("publish %s: %w", describe(m), err)}
			p.settled = true
			refused++
		}
	}
	b.left = len(ms) - refused
	if b.left > 0 {
		t.win.publish(ctx, b)
	}
	for i := range b.all {
		if b.all[i].out.Status > transport.Duplicate {
			outcomes := make([]transport.Outcome, len(b.all))
			for i := range b.all {
				outcomes[i] = b.all[i].out
			}
			return &transport.PublishError{Outcomes: outcomes}
		}
	}
	return nil
}

func describe(m *transport.Message) string {
	if m == nil {
		return "nil message"
	}
	return fmt.Sprintf("%q", m.To.Name)
}

// prepare fills p with what goes over the wire for m.
func (t *Transport) prepare(p *publication, m *transport.Message) error {
	if m == nil {
		return fmt.Errorf("%w message: it is nil", transport.ErrInvalid)
	}
	if m.Value != nil {
		return fmt.Errorf("%w message: it has a Value, and only bodies are carried", transport.ErrInvalid)
	}
	if limit := t.maxBody(); len(m.Body) > limit {
		return &transport.SizeError{Size: len(m.Body), Limit: limit}
	}
	subject, err := t.names.event(m.To)
	if err != nil {
		return err
	}
	_, token, _, _ := t.names.split(subject)
	tail := subject[len(subject)-len(token)-1-len(m.To.Name):]
	delayed := !m.DeliverAt.IsZero() && m.DeliverAt.After(time.Now())
	if delayed && m.DeliverAt.After(lastSchedule) {
		return fmt.Errorf("%w message: the server keeps no schedule for %v, the last is %v",
			transport.ErrInvalid, m.DeliverAt.UTC().Format(time.RFC3339), lastSchedule.Format(time.RFC3339))
	}
	if m.To.Group != "" {
		if subject, err = t.names.retry(m.To.Group, m.To.Name); err != nil {
			return err
		}
		tail = m.To.Group + "." + tail
		token = ""
	}
	// The dedup id of these does not reach the reader, or is not the id.
	withID := m.To.Group != "" || delayed || mustEscape(m.ID)
	if p.msg.Header, err = encode(m, token, withID); err != nil {
		return err
	}
	if p.msg.Header == nil {
		p.msg.Header = make(nats.Header, 1)
	}
	p.dedup(m.ID, tail)
	if delayed {
		target := subject
		if m.To.Group == "" {
			if target, err = t.names.due(m.To); err != nil {
				return err
			}
		}
		subject = t.names.schedule(digest(p.msg.Header[hdrMsgID][0]))
		p.msg.Header["Nats-Schedule"] = []string{"@at " + m.DeliverAt.UTC().Format(time.RFC3339Nano)}
		p.msg.Header["Nats-Schedule-Target"] = []string{target}
	}
	p.msg.Subject, p.msg.Data = subject, m.Body
	p.key, p.name = m.Key, m.To.Name
	return nil
}

// dedup sets the id by which the server knows a second copy. A message without an
// id gets one that no other has, so that a lost answer does not store it twice.
func (p *publication) dedup(id, tail string) {
	switch {
	case id == "":
		p.msg.Header[hdrMsgID] = []string{"@" + newToken()}
	case mustEscape(id):
		p.msg.Header[hdrMsgID] = []string{"@" + digest(dedupID(id, tail))}
	default:
		p.msg.Header[hdrMsgID] = []string{dedupID(id, tail)}
	}
}

// newToken returns a subject token that no other process makes.
func newToken() string { return rand.Text() }

// digest returns a subject token made of s.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}
