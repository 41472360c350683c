package pressure_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport/memory"
)

// clogged returns a bus whose transport stores nothing until open is called, with
// one event under way.
func clogged(w *world.World, cfg bus.Config) (b *bus.Bus, tr *tapped, open func()) {
	w.Helper()
	tr = tap(w.Open())
	gate := make(chan struct{})
	tr.set(func(context.Context, []string) error { <-gate; return nil })
	cfg.BatchSize, cfg.PublishTimeout = 1, time.Minute
	b = w.BusOn(tr, cfg)
	queue(w, b, "under-way")
	world.Settle(time.Second)
	return b, tr, func() { close(gate) }
}

func TestDropOldest(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		changes := world.NewRecord[bus.QueueStats]()
		b, _, open := clogged(w, bus.Config{QueueSize: 3, Backpressure: bus.Backpressure{Strategy: bus.DropOldest, OnChange: changes.Add}})
		keep(w)
		var all []*bus.Pending
		began := time.Now()
		for i := range 6 {
			all = append(all, queue(w, b, fmt.Sprint(i)))
		}
		require.Zero(w, time.Since(began), "nobody waits")
		for i, p := range all[:3] {
			require.False(w, pending(p), "%d: told at once", i)
			require.ErrorIs(w, p.Err(), bus.ErrDropped)
			require.Equal(w, bus.CodeBacklog, bus.CodeOf(p.Err()))
			require.EqualError(w, p.Err(), "publish user.created: the queue of PublishAsync was full (3 events): dropped for newer events")
		}
		world.Settle(time.Second)
		require.True(w, pending(all[3]))
		open()
		require.NoError(w, b.Flush(w.Context()), "the publisher knows of those that were dropped")
		require.Equal(w, []string{"under-way", "3", "4", "5"}, stored(w, 4))
		world.Settle(time.Second)
		raised, cleared := changes.All()[0], changes.All()[1]
		require.Len(w, changes.All(), 2)
		require.True(w, raised.Active)
		require.False(w, cleared.Active)
		require.Equal(w, bus.QueueStats{
			Queue: "publish", Strategy: bus.DropOldest, Size: 1, Max: 3, Capacity: 3,
			Enqueued: 7, Dequeued: 3, Dropped: 3, Hits: 1,
		}, cleared)
	})
}

// What was dropped and nobody asked for is told by Flush, and logged once.
func TestDropOldestIsTold(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var log world.SyncBuffer
		b, _, open := clogged(w, bus.Config{QueueSize: 2, Logger: slog.New(slog.NewTextHandler(&log, nil)), Backpressure: bus.Backpressure{Strategy: bus.DropOldest}})
		for i := range 2002 {
			queue(w, b, fmt.Sprint(i))
		}
		world.Settle(time.Minute - 5*time.Second)
		require.Equal(w, 1, strings.Count(log.String(), "dropping its oldest events"))
		require.Zero(w, strings.Count(log.String(), "queued event not stored"))
		open()
		err := b.Flush(w.Context())
		require.ErrorIs(w, err, bus.ErrDropped)
		require.Equal(w, bus.CodeBacklog, bus.CodeOf(err))
		require.ErrorContains(w, err, "2000 queued events were not stored")
		require.NoError(w, b.Flush(w.Context()))
	})
}

// Of a key, nothing that was queued is stored after an event that was dropped.
func TestDropOldestKeepsTheOrderOfKeys(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, _, open := clogged(w, bus.Config{QueueSize: 4, Backpressure: bus.Backpressure{Strategy: bus.DropOldest}})
		keep(w)
		k := bus.WithKey("k")
		k1, k2, other := queue(w, b, "k1", k), queue(w, b, "k2", k), queue(w, b, "other")
		alone := queue(w, b, "alone", bus.WithKey("alone"))
		last := queue(w, b, "last") // drops k1
		require.ErrorIs(w, k1.Err(), bus.ErrDropped)
		require.True(w, pending(k2))
		open()
		require.ErrorIs(w, k2.Wait(w.Context()), bus.ErrOutOfOrder)
		require.ErrorContains(w, k2.Err(), "because of event k1")
		for _, p := range []*bus.Pending{other, alone, last, queue(w, b, "k3", k)} {
			require.NoError(w, p.Wait(w.Context()))
		}
		require.Equal(w, []string{"under-way", "other", "alone", "last", "k3"}, stored(w, 5))
	})
}

func TestRejectNew(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, _, open := clogged(w, bus.Config{QueueSize: 2, Backpressure: bus.Backpressure{Strategy: bus.RejectNew}})
		keep(w)
		queue(w, b, "first")
		queue(w, b, "second")
		began := time.Now()
		for range 3 {
			_, err := bus.PublishAsync(w.Context(), b, world.UserCreated{}, bus.WithID("third"))
			require.ErrorIs(w, err, bus.ErrRejected)
			require.Equal(w, bus.CodeBacklog, bus.CodeOf(err))
			require.EqualError(w, err, "publish user.created: the queue of PublishAsync is full (2 events); not sent: rejected, because too many events wait")
		}
		require.Zero(w, time.Since(began), "at once")
		open()
		require.NoError(w, b.Flush(w.Context()))
		queue(w, b, "fourth")
		require.NoError(w, b.Flush(w.Context()))
		require.Equal(w, []string{"under-way", "first", "second", "fourth"}, stored(w, 4))
	})
}

// Backpressure is raised at High and cleared at Low, and not in between.
func TestWaterMarks(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		type change struct {
			active bool
			size   int
		}
		changes := world.NewRecord[change]()
		step := make(chan struct{})
		tr := tap(w.Open())
		tr.set(func(context.Context, []string) error { <-step; return nil })
		var b *bus.Bus
		b = w.BusOn(tr, bus.Config{QueueSize: 10, BatchSize: 1, Backpressure: bus.Backpressure{OnChange: func(s bus.QueueStats) {
			changes.Add(change{s.Active, s.Size})
			_ = b.Describe() // it may call the bus
			panic(errors.New("and it may panic"))
		}}})
		queue(w, b, "under-way")
		world.Settle(time.Second)
		n := 0
		fill := func(k int) {
			for range k {
				n++
				queue(w, b, fmt.Sprint(n))
			}
			world.Settle(time.Second)
		}
		drain := func(k int) {
			for range k {
				step <- struct{}{}
			}
			world.Settle(time.Second)
		}
		fill(7)
		require.Empty(w, changes.All())
		fill(1)
		require.Equal(w, []change{{true, 8}}, changes.All())
		fill(2)
		drain(4)
		require.Len(w, changes.All(), 1, "6 of 10: still raised")
		drain(1)
		require.Equal(w, []change{{true, 8}, {false, 5}}, changes.All())
		fill(2)
		drain(2)
		fill(3)
		require.Equal(w, []change{{true, 8}, {false, 5}, {true, 8}}, changes.All())
		drain(3)
		drain(6)
		require.Equal(w, []change{{true, 8}, {false, 5}, {true, 8}, {false, 5}}, changes.All())
	})
}

// While the callback is slow what happens becomes one change, and none is lost.
func TestSlowOnChange(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		changes := world.NewRecord[bus.QueueStats]()
		b := w.Bus(bus.Config{QueueSize: 1, BatchSize: 1, Backpressure: bus.Backpressure{OnChange: func(s bus.QueueStats) {
			changes.Add(s)
			time.Sleep(time.Minute)
		}}})
		for i := range 100 {
			queue(w, b, fmt.Sprint(i))
			require.NoError(w, b.Flush(w.Context()))
		}
		world.Settle(time.Hour)
		var active []bool
		for _, s := range changes.All() {
			active = append(active, s.Active)
		}
		for i := range active {
			require.Equal(w, i%2 == 0, active[i], "raised and cleared in turn: %v", active)
		}
		require.LessOrEqual(w, len(active), 6)
		last := changes.All()[len(active)-1]
		require.False(w, last.Active)
		require.EqualValues(w, 100, last.Hits)
	})
}

// Close waits for a callback, but not for ever.
func TestCloseAndOnChange(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		for _, takes := range []time.Duration{500 * time.Millisecond, time.Hour} {
			told := world.NewRecord[bool]()
			b := w.Bus(bus.Config{QueueSize: 1, BatchSize: 1, Backpressure: bus.Backpressure{OnChange: func(s bus.QueueStats) {
				time.Sleep(takes)
				told.Add(s.Active)
			}}})
			queue(w, b, "a")
			world.Settle(time.Millisecond)
			began := time.Now()
			require.NoError(w, b.Close(w.Context()))
			require.LessOrEqual(w, time.Since(began), time.Second)
			if takes < time.Second {
				require.Equal(w, []bool{true, false}, told.All())
			}
			world.Settle(3 * takes) // before the bubble ends
		}
	})
}

func TestBackpressureIsChecked(t *testing.T) {
	for want, p := range map[string]bus.Backpressure{
		"there is no strategy 9":                            {Strategy: 9},
		"High 1.5 is not above 0 and up to 1":               {High: 1.5},
		"High -0.1 is not above 0 and up to 1":              {High: -0.1},
		"Low 0.9 is not from 0 to below High 0.8":           {Low: 0.9},
		"Low 0.4 is not from 0 to below High 0.4":           {High: 0.4, Low: 0.4},
		"TargetLag -1s is negative":                         {Strategy: bus.AdaptiveRateLimit, TargetLag: -time.Second},
		"TargetLag is for AdaptiveRateLimit, not for block": {TargetLag: time.Second},
	} {
		_, err := bus.New(memory.New(memory.Config{}), bus.Config{Backpressure: p})
		require.Equal(t, bus.CodeInvalid, bus.CodeOf(err), want)
		require.ErrorContains(t, err, "Config.Backpressure: "+want)
	}
	for _, p := range []bus.Backpressure{{High: 0.3}, {High: 1, Low: 0.9}, {Strategy: bus.AdaptiveRateLimit}} {
		require.NoError(t, bus.Config{Backpressure: p}.Validate())
	}
}
