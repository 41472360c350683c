package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/session"
	"github.com/jitney-bus/jitney/transport"
)

// opening is the record of one opening of a session, below the lease of its
// process. It is written once, and deleted when the session has ended.
type opening struct {
	Session string    `json:"session"`
	Service string    `json:"service,omitempty"`
	Host    string    `json:"host,omitempty"`
	Opened  time.Time `json:"opened"`
}

// parseOpening reads a record. It reports false for one that somebody else wrote, of
// which no session can be told: its end could never be published.
func parseOpening(v []byte) (o opening, ok bool) {
	ok = json.Unmarshal(v, &o) == nil && session.Validate(o.Session) == nil
	return o, ok
}

// openingKey is where the record of an opening is kept.
func openingKey(lease, id string) string { return leasePrefix + lease + "." + id }

// splitOpeningKey is openingKey backwards; id is "" for the key of a lease itself.
func splitOpeningKey(key string) (lease, id string) {
	lease, id, _ = strings.Cut(strings.TrimPrefix(key, leasePrefix), ".")
	return lease, id
}

func (s *Session) key() string { return openingKey(s.b.lease.id, s.opening) }

// enrol writes the record.
func (s *Session) enrol(ctx context.Context) error {
	v, err := json.Marshal(opening{Session: s.id, Service: s.b.cfg.Service, Host: s.b.host, Opened: s.opened})
	if err != nil {
		return err
	}
	_, err = s.b.tr.Store().Create(ctx, s.key(), v, 0)
	if errors.Is(err, transport.ErrExists) { // an earlier try, whose answer was lost
		return nil
	}
	return err
}

// strike deletes the record.
func (s *Session) strike(ctx context.Context) error {
	return s.b.tr.Store().Delete(ctx, s.key(), 0)
}

// SessionInfo is an open session, as Sessions lists it.
type SessionInfo struct {
	// ID is the session's id. A session that is open in several processes is
	// listed once for each; Opening tells them apart.
	ID, Opening string
	// Process tells the bus that opened it from every other; Service and Host
	// are its names.
	Process, Service, Host string
	// Opened is when, by the clock of that process, and Age how long ago, by this
	// one's.
	Opened time.Time
	Age    time.Duration
}

// Sessions lists the sessions that are open, in this process and in every other
// that shares the transport, oldest first. A session whose process has died is
// listed until its lease has ended. It asks the transport, so it is for people and
// for gauges, not for every message.
func (b *Bus) Sessions(ctx context.Context) ([]SessionInfo, error) {
	const op = "sessions"
	if err := b.open(ctx, op, ""); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.PublishTimeout)
	defer cancel()
	entries, err := snapshot(ctx, b.tr.Store(), strings.TrimSuffix(leasePrefix, "."))
	if err != nil {
		return nil, fromTransport(op, "", "", err)
	}
	live := map[string]bool{}
	for _, e := range entries {
		if lease, id := splitOpeningKey(e.Key); id == "" {
			live[lease] = true
		}
	}
	var all []SessionInfo
	for _, e := range entries {
		lease, id := splitOpeningKey(e.Key)
		o, ok := parseOpening(e.Value)
		if id == "" || !live[lease] || !ok {
			continue
		}
		all = append(all, SessionInfo{
			ID: o.Session, Opening: id, Process: lease, Service: o.Service, Host: o.Host,
			Opened: o.Opened, Age: time.Since(o.Opened),
		})
	}
	slices.SortFunc(all, func(a, b SessionInfo) int {
		return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.Opening, b.Opening))
	})
	return all, nil
}

// snapshot returns the keys below prefix that are there now.
func snapshot(ctx context.Context, store transport.Store, prefix string) ([]transport.Entry, error) {
	src, err := store.Watch(ctx, prefix)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		_ = src.Close(ctx) // a watch that does not end has nothing to lose
	}()
	var all []transport.Entry
	for {
		e, err := src.Next(ctx)
		switch {
		case err != nil:
			return nil, err
		case e.Key == "":
			return all, nil
		case !e.Deleted:
			all = append(all, e)
		}
	}
}
