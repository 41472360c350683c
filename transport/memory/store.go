package memory

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// store is a map with revisions and expiry.
type store struct {
	t        *Transport
	mu       sync.Mutex
	keys     map[string]*record
	rev      uint64
	size     int            // of keys, in bytes
	expiring later[*record] // records may be gone or replaced by now
	expiry   alarm
	watchers map[*watcher]struct{}
	closed   bool
}

// record is one state of a key. It does not change; an update makes a new one.
type record struct {
	entry   transport.Entry
	expires time.Duration // 0: never
}

// sizeOf is about what a key takes in memory.
func sizeOf(key string, value []byte) int { return len(key) + len(value) + 256 }

func (r *record) size() int {
	if r == nil {
		return 0
	}
	return sizeOf(r.entry.Key, r.entry.Value)
}

func checkKey(key string) error {
	ok := func(c byte) bool { return lower(c) || c >= 'A' && c <= 'Z' || c == '=' }
	if !tokens(key, '.', ok) {
		return fmt.Errorf("key %q: use dotted tokens of [A-Za-z0-9_=-]: %w", key, transport.ErrInvalid)
	}
	return nil
}

// lock begins a call; without an error the caller unlocks.
func (s *store) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return transport.ErrClosed
	}
	return nil
}

// put writes a key and tells the watchers.
func (s *store) put(key string, value []byte, ttl time.Duration) uint64 {
	s.rev++
	r := &record{entry: transport.Entry{Key: key, Value: bytes.Clone(value), Revision: s.rev}}
	old := s.keys[key]
	was := old != nil
	s.size += r.size() - old.size()
	s.keys[key] = r
	if ttl > 0 {
		now := s.t.now()
		whole := ttl.Truncate(time.Second)
		if whole < ttl {
			whole = after(whole, time.Second)
		}
		r.expires = after(now, whole)
		s.expiring.add(r.expires, r)
		s.expiry.setFor(r.expires, now)
		s.compact()
	}
	s.tell(r.entry, was)
	return s.rev
}

// compact keeps renewals from piling up in expiring.
func (s *store) compact() {
	if s.expiring.len() < 2*len(s.keys)+64 {
		return
	}
	var kept later[*record]
	for _, x := range s.expiring.items {
		if s.keys[x.value.entry.Key] == x.value {
			kept.add(x.at, x.value)
		}
	}
	s.expiring = kept
}

func (s *store) drop(key string) {
	s.rev++
	s.size -= s.keys[key].size()
	delete(s.keys, key)
	s.tell(transport.Entry{Key: key, Revision: s.rev, Deleted: true}, true)
}

// expire drops what is over.
func (s *store) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiry.set = false
	if s.closed {
		return
	}
	now := s.t.now()
	for r, ok := s.expiring.take(now); ok; r, ok = s.expiring.take(now) {
		if s.keys[r.entry.Key] == r {
			s.drop(r.entry.Key)
		}
	}
	if at, ok := s.expiring.first(); ok {
		s.expiry.setFor(at, now)
	}
}

func (s *store) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	if s.keys[key] != nil {
		return 0, fmt.Errorf("key %q: %w", key, transport.ErrExists)
	}
	if limit := s.t.cfg.MaxStore; ttl > 0 && s.size+sizeOf(key, value) > limit {
		return 0, fmt.Errorf("key %q: the store is full, see memory.Config.MaxStore (%d): %w", key, limit, transport.ErrBacklog)
	}
	return s.put(key, value, ttl), nil
}

func (s *store) Get(ctx context.Context, key string) (transport.Entry, error) {
	if err := checkKey(key); err != nil {
		return transport.Entry{}, err
	}
	if err := s.lock(ctx); err != nil {
		return transport.Entry{}, err
	}
	r := s.keys[key]
	s.mu.Unlock()
	if r == nil {
		return transport.Entry{}, fmt.Errorf("key %q: %w", key, transport.ErrNotFound)
	}
	return copyEntry(r.entry), nil
}

func copyEntry(e transport.Entry) transport.Entry {
	e.Value = bytes.Clone(e.Value)
	return e
}

func (s *store) Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	if r := s.keys[key]; r == nil {
		return 0, fmt.Errorf("key %q is gone: %w", key, transport.ErrConflict)
	} else if r.entry.Revision != revision {
		return 0, fmt.Errorf("key %q has revision %d, not %d: %w", key, r.entry.Revision, revision, transport.ErrConflict)
	}
	return s.put(key, value, ttl), nil
}

func (s *store) Delete(ctx context.Context, key string, revision uint64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	r := s.keys[key]
	if r == nil {
		return nil
	}
	if revision != 0 && r.entry.Revision != revision {
		return fmt.Errorf("key %q has revision %d, not %d: %w", key, r.entry.Revision, revision, transport.ErrConflict)
	}
	s.drop(key)
	return nil
}

func (s *store) close() {
	s.mu.Lock()
	s.closed = true
	s.expiry.stop()
	var ws []*waiter
	for w := range s.watchers {
		ws = w.waiting.takeAll(nil, ws...)
	}
	s.mu.Unlock()
	for _, w := range ws {
		w.signal()
	}
}
