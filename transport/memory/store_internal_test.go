package memory

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
