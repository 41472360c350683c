package world

import (
	"bytes"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Record collects what handlers saw. It is safe for concurrent use.
type Record[T any] struct {
	mu    sync.Mutex
	items []T
	added chan struct{}
}

// NewRecord returns a record with room for 10,000 items.
func NewRecord[T any]() *Record[T] { return &Record[T]{added: make(chan struct{}, 10_000)} }

// Add appends v.
func (r *Record[T]) Add(v T) {
	r.mu.Lock()
	r.items = append(r.items, v)
	r.mu.Unlock()
	r.added <- struct{}{}
}

// Wait returns what was collected once there are n, within a minute.
func (r *Record[T]) Wait(t testing.TB, n int) []T {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		if all := r.All(); len(all) >= n {
			return all
		}
		select {
		case <-r.added:
		case <-timeout:
			require.Failf(t, "timeout", "%d of %d seen: %v", len(r.All()), n, r.All())
		}
	}
}

// All returns what was collected so far.
func (r *Record[T]) All() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]T(nil), r.items...)
}

// Reset forgets what was collected.
func (r *Record[T]) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = nil
}

// HeapInUse returns how many bytes live on the heap after a collection.
func HeapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// SyncBuffer is a bytes.Buffer that may be read while others write.
type SyncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *SyncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *SyncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
