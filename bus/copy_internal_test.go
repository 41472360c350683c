package bus

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Who waits in a copy travels as a header, which anybody may write.
func FuzzQueued(f *testing.F) {
	for _, s := range []string{"", "a=0", "a=1,b=2!", "a=3!,b=0,c-d_e=9", "a", "a=", "=1", "a=x", "a=-1", "a=1!!", "A=1", "a=1,,b=1", "a=99999999999999999999", "a=1=2", "\xff=1",
		"a=1!@2026-11-27T21:12:29.123Z,b=2@2026-11-27T21:12:29+01:00", "a=1@", "a=1@0000-01-01T00:00:00+23:59", "a=1@1970-01-01T00:00:00+01:00", "a=1@9999-12-31T23:59:59.9999999-01:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := parseQueued(s)
		for _, w := range q {
			require.NoError(t, checkGroup(w.name))
			require.GreaterOrEqual(t, w.failed, 0)
		}
		require.Equal(t, q, parseQueued(q.String()), "what is written can be read")
		require.Len(t, q.names(), len(q))
	})
}
