package bus_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// A strategy is a word in JSON.
func TestStrategyText(t *testing.T) {
	words := []string{"block", "drop oldest", "reject new", "adaptive rate limit"}
	for i, word := range words {
		s := bus.Strategy(i)
		require.Equal(t, word, s.String())
		text, err := json.Marshal(bus.QueueStats{Strategy: s})
		require.NoError(t, err)
		var back bus.QueueStats
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, s, back.Strategy)
		require.Contains(t, string(text), `"strategy":"`+word+`"`)
	}
	require.Equal(t, "strategy 4", bus.Strategy(len(words)).String())
	require.Error(t, new(bus.Strategy).UnmarshalText([]byte("strategy 4")))
}
