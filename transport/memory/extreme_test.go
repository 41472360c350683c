package memory_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Times that no clock reaches hold up nothing that is due before.

func TestFarDeliverAt(t *testing.T) {
	inBubble(t, memory.Config{}, func(t *testing.T, tr *memory.Transport) {
		src := subscribe(t, tr, transport.Subscription{Group: "g"})
		time.Sleep(time.Second)
		far, near := event("far"), event("near")
		far.DeliverAt = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
		near.DeliverAt = time.Now().Add(time.Minute)
		began := time.Now()
		require.NoError(t, tr.Publish(t.Context(), far, near))
		require.Equal(t, []string{"near"}, ids(t, src, 1))
		require.Equal(t, time.Minute, time.Since(began))
		require.Equal(t, 1, tr.Stats().Events, "the other waits")
	})
}

func TestFarNak(t *testing.T) {
	for _, group := range []string{"g", ""} {
		inBubble(t, memory.Config{}, func(t *testing.T, tr *memory.Transport) {
			src := subscribe(t, tr, transport.Subscription{Group: group})
			time.Sleep(time.Second)
			began := time.Now()
			require.NoError(t, tr.Publish(t.Context(), event("far"), event("near")))
			require.NoError(t, next(t, src).Nak(t.Context(), math.MaxInt64))
			require.NoError(t, next(t, src).Nak(t.Context(), time.Minute))
			require.Equal(t, []string{"near"}, ids(t, src, 1))
			require.Equal(t, time.Minute, time.Since(began))
		})
	}
}

func TestFarAckWait(t *testing.T) {
	inBubble(t, memory.Config{}, func(t *testing.T, tr *memory.Transport) {
		src := subscribe(t, tr, transport.Subscription{Group: "g", AckWait: math.MaxInt64})
		time.Sleep(time.Second)
		require.NoError(t, tr.Publish(t.Context(), event("held"), event("again")))
		d := next(t, src)
		require.NoError(t, next(t, src).Nak(t.Context(), time.Minute))
		require.Equal(t, []string{"again"}, ids(t, src, 1))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.True(t, d.Lease().After(time.Now()))
		require.NoError(t, d.Ack(t.Context()))
	})
}

func TestFarTTL(t *testing.T) {
	inBubble(t, memory.Config{}, func(t *testing.T, tr *memory.Transport) {
		time.Sleep(time.Second)
		for key, ttl := range map[string]time.Duration{"longest": math.MaxInt64, "long": math.MaxInt64 - time.Hour, "short": time.Minute} {
			_, err := tr.Store().Create(t.Context(), key, nil, ttl)
			require.NoError(t, err)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		for _, key := range []string{"longest", "long"} {
			_, err := tr.Store().Get(t.Context(), key)
			require.NoError(t, err, key)
		}
		_, err := tr.Store().Get(t.Context(), "short")
		require.ErrorIs(t, err, transport.ErrNotFound)
	})
}

// The time that Publish waits for room is part of the delay.
func TestDelayRunsWhileBlocked(t *testing.T) {
	inBubble(t, memory.Config{MaxEvents: 1}, func(t *testing.T, tr *memory.Transport) {
		src := subscribe(t, tr, transport.Subscription{Group: "g", AckWait: 10 * time.Hour})
		for _, blocked := range []time.Duration{50 * time.Minute, 2 * time.Hour} {
			require.NoError(t, tr.Publish(t.Context(), event("first "+blocked.String())))
			d := next(t, src)
			began := time.Now()
			m := event("later " + blocked.String())
			m.DeliverAt = began.Add(time.Hour)
			published := make(chan error, 1)
			go func() { published <- tr.Publish(t.Context(), m) }()
			time.Sleep(blocked)
			require.NoError(t, d.Ack(t.Context()))
			require.NoError(t, <-published)
			require.Equal(t, []string{m.ID}, ids(t, src, 1))
			require.Equal(t, max(time.Hour, blocked), time.Since(began))
		}
	})
}
