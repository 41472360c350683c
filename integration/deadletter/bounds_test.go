package deadletter_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	servers "github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// bounded runs f over both drivers with room for so many dead letters; log is theirs.
func bounded(t *testing.T, limit int, drop bool, f func(w *world.World, log *world.SyncBuffer)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := new(world.SyncBuffer)
			tr := memory.New(memory.Config{MaxDeadLetters: limit, DropDeadLetters: drop, Logger: slog.New(slog.NewTextHandler(log, nil))})
			t.Cleanup(func() { require.NoError(t, tr.Close(context.Background())) })
			f(world.New(t, func(context.Context) (transport.Transport, error) { return world.Shared{Transport: tr}, nil }), log)
		})
	})
	t.Run("nats", func(t *testing.T) {
		servers.Bubble(t, func(t *testing.T, s *embedded.Server) {
			log := new(world.SyncBuffer)
			f(world.New(t, func(ctx context.Context) (transport.Transport, error) {
				return nats.Open(ctx, nats.Config{Server: s, DeadLetterMaxMessages: int64(limit), DropDeadLetters: drop, Logger: slog.New(slog.NewTextHandler(log, nil))})
			}), log)
		})
	})
}

// Full dead letters refuse: the events stay with their group, and are dead letters when
// there is room.
func TestFullDeadLettersKeepTheEvents(t *testing.T) {
	const limit, events = 3, 8
	bounded(t, limit, false, func(w *world.World, _ *world.SyncBuffer) {
		b := w.Bus(bus.Config{})
		dl := b.DeadLetters()
		f := newUnsteady()
		listen(w, b, f)
		for range events {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		world.Settle(10 * time.Minute)
		stats := func() bus.DeadLetterStats {
			st, err := dl.Stats(w.Context())
			require.NoError(w, err)
			return st
		}
		st := stats()
		require.Equal(w, []any{limit, limit, false, uint64(0)}, []any{st.Count, st.Max, st.DropOldest, st.Dropped})
		require.Greater(w, len(f.seen.All()), events, "the others are tried again")
		seen := map[string]bool{}
		for range events {
			for l, err := range dl.All(w.Context(), bus.DeadLetterQuery{}) {
				require.NoError(w, err)
				require.False(w, seen[l.MessageID], "each once")
				seen[l.MessageID] = true
				require.Equal(w, "oops", l.Err)
				require.NoError(w, dl.Discard(w.Context(), l.ID))
			}
			world.Settle(time.Minute)
		}
		require.Len(w, seen, events, "none is lost")
		runs := len(f.seen.All())
		world.Settle(time.Hour)
		require.Len(w, f.seen.All(), runs, "and all are settled")
		require.Zero(w, stats().Count)
	})
}

// Or the oldest makes room, which is counted and logged.
func TestFullDeadLettersDropTheOldest(t *testing.T) {
	const limit, events = 3, 8
	bounded(t, limit, true, func(w *world.World, log *world.SyncBuffer) {
		b := w.Bus(bus.Config{})
		f := newUnsteady()
		listen(w, b, f, bus.WithConcurrency(1))
		for i := range events {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID(string(rune('a'+i)))))
		}
		world.Settle(10 * time.Minute)
		st, err := b.DeadLetters().Stats(w.Context())
		require.NoError(w, err)
		require.Equal(w, []any{limit, limit, true, uint64(events - limit)}, []any{st.Count, st.Max, st.DropOldest, st.Dropped})
		require.Equal(w, events-limit, strings.Count(log.String(), "dead letters full, dropped the oldest"))
		page, err := b.DeadLetters().List(w.Context(), bus.DeadLetterQuery{})
		require.NoError(w, err)
		for i, l := range page.Letters {
			require.Equal(w, string(rune('a'+events-limit+i)), l.MessageID)
		}
		require.Len(w, f.seen.All(), events)
	})
}
