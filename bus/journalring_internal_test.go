package bus

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/codec"
)

// What the ring does when it goes round between two steps of a writer or a reader.
func TestJournalSlotOfAnotherRound(t *testing.T) {
	j := newJournal(JournalConfig{Size: 2}, codec.Set{})
	for range 3 {
		j.add(Record{Stage: StageSent, Name: "a"})
	}
	_, ok := j.slots[1].get(1, &JournalQuery{})
	require.False(t, ok, "record 3 has its place")
	e, ok := j.slots[1].get(3, &JournalQuery{})
	require.True(t, ok)
	require.Equal(t, uint64(3), e.Number)

	j.last.Store(0) // the writer of record 1 was slow
	j.add(Record{Stage: StageHandled, Name: "b"})
	e, ok = j.slots[1].get(3, &JournalQuery{})
	require.True(t, ok)
	require.Equal(t, "a", e.Name)
}
