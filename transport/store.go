package transport

import (
	"context"
	"time"
)

// Store is a small replicated map for what processes must agree on: who owns a
// command, which process lives, what was run. Keys are dotted tokens of
// [A-Za-z0-9_=-]; values are a few kilobytes at most. A ttl of zero keeps the key until
// it is deleted; other TTLs are rounded up to whole seconds and start again
// with each Create and Update.
type Store interface {
	// Create writes a key that is not there. ErrExists: it is. ErrBacklog: there is no
	// room for it.
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (revision uint64, err error)
	// Get reads a key. ErrNotFound: it is not there, was deleted or expired.
	Get(ctx context.Context, key string) (Entry, error)
	// Update writes a key whose revision is still the one given. ErrConflict:
	// it has another, or is gone. In the last second before a key expires the new
	// value may be removed in place of the old one: update in time, or wait for the
	// end and Create.
	Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error)
	// Delete removes a key whose revision is still the one given, or whatever
	// its revision if that is 0. ErrConflict: it has another. Deleting a key
	// that is not there returns nil.
	Delete(ctx context.Context, key string, revision uint64) error
	// Watch yields the keys below prefix (whole tokens: "a.b" covers "a.b" and
	// "a.b.c"; "" covers all), first those that are there, then one zero Entry, then each
	// change as it happens, expiry included. A slow watcher may miss all but the
	// last change of a key, and a key that came and went.
	Watch(ctx context.Context, prefix string) (Source[Entry], error)
}

// Entry is one key of a Store.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
	// Deleted: the key was deleted or expired; it has no value.
	Deleted bool
}
