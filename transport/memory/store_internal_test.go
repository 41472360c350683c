package memory

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

// Renewals of a lease leave nothing behind.
func TestRenewalsDoNotPileUp(t *testing.T) {
	tr := New(Config{})
	defer tr.Close(t.Context())
	rev, err := tr.Store().Create(t.Context(), "lease", nil, time.Hour)
	require.NoError(t, err)
	for range 1000 {
		rev, err = tr.Store().Update(t.Context(), "lease", nil, rev, time.Hour)
		require.NoError(t, err)
	}
	require.Less(t, tr.store.expiring.len(), 100)
}

// What expires is bounded; what processes live by is not refused for it.
func TestStoreIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := New(Config{MaxStore: 10 * sizeOf("k0", make([]byte, 100))})
		defer tr.Close(context.Background())
		s, ctx, value := tr.Store(), context.Background(), make([]byte, 100)
		fill := func() (n int) {
			for ; ; n++ {
				_, err := s.Create(ctx, fmt.Sprint("k", n), value, time.Minute)
				if err != nil {
					require.ErrorIs(t, err, transport.ErrBacklog)
					return n
				}
			}
		}
		require.Equal(t, 10, fill())
		rev, err := s.Create(ctx, "lease", value, 0)
		require.NoError(t, err)
		require.NoError(t, s.Delete(ctx, "lease", rev))
		e, err := s.Get(ctx, "k3")
		require.NoError(t, err)
		_, err = s.Update(ctx, "k3", make([]byte, 300), e.Revision, time.Minute)
		require.NoError(t, err, "what is there may be replaced")
		require.NoError(t, s.Delete(ctx, "k0", 0))
		require.NoError(t, s.Delete(ctx, "k1", 0))
		_, err = s.Create(ctx, "k0", nil, time.Minute)
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		tr.store.mu.Lock()
		size := tr.store.size
		tr.store.mu.Unlock()
		require.Zero(t, size)
		require.Equal(t, 10, fill())
	})
}
