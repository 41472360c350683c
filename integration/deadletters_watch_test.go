package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// watching collects what a Watch tells: ids, with how many were missed, and errors.
func (w *world) watching(ctx context.Context, dl *bus.DeadLetters, f bus.DeadLetterFilter) (*record[string], <-chan struct{}) {
	seen, ended := newRecord[string](), make(chan struct{})
	go func() {
		defer close(ended)
		for news, err := range dl.Watch(ctx, f) {
			switch {
			case err != nil:
				seen.add(string(bus.CodeOf(err)))
			case news.Missed > 0:
				seen.add(fmt.Sprintf("%s after %d", news.ID, news.Missed))
			default:
				seen.add(news.ID)
			}
		}
	}()
	settle(time.Millisecond) // it has begun
	return seen, ended
}

func TestWatchDeadLetters(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		w.addNumbered(tr, 0, 3)
		ctx, cancel := context.WithCancel(w.Context())
		defer cancel()
		all, ended := w.watching(ctx, b.DeadLetters(), bus.DeadLetterFilter{})
		some, _ := w.watching(ctx, w.bus(bus.Config{}).DeadLetters(), bus.DeadLetterFilter{Group: "other"})
		settle(time.Minute)
		require.Empty(w, all.all(), "only what is new")

		w.addNumbered(tr, 3, 80) // more than a page
		require.Equal(w, numbered(3, 79), all.wait(w, 77))
		other := w.letter("other")
		other.Group = "other"
		w.add(tr, other)
		require.Equal(w, []string{"other"}, some.wait(w, 1))
		settle(time.Minute)
		require.Len(w, all.all(), 78)

		cancel()
		<-ended
		w.addNumbered(tr, 80, 81)
		settle(time.Minute)
		require.Len(w, all.all(), 78)
	})
}

func TestWatchTellsWhatItMissed(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		dl := w.busOn(tr, bus.Config{}).DeadLetters()
		w.addNumbered(tr, 0, 3)
		_, err := dl.Purge(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		seen, _ := w.watching(w.Context(), dl, bus.DeadLetterFilter{})
		gone := func(ids ...string) {
			for _, id := range ids {
				w.add(tr, w.letter(id))
				require.NoError(w, dl.Discard(w.Context(), id))
			}
		}
		w.add(tr, w.letter("a"))
		gone("b", "c")
		w.add(tr, w.letter("d"))
		require.Equal(w, []string{"a", "d after 2"}, seen.wait(w, 2))
		settle(500 * time.Millisecond) // between two looks
		gone("e")
		settle(time.Minute)
		gone("f", "g")
		w.add(tr, w.letter("h"), w.letter("i"))
		require.Equal(w, []string{"h after 3", "i"}, seen.wait(w, 4)[2:])
	})
}

// A loop that is slow loses nothing that is still there.
func TestWatchIsSlow(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		dl := w.busOn(tr, bus.Config{}).DeadLetters()
		ctx, cancel := context.WithTimeout(w.Context(), time.Hour)
		defer cancel()
		time.AfterFunc(time.Minute, func() { w.addNumbered(tr, 0, 100) })
		var ids []string
		for news, err := range dl.Watch(ctx, bus.DeadLetterFilter{}) {
			require.NoError(w, err)
			require.Zero(w, news.Missed)
			ids = append(ids, news.ID)
			if len(ids) == 200 {
				break
			}
			if len(ids) == 50 {
				w.addNumbered(tr, 100, 200)
			}
			settle(10 * time.Second)
		}
		require.Equal(w, numbered(0, 199), ids)
	})
}

func TestWatchGoesOnAfterErrors(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		for _, op := range []string{"dead stats", "dead list"} {
			tr.set(times(2, failing(op, transport.ErrUnavailable)))
			ctx, cancel := context.WithCancel(w.Context())
			seen, ended := w.watching(ctx, b.DeadLetters(), bus.DeadLetterFilter{})
			seen.wait(w, 2)
			settle(time.Minute)
			w.add(tr.Transport, w.letter("after-"+op[5:]))
			require.Equal(w, []string{"unavailable", "unavailable", "after-" + op[5:]}, seen.wait(w, 3))
			if op == "dead list" {
				require.NoError(w, b.Close(w.Context()))
				<-ended
				require.Equal(w, "closed", seen.all()[3])
			}
			cancel()
			<-ended
		}

		// It asks in moderation, and can be left.
		tr = newFaulty(w.open())
		b = w.busOn(tr, bus.Config{})
		tr.set(failing("dead stats", transport.ErrUnavailable))
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
