package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// idemRecord is what the store has of an idempotency key. A handler's process first
// claims the key with a running record, which ends unless it is renewed; a success
// replaces it before the caller hears of it, and stays for the window. A failure
// frees the key, and is kept for a while for those who had asked before.
type idemRecord struct {
	State idemState `json:"state"`
	// Run tells one run of the handler from every other.
	Run string `json:"run"`
	// Body is a digest of the encoded command.
	Body string `json:"body"`

	// Of a success: the encoded result, or why it was not kept.
	ContentType string `json:"type,omitempty"`
	Result      []byte `json:"result,omitempty"`
	Nil         bool   `json:"nil,omitempty"`
	NotKept     string `json:"not_kept,omitempty"`

	// Of a failure, and when it was.
	Error *wireError `json:"error,omitempty"`
	At    time.Time  `json:"at,omitzero"`
}

type idemState string

const (
	idemRunning idemState = "running"
	idemDone    idemState = "done"
	idemFailed  idemState = "failed"
)

const (
	idemPrefix = "idem."
	// maxKeptResult bounds a result that is kept, in bytes: the store is for small
	// values.
	maxKeptResult = 64 << 10
	// idemFence is how long after its last renewal a run may be sure of its claim.
	// It ends before the store's own count does.
	idemFence = leaseTTL - time.Second
	// idemClaimTimeout bounds claiming a key, during which the command holds a slot
	// of its handler. idemRecordTimeout bounds recording what came of it.
	idemClaimTimeout  = 2 * time.Second
	idemRecordTimeout = 10 * time.Second
	// idemTries is how often a record is written that others write too.
	idemTries = 10
	// idemFailedFor is how long a failure is kept, for those who have asked before it
	// and whose reply is lost or whose next try is on its way.
	idemFailedFor = time.Minute
	// idemFading is how long before its end a failure is not replaced any more, but
	// waited for, and idemGone how long at most.
	idemFading = time.Second
	idemGone   = 3 * time.Second
)

// idemKey is where the record of a key is kept.
func idemKey(m *transport.Message, key string) string {
	return idemPrefix + m.To.Name + "." + digest("idempotency", m.Session, m.To.Name, key)
}

func (r idemRecord) encode() []byte {
	v, err := json.Marshal(r)
	if err != nil { // cannot happen: strings and bytes
		panic(err)
	}
	return v
}

func parseIdemRecord(v []byte) (idemRecord, error) {
	var r idemRecord
	if err := json.Unmarshal(v, &r); err != nil {
		return r, err
	}
	switch {
	case r.State == idemRunning, r.State == idemDone, r.State == idemFailed && r.Error != nil:
		return r, nil
	}
	return r, fmt.Errorf("state %q is not known", r.State)
}

// fading reports whether a failure is about to expire. What replaces a record just
// then may be removed in its place (transport.Store, Update).
func (r *idemRecord) fading() bool {
	return r.State == idemFailed && time.Since(r.At) > idemFailedFor-idemFading
}

// faded waits until a record that is fading has gone, or is another's; for a while
// only, since the clock that wrote it may be wrong.
func faded(ctx context.Context, store transport.Store, key string, revision uint64) {
	ctx, cancel := context.WithTimeout(ctx, idemGone)
	defer cancel()
	for sleep(ctx, 100*time.Millisecond) {
		if e, err := store.Get(ctx, key); errors.Is(err, transport.ErrNotFound) || err == nil && e.Revision != revision {
			return
		}
	}
}

// message is the reply that a kept result was.
func (r *idemRecord) message() *transport.Message {
	m := &transport.Message{Body: r.Result, ContentType: r.ContentType}
	if r.Nil {
		m.Header = Header{headerNil: {"1"}}
	}
	return m
}

// keep takes a result into the record, if it can be kept.
func (r *idemRecord) keep(h *commandHandler, contentType string, result any) {
	var m transport.Message
	if err := h.encodeBody(contentType, result, &m); err != nil {
		r.NotKept = "it cannot be encoded: " + err.Error()
		return
	}
	if len(m.Body) > maxKeptResult {
		r.NotKept = fmt.Sprintf("its %d bytes are over the limit of %d", len(m.Body), maxKeptResult)
		return
	}
	r.ContentType, r.Result, r.Nil = m.ContentType, m.Body, m.Header.Get(headerNil) != ""
}
