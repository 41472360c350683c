package deadletter_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// watching collects what a Watch tells: ids, with how many were missed, and errors.
func watching(w *world.World, ctx context.Context, dl *bus.DeadLetters, f bus.DeadLetterFilter) (*world.Record[string], <-chan struct{}) {
	seen, ended := world.NewRecord[string](), make(chan struct{})
	go func() {
		defer close(ended)
		for news, err := range dl.Watch(ctx, f) {
			switch {
			case err != nil:
				seen.Add(string(bus.CodeOf(err)))
			case news.Missed > 0:
				seen.Add(fmt.Sprintf("%s after %d", news.ID, news.Missed))
			default:
				seen.Add(news.ID)
			}
		}
	}()
	world.Settle(time.Millisecond) // it has begun
	return seen, ended
}

func TestWatchDeadLetters(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		addNumbered(w, tr, 0, 3)
		ctx, cancel := context.WithCancel(w.Context())
		defer cancel()
		all, ended := watching(w, ctx, b.DeadLetters(), bus.DeadLetterFilter{})
		some, _ := watching(w, ctx, w.Bus(bus.Config{}).DeadLetters(), bus.DeadLetterFilter{Group: "other"})
		world.Settle(time.Minute)
		require.Empty(w, all.All(), "only what is new")

		addNumbered(w, tr, 3, 80) // more than a page
		require.Equal(w, numbered(3, 79), all.Wait(w, 77))
		other := letter(w, "other")
		other.Group = "other"
		add(w, tr, other)
		require.Equal(w, []string{"other"}, some.Wait(w, 1))
		world.Settle(time.Minute)
		require.Len(w, all.All(), 78)

		cancel()
		<-ended
		addNumbered(w, tr, 80, 81)
		world.Settle(time.Minute)
		require.Len(w, all.All(), 78)
	})
}

func TestWatchTellsWhatItMissed(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		addNumbered(w, tr, 0, 3)
		_, err := dl.Purge(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		seen, _ := watching(w, w.Context(), dl, bus.DeadLetterFilter{})
		gone := func(ids ...string) {
			for _, id := range ids {
				add(w, tr, letter(w, id))
				require.NoError(w, dl.Discard(w.Context(), id))
			}
		}
		add(w, tr, letter(w, "a"))
		gone("b", "c")
		add(w, tr, letter(w, "d"))
		require.Equal(w, []string{"a", "d after 2"}, seen.Wait(w, 2))
		world.Settle(500 * time.Millisecond) // between two looks
		gone("e")
		world.Settle(time.Minute)
		gone("f", "g")
		add(w, tr, letter(w, "h"), letter(w, "i"))
		require.Equal(w, []string{"h after 3", "i"}, seen.Wait(w, 4)[2:])
	})
}

// A loop that is slow loses nothing that is still there.
func TestWatchIsSlow(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		ctx, cancel := context.WithTimeout(w.Context(), time.Hour)
		defer cancel()
		time.AfterFunc(time.Minute, func() { addNumbered(w, tr, 0, 100) })
		var ids []string
		for news, err := range dl.Watch(ctx, bus.DeadLetterFilter{}) {
			require.NoError(w, err)
			require.Zero(w, news.Missed)
			ids = append(ids, news.ID)
			if len(ids) == 200 {
				break
			}
			if len(ids) == 50 {
				addNumbered(w, tr, 100, 200)
			}
			world.Settle(10 * time.Second)
		}
		require.Equal(w, numbered(0, 199), ids)
	})
}

func TestWatchGoesOnAfterErrors(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		for _, op := range []string{"dead stats", "dead list"} {
			tr.Set(world.Times(2, world.Failing(op, transport.ErrUnavailable)))
			ctx, cancel := context.WithCancel(w.Context())
			seen, ended := watching(w, ctx, b.DeadLetters(), bus.DeadLetterFilter{})
			seen.Wait(w, 2)
			world.Settle(time.Minute)
			add(w, tr.Transport, letter(w, "after-"+op[5:]))
			require.Equal(w, []string{"unavailable", "unavailable", "after-" + op[5:]}, seen.Wait(w, 3))
			if op == "dead list" {
				require.NoError(w, b.Close(w.Context()))
				<-ended
				require.Equal(w, "closed", seen.All()[3])
			}
			cancel()
			<-ended
		}

		// It asks in moderation, and can be left.
		tr = world.NewFaulty(w.Open())
		b = w.BusOn(tr, bus.Config{})
		tr.Set(world.Failing("dead stats", transport.ErrUnavailable))
		n := 0
		began := time.Now()
		for range b.DeadLetters().Watch(w.Context(), bus.DeadLetterFilter{}) {
			if n++; n == 10 {
				break
			}
		}
		require.GreaterOrEqual(w, time.Since(began), 9*time.Second)
		n = 0
		for _, err := range b.DeadLetters().Watch(w.Context(), bus.DeadLetterFilter{Kind: 9}) {
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			n++
		}
		require.Equal(w, 1, n)
	})
}
