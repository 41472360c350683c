package bus

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync/atomic"
)

// idSource makes message ids: 14 random characters for the bus, then a counter.
// 70 random bits keep buses apart, the counter keeps messages apart, and nothing
// comes from the clock. It costs one allocation, where a UUID costs a
// microsecond's quarter: ids are made for every message.
type idSource struct {
	prefix string
	n      atomic.Uint64
}

const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

func newIDSource() *idSource {
	return &idSource{prefix: rand.Text()[:14]}
}

// next returns a new id of 22 characters.
func (s *idSource) next() string {
	var buf [22]byte
	copy(buf[:14], s.prefix)
	n := s.n.Add(1)
	for i := len(buf) - 1; i >= 14; i-- {
		buf[i] = idAlphabet[n&31]
		n >>= 5
	}
	return string(buf[:])
}

// DerivedID returns an id that is the same whenever the same handler handles
// the same message, for one label: a retry that publishes again with
// WithID(DerivedID(ctx, "label")) does not store the event twice. Handlers are
// told apart by group and WithName, messages by kind, name, session and id. A
// private listener is a handler of its own, whatever its name: what several
// derive from one event differs. Outside a handler it returns "", which WithID
// refuses, and in a batch handler, unless ctx is an ItemContext.
func DerivedID(ctx context.Context, label string) string {
	c := callFrom(ctx)
	if c == nil || c.events > 0 {
		return ""
	}
	return digest("derived", c.who.kind.String(), c.who.name, c.envelope().Session, c.id(),
		c.who.group, c.who.handler, c.who.private, label)
}

// digest is a short, stable name for a list of strings, and for no other list.
func digest(parts ...string) string {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}
