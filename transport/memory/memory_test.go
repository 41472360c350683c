package memory_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// inBubble runs f on fake time with a transport that is closed afterwards.
func inBubble(t *testing.T, c memory.Config, f func(t *testing.T, tr *memory.Transport)) {
	synctest.Test(t, func(t *testing.T) {
		tr := memory.New(c)
		defer tr.Close(context.Background())
		f(t, tr)
	})
}

func event(text string) *transport.Message {
	return &transport.Message{To: transport.Address{Name: "a.done"}, ID: text, Value: text}
}

func subscribe(t *testing.T, tr *memory.Transport, s transport.Subscription) transport.Source[transport.Delivery] {
	t.Helper()
	s.Name = "a.done"
	src, err := tr.Subscribe(t.Context(), s)
	require.NoError(t, err)
	return src
}

func next(t *testing.T, src transport.Source[transport.Delivery]) transport.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	d, err := src.Next(ctx)
	require.NoError(t, err)
	return d
}

func ids(t *testing.T, src transport.Source[transport.Delivery], n int) (got []string) {
	t.Helper()
	for range n {
		d := next(t, src)
		got = append(got, d.Message().ID)
		require.NoError(t, d.Ack(t.Context()))
	}
	return got
}

func TestValuesPassByReference(t *testing.T) {
	inBubble(t, memory.Config{}, func(t *testing.T, tr *memory.Transport) {
		require.True(t, tr.InProcess())
		require.Nil(t, tr.Codec())
		src := subscribe(t, tr, transport.Subscription{Group: "g"})
		value := &struct{ n int }{7}
		require.NoError(t, tr.Publish(t.Context(), &transport.Message{To: transport.Address{Name: "a.done"}, Value: value}))
		require.Same(t, value, next(t, src).Message().Value)
	})
}

func TestCodecLeavesValuesBehind(t *testing.T) {
	inBubble(t, memory.Config{Codec: codec.JSON}, func(t *testing.T, tr *memory.Transport) {
		require.False(t, tr.InProcess())
		require.Equal(t, codec.JSON, tr.Codec())
		src := subscribe(t, tr, transport.Subscription{Group: "g"})
		m := event("x")
		m.Body = []byte("body")
		require.NoError(t, tr.Publish(t.Context(), m))
		got := next(t, src).Message()
		require.Nil(t, got.Value)
		require.Equal(t, "body", string(got.Body))
	})
}

func TestFullLogWaitsForRoom(t *testing.T) {
	inBubble(t, memory.Config{MaxEvents: 3}, func(t *testing.T, tr *memory.Transport) {
		slow := subscribe(t, tr, transport.Subscription{Group: "slow"})
		quick := subscribe(t, tr, transport.Subscription{Group: "quick"})
		for i := range 3 {
			require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint(i))))
			require.Equal(t, []string{fmt.Sprint(i)}, ids(t, quick, 1))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		err := tr.Publish(ctx, event("refused"), event("refused too"))
		require.Equal(t, time.Minute, time.Since(began), "it waits as long as it may")
		var full *transport.BacklogError
		require.ErrorAs(t, err, &full)
		require.Equal(t, transport.BacklogError{Group: "slow", Limit: 3}, *full)
		var pe *transport.PublishError
		require.ErrorAs(t, err, &pe)
		require.Len(t, pe.Outcomes, 2)

		published := make(chan error, 2)
		for i := range 2 {
			go func() { published <- tr.Publish(t.Context(), event(fmt.Sprint("waited ", i))) }()
			synctest.Wait()
		}
		require.Equal(t, []string{"0"}, ids(t, slow, 1))
		require.NoError(t, <-published)
		synctest.Wait()
		require.Empty(t, published, "there was room for one")
		require.NoError(t, next(t, slow).Term(t.Context(), ""))
		require.NoError(t, <-published)
		require.Equal(t, []string{"waited 0", "waited 1"}, ids(t, quick, 2))
		require.Equal(t, []string{"2", "waited 0", "waited 1"}, ids(t, slow, 3))
		require.NoError(t, tr.Publish(t.Context(), event("refused")), "its ID was not remembered")
	})
}

// One event that waits for its retry holds its own place and no other.
func TestDelayedRetryHoldsOnePlace(t *testing.T) {
	inBubble(t, memory.Config{MaxEvents: 5}, func(t *testing.T, tr *memory.Transport) {
		src := subscribe(t, tr, transport.Subscription{Group: "g"})
		require.NoError(t, tr.Publish(t.Context(), event("waits")))
		require.NoError(t, next(t, src).Nak(t.Context(), time.Hour))
		for i := range 50 {
			require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint(i))))
			require.Equal(t, []string{fmt.Sprint(i)}, ids(t, src, 1))
		}
		require.Equal(t, memory.Stats{Events: 1, History: 4}, tr.Stats())
		require.Equal(t, []string{"waits"}, ids(t, src, 1))
	})
}

func TestDelayedEventsCount(t *testing.T) {
	inBubble(t, memory.Config{MaxEvents: 5}, func(t *testing.T, tr *memory.Transport) {
		want := []string{"1", "2", "3", "4", "5"}
		for _, id := range want {
			m := event(id)
			m.DeliverAt = time.Now().Add(time.Hour)
			require.NoError(t, tr.Publish(t.Context(), m))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := tr.Publish(ctx, event("six"))
		var full *transport.BacklogError
		require.ErrorAs(t, err, &full)
		require.Empty(t, full.Group)
		src := subscribe(t, tr, transport.Subscription{Group: "g"})
		require.Equal(t, want, ids(t, src, 5), "equal times keep their order")
		require.NoError(t, tr.Publish(t.Context(), event("six")))
	})
}

func TestHistory(t *testing.T) {
	inBubble(t, memory.Config{MaxEvents: 10, MaxHistory: 3}, func(t *testing.T, tr *memory.Transport) {
		for i := range 5 {
			require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint(i))))
		}
		require.Equal(t, memory.Stats{History: 3}, tr.Stats())
		all := transport.Subscription{Group: "g", Start: transport.Start{All: true}}
		g := subscribe(t, tr, all)
		require.Equal(t, memory.Stats{Events: 3}, tr.Stats(), "history that a group took up again is no history")
		for i := 5; i < 12; i++ { // a full log does not forget what is owed
			require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint(i))))
		}
		require.Equal(t, memory.Stats{Events: 10}, tr.Stats())
		require.Equal(t, []string{"2", "3", "4", "5", "6", "7", "8", "9", "10", "11"}, ids(t, g, 10))
		require.Equal(t, memory.Stats{History: 3}, tr.Stats())
		all.Group = "h"
		require.Equal(t, []string{"9", "10", "11"}, ids(t, subscribe(t, tr, all), 3))
	})
}

// History that a group took up again outlives newer history.
func TestHistoryTakenUpAgain(t *testing.T) {
	inBubble(t, memory.Config{MaxHistory: 3}, func(t *testing.T, tr *memory.Transport) {
		all := transport.Subscription{Group: "g", Start: transport.Start{All: true}}
		for i := range 3 {
			require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint(i))))
		}
		g := subscribe(t, tr, all)
		for range 10 { // of another name, so at once history
			require.NoError(t, tr.Publish(t.Context(), &transport.Message{To: transport.Address{Name: "b.done"}}))
		}
		require.Equal(t, memory.Stats{Events: 3, History: 3}, tr.Stats())
		all.Group = "h"
		require.Equal(t, []string{"0", "1", "2"}, ids(t, subscribe(t, tr, all), 3))
		require.Equal(t, []string{"0", "1", "2"}, ids(t, g, 3))
		all.Group = "i"
		require.Equal(t, []string{"0", "1", "2"}, ids(t, subscribe(t, tr, all), 3))
	})
}

// On fake time delays, leases and TTLs end on the nanosecond.
func TestTimesAreExact(t *testing.T) {
	inBubble(t, memory.Config{}, func(t *testing.T, tr *memory.Transport) {
		src := subscribe(t, tr, transport.Subscription{Group: "g", AckWait: time.Minute})
		began := time.Now()
		for _, id := range []string{"leased", "nak'd", "extended", "leased for an hour"} {
			require.NoError(t, tr.Publish(t.Context(), event(id)))
		}
		delayed := event("delayed")
		delayed.DeliverAt = began.Add(2 * time.Second)
		later := event("later")
		later.DeliverAt = began.Add(3 * time.Hour)
		require.NoError(t, tr.Publish(t.Context(), later, delayed))

		next(t, src)
		require.NoError(t, next(t, src).Nak(t.Context(), time.Second))
		extended := next(t, src)
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, extended.Extend(t.Context()))
		require.Equal(t, began.Add(500*time.Millisecond+48*time.Second), extended.Lease())
		subscribe(t, tr, transport.Subscription{Group: "g", AckWait: time.Hour})
		shorter := subscribe(t, tr, transport.Subscription{Group: "g", AckWait: time.Second})
		require.Equal(t, began.Add(500*time.Millisecond+48*time.Minute), next(t, shorter).Lease(), "the group's")
		for _, want := range []struct {
			id    string
			after time.Duration
		}{
			{"nak'd", time.Second}, {"delayed", 2 * time.Second}, {"leased", time.Minute},
			{"extended", time.Minute + 500*time.Millisecond},
			{"leased for an hour", time.Hour + 500*time.Millisecond}, {"later", 3 * time.Hour},
		} {
			d := next(t, src)
			require.Equal(t, want.id, d.Message().ID)
			require.Equal(t, want.after, time.Since(began), want.id)
			require.NoError(t, d.Ack(t.Context()))
		}
	})
}

func TestPrivateReaderFallsBehind(t *testing.T) {
	var logged bytes.Buffer
	c := memory.Config{MaxPrivate: 3, Logger: slog.New(slog.NewTextHandler(&logged, nil))}
	inBubble(t, c, func(t *testing.T, tr *memory.Transport) {
		src := subscribe(t, tr, transport.Subscription{})
		lapse := func(from int) {
			for i := range 6 {
				require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint(from+i))))
			}
			require.Equal(t, []string{fmt.Sprint(from + 3), fmt.Sprint(from + 4), fmt.Sprint(from + 5)}, ids(t, src, 3))
		}
		lapse(0)
		require.Equal(t, 1, bytes.Count(logged.Bytes(), []byte("private readers too slow")), logged.String())
		require.Equal(t, uint64(3), tr.Stats().Dropped)
		lapse(10)
		require.Equal(t, 2, bytes.Count(logged.Bytes(), []byte("private readers too slow")))

		var out []transport.Delivery
		for i := range 4 {
			require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint("nak ", i))))
			out = append(out, next(t, src))
		}
		for _, d := range out[:3] {
			require.NoError(t, d.Nak(t.Context(), time.Hour))
		}
		require.ErrorIs(t, out[3].Nak(t.Context(), time.Hour), transport.ErrBacklog)
		require.NoError(t, out[3].Ack(t.Context()), "it is still to be settled")
	})
}

func TestDeadLettersDropOldest(t *testing.T) {
	var logged bytes.Buffer
	c := memory.Config{MaxDeadLetters: 2, DropDeadLetters: true, Logger: slog.New(slog.NewTextHandler(&logged, nil))}
	tr := memory.New(c)
	defer tr.Close(t.Context())
	for i := range 4 {
		require.NoError(t, tr.DeadLetters().Add(t.Context(), &transport.DeadLetter{ID: fmt.Sprint(i), Message: event("x")}))
	}
	got, err := tr.DeadLetters().List(t.Context(), transport.DeadLetterQuery{})
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, "2", got[0].ID)
	require.Equal(t, memory.Stats{DeadLetters: 2, DeadLettersDropped: 2}, tr.Stats())
	require.Equal(t, 2, bytes.Count(logged.Bytes(), []byte("level=ERROR")))
	require.ErrorIs(t, tr.DeadLetters().Add(t.Context(), &transport.DeadLetter{ID: "x"}), transport.ErrInvalid)
}

// A request whose caller gave up while it waited never runs.
func TestRequestGivenUp(t *testing.T) {
	inBubble(t, memory.Config{}, func(t *testing.T, tr *memory.Transport) {
		src, err := tr.Serve(t.Context(), transport.Endpoint{Address: transport.Address{Name: "a.do"}, Backlog: 1})
		require.NoError(t, err)
		m := &transport.Message{To: transport.Address{Name: "a.do"}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = tr.Request(ctx, m)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = src.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// More IDs than are remembered forget the oldest ones, not the latest.
func TestDedupIsBounded(t *testing.T) {
	tr := memory.New(memory.Config{MaxDedup: 10})
	defer tr.Close(t.Context())
	src := subscribe(t, tr, transport.Subscription{Group: "g"})
	for i := range 100 {
		require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint(i))))
	}
	for i := 95; i < 100; i++ {
		require.NoError(t, tr.Publish(t.Context(), event(fmt.Sprint(i))))
	}
	require.Equal(t, 100, tr.Stats().Events)
	require.NoError(t, tr.Publish(t.Context(), event("0")))
	require.Equal(t, 101, tr.Stats().Events)
	_ = src
}

func TestNoDedup(t *testing.T) {
	tr := memory.New(memory.Config{DedupWindow: -1})
	defer tr.Close(t.Context())
	subscribe(t, tr, transport.Subscription{Group: "g"})
	require.NoError(t, tr.Publish(t.Context(), event("x"), event("x")))
	require.Equal(t, 2, tr.Stats().Events)
}

// A fresh ID is not remembered, and pushes out none that is.
func TestFreshIDs(t *testing.T) {
	tr := memory.New(memory.Config{MaxDedup: 10})
	defer tr.Close(t.Context())
	subscribe(t, tr, transport.Subscription{Group: "g"})
	require.NoError(t, tr.Publish(t.Context(), event("x")))
	for i := range 100 {
		m := event(fmt.Sprint(i))
		m.Fresh = true
		require.NoError(t, tr.Publish(t.Context(), m))
	}
	require.NoError(t, tr.Publish(t.Context(), event("x"), event("99")))
	require.Equal(t, 102, tr.Stats().Events)
}

// A Fresh message may be kept, except where a codec stands between its sender and
// its receivers: there each has its own.
func TestFreshMessages(t *testing.T) {
	for what, c := range map[string]memory.Config{"values": {}, "bodies": {Codec: codec.JSON}} {
		t.Run(what, func(t *testing.T) {
			tr := memory.New(c)
			defer tr.Close(t.Context())
			src := subscribe(t, tr, transport.Subscription{Group: "g"})
			m := event("x")
			m.Fresh, m.Body = true, []byte("before")
			require.NoError(t, tr.Publish(t.Context(), m))
			d, err := src.Next(t.Context())
			require.NoError(t, err)
			got := d.Message()
			require.Equal(t, "x", got.ID)
			require.False(t, got.SentAt.IsZero())
			if c.Codec == nil {
				require.Same(t, m, got)
				return
			}
			m.Body[0] = 'X'
			require.Equal(t, "before", string(got.Body))
			require.True(t, m.SentAt.IsZero())
		})
	}
}
