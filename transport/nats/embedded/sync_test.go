package embedded

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// What SyncAlways does shows only when the power fails; here, that it reaches
// the part of the server that writes, also when its limits are left open.
func TestSyncAlwaysReachesTheStore(t *testing.T) {
	for _, cfg := range []Config{
		{Dir: t.TempDir()},
		{Dir: t.TempDir(), SyncAlways: true},
		{Dir: t.TempDir(), SyncAlways: true, MaxMemory: 1 << 20, MaxStore: 1 << 20},
	} {
		s, err := Start(cfg)
		require.NoError(t, err)
		js := s.ns.JetStreamConfig()
		require.NoError(t, s.Shutdown(context.Background()))
		require.Equal(t, cfg.SyncAlways, js.SyncAlways)
	}
}
