package bus_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

func TestJournalEntryOnOneLine(t *testing.T) {
	hostile := "a\nb\x1b[31m\u202e\xff\u2028"
	e := bus.JournalEntry{
		Stage: bus.StageHandled, Kind: bus.KindEvent, Name: hostile, Group: hostile, Handler: hostile, ID: hostile, Session: hostile,
		CorrelationID: hostile + "2", CausationID: hostile, Key: hostile, Code: bus.Code(hostile), Err: hostile, Body: hostile, BodySize: len(hostile),
	}
	line := e.String()
	require.NotContains(t, line, "\n")
	for _, r := range line {
		require.True(t, unicode.IsPrint(r), "%q in %q", r, line)
	}
	require.Equal(t, 11, strings.Count(line, `a\nb\x1b[31m\u202e\xff\u2028`), line)
	require.Equal(t, "0001-01-01T00:00:00.000Z unknown unknown", bus.JournalEntry{}.String())
	require.Equal(t, `0001-01-01T00:00:00.000Z sent command user.create id="a b" session="c=\"d\"" code=busy`, bus.JournalEntry{
		Stage: bus.StageSent, Kind: bus.KindCommand, Name: "user.create", ID: "a b", CorrelationID: "a b", Session: `c="d"`, Code: bus.CodeBusy}.String())
}
