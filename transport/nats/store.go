package nats

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// Headers that a key-value bucket is written with.
const (
	hdrOperation   = "KV-Operation"
	operationDel   = "DEL"
	operationPurge = "PURGE"
)

const (
	// deleteMarkerTTL is how long a deleted key leaves a trace in the bucket.
	// Watchers that are away longer find out by reading all keys again.
	deleteMarkerTTL = time.Minute
	// maxStoreKey keeps the subject of a key well under the control line.
	maxStoreKey = 1024
)

// store is the transport's Store on a key-value bucket with a history of one
// and limit markers.
//
// A write is a publish that names the sequence it replaces and carries an id of
// its own, so that repeating it after a lost answer neither writes twice nor
// takes its own first copy for somebody else's. The client's own bucket
// functions are not used for writing, since its Update drops the TTL. Reads go to
// the leader: a follower may not have what was just acknowledged.
type store struct {
	c      *caller
	bucket string
	stream string
}

func newStore(c *caller, n names) *store {
	return &store{c: c, bucket: n.bucket(), stream: "KV_" + n.bucket()}
}

func (s *store) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error) {
	doing := fmt.Sprintf("create key %q", key)
	m, err := s.put(key, value, ttl)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", doing, err)
	}
	// A key that was deleted or expired leaves a marker for a while, whose
	// sequence a new value must name.
	for expect := uint64(0); ; {
		rev, err := s.write(ctx, doing, key, m, expect)
		if !errors.Is(err, transport.ErrConflict) {
			return rev, err
		}
		cur, err := s.read(ctx, doing, key)
		switch {
		case errors.Is(err, transport.ErrNotFound):
			expect = 0
		case err != nil:
			return 0, err
		case cur.deleted:
			expect = cur.revision
		default:
			return 0, fmt.Errorf("%s: %w at revision %d", doing, transport.ErrExists, cur.revision)
		}
	}
}

func (s *store) Get(ctx context.Context, key string) (transport.Entry, error) {
	doing := fmt.Sprintf("get key %q", key)
	if err := checkKey(key); err != nil {
		return transport.Entry{}, fmt.Errorf("%s: %w", doing, err)
	}
	cur, err := s.read(ctx, doing, key)
	if err == nil && cur.deleted {
		err = fmt.Errorf("%s: %w", doing, transport.ErrNotFound)
	}
	if err != nil {
		return transport.Entry{}, err
	}
	return transport.Entry{Key: key, Value: cur.value, Revision: cur.revision}, nil
}

func (s *store) Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	doing := fmt.Sprintf("update key %q", key)
	m, err := s.put(key, value, ttl)
	if err == nil && revision == 0 {
		err = fmt.Errorf("%w revision 0: use Create", transport.ErrInvalid)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", doing, err)
	}
	return s.write(ctx, doing, key, m, revision)
}

func (s *store) Delete(ctx context.Context, key string, revision uint64) error {
	doing := fmt.Sprintf("delete key %q", key)
	if err := checkKey(key); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	m := nats.NewMsg(s.subject(key))
	m.Header.Set(hdrOperation, operationPurge)
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	m.Header.Set(jetstream.MsgTTLHeader, deleteMarkerTTL.String())
	for expect := revision; ; {
		if expect != 0 {
			_, err := s.write(ctx, doing, key, m, expect)
			if !errors.Is(err, transport.ErrConflict) {
				return err
			}
		}
		cur, err := s.read(ctx, doing, key)
		switch {
		case errors.Is(err, transport.ErrNotFound):
			return nil
		case err != nil:
			return err
		case cur.deleted:
			return nil
		case revision != 0:
			return fmt.Errorf("%s: %w: it is %d", doing, transport.ErrConflict, cur.revision)
		}
		expect = cur.revision
	}
}

// put returns the message that stores a value.
func (s *store) put(key string, value []byte, ttl time.Duration) (*nats.Msg, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if ttl < 0 {
		return nil, fmt.Errorf("%w ttl %v: it must not be negative", transport.ErrInvalid, ttl)
	}
	m := nats.NewMsg(s.subject(key))
	m.Data = value
	if ttl > 0 {
		whole := (ttl + time.Second - 1).Truncate(time.Second)
		m.Header.Set(jetstream.MsgTTLHeader, strconv.FormatInt(int64(whole/time.Second), 10)+"s")
	}
	return m, nil
}

// write stores m if the key's last sequence is expect; otherwise ErrConflict.
func (s *store) write(ctx context.Context, doing, key string, m *nats.Msg, expect uint64) (rev uint64, err error) {
	id := rand.Text()
	m.Header.Set(jetstream.MsgIDHeader, id)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(expect, 10))
	sent := false // an earlier try may have been stored
	err = s.c.try(ctx, doing, func(ctx context.Context, js jetstream.JetStream) error {
		if limit := js.Conn().MaxPayload(); limit > 0 && int64(m.Size()) > limit {
			return &transport.SizeError{Size: m.Size(), Limit: int(limit)}
		}
		m.Subject = s.subject(key)
		if p := apiPrefix(js); p != jetstream.DefaultAPIPrefix {
			m.Subject = p + m.Subject
		}
		ack, err := js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
		if err == nil {
			rev = ack.Sequence // also of the copy that an earlier try stored
			return nil
		}
		if isWrongSequence(err) {
			// The server forgets ids when it restarts; the value still has it. And
			// what a replicated bucket refuses for may not be stored in the end.
			cur, readErr := s.readOnce(ctx, js, key)
			switch {
			case readErr != nil && !isNoMessage(readErr):
				return readErr
			case sent && cur.id == id:
				rev = cur.revision
				return nil
			case cur.revision == expect:
				return errInFlight
			}
		}
		sent = sent || wasSent(err)
		return err
	})
	if err != nil && sent && (ctx.Err() != nil || errors.Is(err, transport.ErrClosed)) {
		err = fmt.Errorf("%w: %w", transport.ErrUnknown, err)
	}
	return rev, err
}

// stored is the last message of a key.
type stored struct {
	value    []byte
	revision uint64
	id       string // of the write that made it
	deleted  bool
}

// read returns the last message of a key, which may be a marker. ErrNotFound:
// there is none.
func (s *store) read(ctx context.Context, doing, key string) (cur stored, err error) {
	err = s.c.try(ctx, doing, func(ctx context.Context, js jetstream.JetStream) error {
		cur, err = s.readOnce(ctx, js, key)
		return err
	})
	return cur, err
}

func (s *store) readOnce(ctx context.Context, js jetstream.JetStream, key string) (stored, error) {
	m, err := fromLeader(ctx, js, s.stream, msgRequest{LastFor: s.subject(key)})
	if err != nil {
		return stored{}, err
	}
	return stored{
		value:    m.Data,
		revision: m.Sequence,
		id:       m.Header.Get(jetstream.MsgIDHeader),
		deleted:  isMarker(m.Header),
	}, nil
}

// isMarker says whether a message of a bucket stands for a key that is gone:
// deleted by us or another client, or expired.
func isMarker(h nats.Header) bool {
	op := h.Get(hdrOperation)
	return op == operationDel || op == operationPurge || h.Get(jetstream.MarkerReasonHeader) != ""
}

func (s *store) subject(key string) string { return "$KV." + s.bucket + "." + key }

// checkKey says whether key is dotted tokens of [A-Za-z0-9_=-].
func checkKey(key string) error {
	if key == "" || len(key) > maxStoreKey {
		return fmt.Errorf("%w key %q: it needs 1 to %d characters", transport.ErrInvalid, key, maxStoreKey)
	}
	for tok := range strings.SplitSeq(key, ".") {
		if tok == "" {
			return fmt.Errorf("%w key %q: it has an empty token", transport.ErrInvalid, key)
		}
		for i := range len(tok) {
			if !isPlain(tok[i]) && tok[i] != '=' {
				return fmt.Errorf("%w key %q: only dotted tokens of [A-Za-z0-9_=-] are allowed", transport.ErrInvalid, key)
			}
		}
	}
	return nil
}
