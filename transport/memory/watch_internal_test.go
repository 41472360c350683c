package memory

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

// A watcher that nobody reads is as large as the store and what it told before.
func TestUnreadWatcherIsBounded(t *testing.T) {
	tr := New(Config{})
	defer tr.Close(t.Context())
	s := tr.Store()
	src, err := s.Watch(t.Context(), "")
	require.NoError(t, err)
	w := src.(*watcher)
	change := func() transport.Entry {
		x, err := w.Next(t.Context())
		require.NoError(t, err)
		return x
	}
	require.Zero(t, change())

	_, err = s.Create(t.Context(), "told", []byte("1"), 0)
	require.NoError(t, err)
	require.Equal(t, "told", change().Key)
	for i := range 1000 {
		for _, key := range []string{fmt.Sprintf("k.%d", i), "again"} {
			_, err := s.Create(t.Context(), key, nil, 0)
			require.NoError(t, err)
			require.NoError(t, s.Delete(t.Context(), key, 0))
		}
	}
	require.Zero(t, w.changes.Len())
	require.Empty(t, w.unread)

	for range 10 { // what was told is gone, and back, and gone
		require.NoError(t, s.Delete(t.Context(), "told", 0))
		require.Equal(t, 1, w.changes.Len())
		_, err = s.Create(t.Context(), "told", []byte("2"), 0)
		require.NoError(t, err)
	}
	require.NoError(t, s.Delete(t.Context(), "told", 0))
	require.Equal(t, 1, w.changes.Len())
	x := change()
	require.True(t, x.Deleted)
	require.Equal(t, "told", x.Key)
	require.Zero(t, w.changes.Len())

	_, err = s.Create(t.Context(), "left", nil, 0)
	require.NoError(t, err)
	require.NoError(t, w.Close(t.Context()))
	require.Zero(t, w.changes.Len(), "a closed one holds nothing")
}
