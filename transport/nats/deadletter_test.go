package nats_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
)

// In real time: a server in a bubble counts ages by the clock outside.
func TestDeadLettersAge(t *testing.T) {
	s := natstest.Server(t)
	dead := open(t, nats.Config{URL: s.URL(), DeadLetterMaxAge: time.Second}).DeadLetters()
	require.NoError(t, dead.Add(t.Context(), &transport.DeadLetter{
		ID: "a", Kind: "event", Message: &transport.Message{To: transport.Address{Name: "user.created"}},
	}))
	st, err := dead.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, time.Second, st.MaxAge)
	require.WithinDuration(t, time.Now(), st.Oldest, time.Minute)
	require.Eventually(t, func() bool {
		st, err := dead.Stats(t.Context())
		return err == nil && st.Count == 0 && st.Oldest.IsZero() && st.Last == 1
	}, 20*time.Second, 50*time.Millisecond)
}
