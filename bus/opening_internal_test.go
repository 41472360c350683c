package bus

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/session"
)

// A record of an opening that is believed has an id that a session may have.
func FuzzOpening(f *testing.F) {
	for _, s := range []string{"", "null", "{}", `{"session":"a"}`, `{"session":"\ud800"}`, `{"session":"a","opened":"x"}`, "[", "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		if o, ok := parseOpening(v); ok {
			require.NoError(t, session.Validate(o.Session))
		}
	})
}
