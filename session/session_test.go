package session_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/session"
)

func TestValidate(t *testing.T) {
	for _, id := range []string{
		"import-42", ".", "*", ">", "a b", "job:2026/11/23", "\x00", "käse 🧀", strings.Repeat("x", session.MaxLen),
	} {
		require.NoError(t, session.Validate(id), "%q", id)
	}
	for id, rule := range map[string]string{
		"":                                    "empty",
		"a\xff":                               "UTF-8",
		strings.Repeat("x", session.MaxLen+1): "at most 128",
	} {
		err := session.Validate(id)
		require.ErrorIs(t, err, session.ErrInvalid, "%q", id)
		require.ErrorContains(t, err, rule)
	}
}

func FuzzValidate(f *testing.F) {
	for _, id := range []string{"", "a", "\xff", strings.Repeat("ü", 64), strings.Repeat("ü", 65)} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		legal := id != "" && len(id) <= session.MaxLen && utf8.ValidString(id)
		if err := session.Validate(id); legal != (err == nil) {
			t.Fatalf("%q: %v", id, err)
		}
	})
}
