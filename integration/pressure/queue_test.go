package pressure_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	servers "github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// heard is an event as a listener with a queue gets it.
type heard struct {
	id     world.UserID
	missed int
}

// stuck subscribes a listener that handles one event at a time, and none after the
// first before open is closed.
func stuck(w *world.World, s bus.Scope, opts ...bus.SubscribeOption) (got *world.Record[heard], open chan struct{}, sub *bus.Subscription) {
	w.Helper()
	got, open = world.NewRecord[heard](), make(chan struct{})
	sub, err := bus.Subscribe(w.Context(), s, func(ctx context.Context, e world.UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		got.Add(heard{e.ID, m.Missed})
		<-open
		return nil
	}, append(opts, bus.WithConcurrency(1))...)
	require.NoError(w, err)
	return got, open, sub
}

func publishTo(w *world.World, s bus.Scope, from, to int) {
	w.Helper()
	for i := from; i < to; i++ {
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
		world.Settle(time.Millisecond) // until it is in the queue
	}
	world.Settle(time.Second)
}

// private and session listeners have queues alike.
func withQueues(t *testing.T, f func(w *world.World, b *bus.Bus, s bus.Scope, opts ...bus.SubscribeOption)) {
	t.Run("private", func(t *testing.T) {
		world.Everywhere(t, func(w *world.World) {
			b := w.Bus(bus.Config{})
			f(w, b, b, bus.WithPrivate())
		})
	})
	t.Run("session", func(t *testing.T) {
		world.Everywhere(t, func(w *world.World) {
			b := w.Bus(bus.Config{})
			s, err := b.Session(w.Context(), "s")
			require.NoError(w, err)
			f(w, b, s)
			require.NoError(w, s.Close(w.Context()), "what was dropped is not waited for")
		})
	})
}

func TestQueueDropsOldest(t *testing.T) {
	withQueues(t, func(w *world.World, b *bus.Bus, s bus.Scope, opts ...bus.SubscribeOption) {
		got, open, sub := stuck(w, s, append(opts, bus.WithQueue(3, bus.DropOldest), bus.WithName("slow"))...)
		publishTo(w, s, 0, 11)
		require.Equal(w, []heard{{"0", 0}}, got.All())
		q := b.Stats().Queues[1]
		q.Session = ""
		require.Equal(w, bus.QueueStats{
			Queue: "user.created/slow", Strategy: bus.DropOldest, Size: 3, Max: 3, Capacity: 3,
			Enqueued: 11, Dequeued: 1, Dropped: 7, Active: true, Hits: 1,
		}, q)
		require.True(w, b.Stats().BackpressureActive)
		close(open)
		require.Equal(w, []heard{{"0", 0}, {"8", 7}, {"9", 0}, {"10", 0}}, got.Wait(w, 4))
		publishTo(w, s, 11, 12)
		require.Equal(w, heard{"11", 0}, got.Wait(w, 5)[4])
		require.False(w, b.Stats().BackpressureActive)
		require.NoError(w, sub.Close(w.Context()))
		q = b.Stats().Queues[1]
		require.Zero(w, q.Capacity, "a listener's queue ends with it")
		require.EqualValues(w, 7, q.Dropped, "what it has counted stays")
	})
}

func TestQueueRejectsNew(t *testing.T) {
	withQueues(t, func(w *world.World, b *bus.Bus, s bus.Scope, opts ...bus.SubscribeOption) {
		got, open, _ := stuck(w, s, append(opts, bus.WithQueue(3, bus.RejectNew))...)
		publishTo(w, s, 0, 11)
		close(open)
		got.Wait(w, 4)
		publishTo(w, s, 11, 13)
		require.Equal(w, []heard{{"0", 0}, {"1", 0}, {"2", 0}, {"3", 0}, {"11", 7}, {"12", 0}}, got.Wait(w, 6))
		require.EqualValues(w, 7, b.Stats().Queues[1].Dropped)
	})
}

// With Block nothing is missed: the transport keeps what comes.
func TestQueueBlocks(t *testing.T) {
	withQueues(t, func(w *world.World, b *bus.Bus, s bus.Scope, opts ...bus.SubscribeOption) {
		got, open, _ := stuck(w, s, append(opts, bus.WithQueue(3, bus.Block))...)
		publishTo(w, s, 0, 200)
		require.Equal(w, 3, b.Stats().Queues[1].Max)
		close(open)
		for i, h := range got.Wait(w, 200) {
			require.Equal(w, heard{world.UserID(fmt.Sprint(i)), 0}, h)
		}
	})
}

// A queue of one event keeps the latest, and the count of those before it.
func TestQueueOfOne(t *testing.T) {
	withQueues(t, func(w *world.World, b *bus.Bus, s bus.Scope, opts ...bus.SubscribeOption) {
		got, open, _ := stuck(w, s, append(opts, bus.WithQueue(1, bus.DropOldest))...)
		publishTo(w, s, 0, 100)
		close(open)
		require.Equal(w, []heard{{"0", 0}, {"99", 98}}, got.Wait(w, 2))
	})
}

// Nobody else notices a listener that is too slow.
func TestQueueHoldsBackNobody(t *testing.T) {
	withQueues(t, func(w *world.World, b *bus.Bus, s bus.Scope, opts ...bus.SubscribeOption) {
		_, open, _ := stuck(w, s, append(opts, bus.WithQueue(2, bus.DropOldest))...)
		defer close(open)
		others := world.NewRecord[world.UserID]()
		listen := func(opts ...bus.SubscribeOption) {
			_, err := bus.Subscribe(w.Context(), s, func(_ context.Context, e world.UserCreated) error { others.Add(e.ID); return nil }, opts...)
			require.NoError(w, err)
		}
		listen(opts...)
		if _, ok := s.(*bus.Bus); ok {
			listen(bus.WithGroup("durable"))
		} else {
			listen()
		}
		began := time.Now()
		publishTo(w, s, 0, 300)
		others.Wait(w, 600)
		require.LessOrEqual(w, time.Since(began), 2*time.Second)
	})
}

// A closed listener drops what is queued, and so does a closed bus.
func TestQueueEndsWithItsListener(t *testing.T) {
	withQueues(t, func(w *world.World, b *bus.Bus, s bus.Scope, opts ...bus.SubscribeOption) {
		got, open, sub := stuck(w, s, append(opts, bus.WithQueue(5, bus.DropOldest))...)
		publishTo(w, s, 0, 4)
		time.AfterFunc(time.Second, func() { close(open) })
		require.NoError(w, sub.Close(w.Context()))
		require.Len(w, got.All(), 1)
		closed := b.Stats().Queues[1]
		require.Zero(w, closed.Size+closed.Capacity, "only its counters are left")
		require.EqualValues(w, 4, closed.Enqueued)
	})
}

// A session waits for what its listener has queued before it ends.
func TestSessionWaitsForTheQueue(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		s, err := b.Session(w.Context(), "s")
		require.NoError(w, err)
		got, open, _ := stuck(w, s, bus.WithQueue(10, bus.DropOldest))
		publishTo(w, s, 0, 6)
		time.AfterFunc(time.Second, func() { close(open) })
		require.NoError(w, s.Close(w.Context()))
		require.Len(w, got.All(), 6)
	})
}

func TestQueueOfABatchHandler(t *testing.T) {
	withQueues(t, func(w *world.World, b *bus.Bus, s bus.Scope, opts ...bus.SubscribeOption) {
		type batch struct {
			first  world.UserID
			missed []int
		}
		got, open := world.NewRecord[batch](), make(chan struct{})
		all := []bus.BatchOption{bus.WithQueue(3, bus.DropOldest), bus.WithBatchSize(4), bus.WithLinger(100 * time.Millisecond)}
		if len(opts) > 0 {
			all = append(all, bus.WithPrivate())
		}
		_, err := bus.SubscribeBatch(w.Context(), s, func(ctx context.Context, es []world.UserCreated) error {
			r := batch{first: es[0].ID}
			for i := range es {
				m, _ := bus.MetaAt(ctx, i)
				r.missed = append(r.missed, m.Missed)
			}
			got.Add(r)
			<-open
			return nil
		}, all...)
		require.NoError(w, err)
		publishTo(w, s, 0, 1)
		publishTo(w, s, 1, 11)
		close(open)
		require.Equal(w, []batch{{"0", []int{0}}, {"8", []int{7, 0, 0}}}, got.Wait(w, 2))
	})
}

func TestQueueIsChecked(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		for want, opts := range map[string][]bus.SubscribeOption{
			"WithQueue is for private and session listeners: a durable group loses nothing": {bus.WithQueue(10, bus.DropOldest)},
			"queue with adaptive rate limit: use Block, DropOldest or RejectNew":            {bus.WithPrivate(), bus.WithQueue(10, bus.AdaptiveRateLimit)},
			"queue of 0 events: it must hold 1 to 1000000":                                  {bus.WithPrivate(), bus.WithQueue(0, bus.DropOldest)},
			"queue of 1000001 events": {bus.WithPrivate(), bus.WithQueue(1_000_001, bus.DropOldest)},
		} {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, opts...)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorContains(w, err, want)
		}
	})
}

func TestQueueIsDescribed(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil },
			bus.WithPrivate(), bus.WithQueue(10, bus.DropOldest))
		require.NoError(w, err)
		require.Equal(w, "up to 10 events, drop oldest", b.Describe().Handlers[0].Queue)
		require.Contains(w, b.Describe().String(), "  queue    up to 10 events, drop oldest\n")
	})
}

// A listener without a queue of its own, in memory, is told of what the transport
// dropped for it.
func TestMissedWithoutAQueue(t *testing.T) {
	for _, queue := range [][]bus.SubscribeOption{nil, {bus.WithQueue(2, bus.Block)}} {
		t.Run(fmt.Sprint(len(queue)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world.World{T: t}
				b := w.Bare(memory.New(memory.Config{MaxPrivate: 5}), bus.Config{})
				got, open, _ := stuck(w, b, append(queue, bus.WithPrivate())...)
				publishTo(w, b, 0, 50)
				close(open)
				kept := 5 + 2*len(queue)
				all := got.Wait(w, 1+kept)
				missed := 0
				for _, h := range all {
					missed += h.missed
				}
				require.Equal(w, 49-kept, missed)
				require.Equal(w, heard{"45", missed}, all[len(all)-5])
			})
		})
	}
}

// On NATS a listener that drops what it has no time for does not have it read from
// the stream again.
func TestQueueIsNotRefilled(t *testing.T) {
	servers.Bubble(t, func(t *testing.T, s *embedded.Server) {
		var log world.SyncBuffer
		w := &world.World{T: t}
		bare := func(c nats.Config) *bus.Bus {
			c.Server = s
			tr, err := nats.Open(t.Context(), c)
			require.NoError(t, err)
			return w.Bare(tr, bus.Config{})
		}
		b, publisher := bare(nats.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}), bare(nats.Config{})
		got, open, _ := stuck(w, b, bus.WithPrivate(), bus.WithQueue(10, bus.DropOldest))
		const n = 20_000 // twice what waits between the connection and a reader
		publishTo(w, publisher, 0, 1)
		for i := 1; i < n; i++ {
			_, err := bus.PublishAsync(t.Context(), publisher, world.UserCreated{ID: world.UserID(fmt.Sprint(i))})
			require.NoError(t, err)
		}
		require.NoError(t, publisher.Flush(t.Context()))
		world.Settle(time.Minute)
		require.Len(t, got.All(), 1)
		close(open)
		all := got.Wait(t, 11)
		require.Equal(t, heard{"19990", n - 11}, all[1])
		require.Equal(t, heard{"19999", 0}, all[10])
		world.Settle(time.Minute)
		require.Len(t, got.All(), 11)
		require.NotContains(t, log.String(), "lost on the way")
	})
}
