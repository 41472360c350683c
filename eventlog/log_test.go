package eventlog_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/eventlog"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Ping is what the tests send.
type Ping struct{ bus.Command[bus.None] }

func (Ping) MessageName() string { return "ping.send" }

// kept is a sink that keeps what it gets.
type kept struct {
	mu      sync.Mutex
	entries []eventlog.Entry
	closed  int
}

func (k *kept) Write(entries []eventlog.Entry) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entries = append(k.entries, entries...)
	return nil
}

func (k *kept) Close() error { k.closed++; return nil }

func record(n int) bus.Record {
	return bus.Record{Stage: bus.StageSent, Kind: bus.KindEvent, Name: "user.created", Attempt: n}
}

func TestLogWritesEverythingBeforeItCloses(t *testing.T) {
	sink := &kept{}
	l := eventlog.New(sink, eventlog.Config{QueueSize: 100_000})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 1000 {
				l.Observe(record(1000*g + n))
			}
		})
	}
	wg.Wait()
	require.NoError(t, l.Flush(t.Context()))
	require.Equal(t, eventlog.Stats{Written: 8000}, l.Stats())
	l.Observe(record(8000))
	require.NoError(t, l.Close(t.Context()))
	require.NoError(t, l.Close(t.Context()))
	require.Len(t, sink.entries, 8001)
	require.Equal(t, 1, sink.closed)
	last := map[int]int{}
	for _, e := range sink.entries {
		require.LessOrEqual(t, last[e.Attempt/1000], e.Attempt, "in the order of each goroutine")
		last[e.Attempt/1000] = e.Attempt
	}
	l.Observe(record(1))
	require.Equal(t, eventlog.Stats{Written: 8001, Dropped: 1}, l.Stats(), "closed")
}

// A sink that stands still delays nobody, and costs what the queue has no room for.
func TestLogWhoseSinkBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		release := make(chan struct{})
		l := eventlog.New(eventlog.Func(func(eventlog.Entry) error { <-release; return nil }),
			eventlog.Config{QueueSize: 10, Logger: slog.New(slog.NewTextHandler(&text, nil))})
		b, err := bus.New(memory.New(memory.Config{}), bus.Config{Observers: []bus.Observer{l.Observe}})
		require.NoError(t, err)
		require.NoError(t, bus.HandleNone(t.Context(), b, func(context.Context, Ping) error { return nil }))
		began := time.Now()
		for range 50 {
			require.NoError(t, bus.Do(t.Context(), b, Ping{}))
		}
		require.NoError(t, b.Close(t.Context()))
		require.Zero(t, time.Since(began))
		require.Equal(t, eventlog.Stats{Dropped: 90, Waiting: 10}, l.Stats())

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, l.Flush(ctx), "10 entries are not written yet")
		require.ErrorContains(t, l.Close(ctx), "10 entries are not written yet")
		close(release)
		require.NoError(t, l.Close(t.Context()))
		require.Equal(t, eventlog.Stats{Dropped: 90, Written: 10}, l.Stats())
		require.Equal(t, 1, strings.Count(text.String(), "dropped=90"))
	})
}

func TestLogWhoseSinkFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		var got []int
		l := eventlog.New(eventlog.Func(func(e eventlog.Entry) error {
			switch e.Attempt {
			case 1:
				panic("boom")
			case 2:
				return errors.New("full")
			case 3:
				runtime.Goexit()
			}
			got = append(got, e.Attempt)
			return nil
		}), eventlog.Config{Logger: slog.New(slog.NewTextHandler(&text, nil))})
		for n := range 5 {
			l.Observe(record(n))
		}
		require.NoError(t, l.Flush(t.Context()))
		synctest.Wait() // for the log
		require.Equal(t, []int{0, 4}, got)
		require.Equal(t, eventlog.Stats{Written: 2, Failed: 3}, l.Stats())
		require.Equal(t, 1, strings.Count(text.String(), "are lost"), "%s", text.String())
		time.Sleep(time.Minute)
		l.Observe(record(5))
		require.NoError(t, l.Flush(t.Context()))
		synctest.Wait() // for the log
		require.Contains(t, text.String(), "failed=2")
		require.NoError(t, l.Close(t.Context()))
	})
}

type broken struct{ kept }

func (*broken) Close() error { panic("boom") }

func TestLogWhoseSinkDoesNotClose(t *testing.T) {
	require.ErrorContains(t, eventlog.New(&broken{}, eventlog.Config{}).Close(t.Context()), "panicked: boom")
}

func TestLogSelects(t *testing.T) {
	sink := &kept{}
	l := eventlog.New(sink, eventlog.Config{Select: func(r bus.Record) bool { return r.Kind == bus.KindCommand }})
	l.Observe(record(1))
	require.NoError(t, l.Close(t.Context()))
	require.Empty(t, sink.entries)
	require.Zero(t, l.Stats())
}

func TestEntriesAreBounded(t *testing.T) {
	sink := &kept{}
	l := eventlog.New(sink, eventlog.Config{})
	r := record(1)
	r.Err = errors.New(strings.Repeat("ü", 10_000))
	l.Observe(r)
	require.NoError(t, l.Close(t.Context()))
	require.Len(t, sink.entries[0].Err, 1<<10)
	require.Equal(t, bus.CodeFailed, sink.entries[0].Code)
	require.Equal(t, eventlog.Failed, sink.entries[0].Outcome)
}

func BenchmarkObserve(b *testing.B) {
	l := eventlog.New(&discard{}, eventlog.Config{})
	defer l.Close(b.Context())
	r := record(1)
	b.ReportAllocs()
	for b.Loop() {
		l.Observe(r)
	}
}

type discard struct{}

func (discard) Write([]eventlog.Entry) error { return nil }
func (discard) Close() error                 { return nil }
