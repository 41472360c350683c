package memory_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// unread is an event of a name that nobody reads.
func unread(id string) *transport.Message {
	return &transport.Message{To: transport.Address{Name: "b.done"}, ID: id, Value: id}
}

// publishBeside publishes each event from a goroutine of its own, which is
// blocked when it returns.
func publishBeside(t *testing.T, tr *memory.Transport, ms ...*transport.Message) <-chan error {
	done := make(chan error, len(ms))
	for _, m := range ms {
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			done <- tr.Publish(ctx, m)
		}()
		synctest.Wait()
	}
	require.Empty(t, done, "the log is full")
	return done
}

func requirePublished(t *testing.T, done <-chan error) {
	t.Helper()
	began := time.Now()
	for range cap(done) {
		require.NoError(t, <-done)
	}
	require.Zero(t, time.Since(began), "blocked while there was room")
}

// Room that a publisher was woken for and did not use goes to the next.
func TestRoomIsHandedOn(t *testing.T) {
	for name, blocked := range map[string][]*transport.Message{
		"nobody reads it": {unread("1"), unread("2"), unread("3")},
		"duplicates":      {event("x"), event("x"), event("x"), event("y")},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, memory.Config{MaxEvents: 2}, func(t *testing.T, tr *memory.Transport) {
				src := subscribe(t, tr, transport.Subscription{Group: "g"})
				require.NoError(t, tr.Publish(t.Context(), event("1"), event("2")))
				done := publishBeside(t, tr, blocked...)
				require.Equal(t, []string{"1", "2"}, ids(t, src, 2))
				requirePublished(t, done)
			})
		})
	}
}

// One settlement is enough for any number of events that take no room.
func TestOneSettlementIsEnough(t *testing.T) {
	inBubble(t, memory.Config{MaxEvents: 2}, func(t *testing.T, tr *memory.Transport) {
		src := subscribe(t, tr, transport.Subscription{Group: "g"})
		require.NoError(t, tr.Publish(t.Context(), event("1"), event("2")))
		done := publishBeside(t, tr, unread("1"), unread("2"), unread("3"))
		require.Equal(t, []string{"1"}, ids(t, src, 1))
		requirePublished(t, done)
	})
}

// A delayed event that nobody reads when it is due makes room.
func TestDueMakesRoom(t *testing.T) {
	inBubble(t, memory.Config{MaxEvents: 2}, func(t *testing.T, tr *memory.Transport) {
		subscribe(t, tr, transport.Subscription{Group: "g"})
		for _, id := range []string{"1", "2"} {
			m := unread(id)
			m.DeliverAt = time.Now().Add(time.Second)
			require.NoError(t, tr.Publish(t.Context(), m))
		}
		done := publishBeside(t, tr, event("1"), event("2"))
		time.Sleep(time.Second)
		requirePublished(t, done)
	})
}

// What is addressed to a group waits for it, also for one that has yet to come.
func TestGroupThatNeverCame(t *testing.T) {
	inBubble(t, memory.Config{MaxEvents: 2}, func(t *testing.T, tr *memory.Transport) {
		subscribe(t, tr, transport.Subscription{Group: "g"})
		for _, id := range []string{"1", "2"} {
			m := event(id)
			m.To.Group = "absent"
			require.NoError(t, tr.Publish(t.Context(), m))
		}
		time.Sleep(30 * 24 * time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := tr.Publish(ctx, event("3"))
		var full *transport.BacklogError
		require.ErrorAs(t, err, &full)
		require.Equal(t, "absent", full.Group, "it says who is missing")
		require.Equal(t, []string{"1", "2"}, ids(t, subscribe(t, tr, transport.Subscription{Group: "absent"}), 2))
		require.NoError(t, tr.Publish(t.Context(), event("3")))
	})
}
