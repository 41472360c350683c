package bus

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A history is what the bus wrote, or it is none: short text can be very many
// failures.
func TestParseHistoryIsBounded(t *testing.T) {
	var all []Failure
	for range 20 {
		all = append(all, Failure{
			Code: CodeFailed, Err: strings.Repeat("\x00", 1000), Attempts: 1 << 30, Time: time.Now(),
			Service: strings.Repeat("s", 64), Host: strings.Repeat("h", 64), Edited: true,
		})
		require.NotEmpty(t, parseHistory(formatHistory(all)))
	}
	require.Nil(t, parseHistory("["+strings.Repeat("{},", 8)+"{}]"))
	require.Nil(t, parseHistory("["+strings.Repeat(" ", 4*maxHeaderValue)+"]"))
}

// What the bus reads from a header it wrote itself is never more than it writes, and
// what it read it can write again.
func FuzzHistory(f *testing.F) {
	for _, s := range []string{
		"", "[]", "null", "{}", "[{}]", `[{"code":"failed","err":"e","attempts":3,"time":"2026-01-01T00:00:00Z"}]`,
		`[{"attempts":1e99}]`, `[{"time":"9999-12-31T23:59:59+23:59"}]`, `[{"err":"\u0000\ud800"}]`, "[[[[", "\xff", `[{"attempts":-1}]`,
		"[" + strings.Repeat("{},", 20) + "{}]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all := parseHistory(s)
		require.LessOrEqual(t, len(all), maxHistory)
		if len(all) == 0 {
			return
		}
		text := formatHistory(append(all, Failure{Code: CodeFailed}))
		again := parseHistory(text)
		require.NotEmpty(t, again, "%q", text)
		require.Equal(t, CodeFailed, again[len(again)-1].Code)
	})
}
