package pressure_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func TestCloseStoresWhatIsQueued(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{BatchTimeout: time.Hour})
		keep(w)
		var want []string
		var all []*bus.Pending
		for i := range 250 {
			id := fmt.Sprint(i)
			want, all = append(want, id), append(all, queue(w, b, id))
		}
		require.NoError(w, b.Close(w.Context()))
		for _, p := range all {
			require.False(w, pending(p))
			require.NoError(w, p.Err())
		}
		_, err := bus.PublishAsync(w.Context(), b, world.UserCreated{})
		require.Equal(w, bus.CodeClosed, bus.CodeOf(err))
		require.ErrorIs(w, err, bus.ErrClosed)
		require.NoError(w, b.Flush(w.Context()))
		require.Equal(w, want, stored(w, 250))
	})
}

func TestCloseTellsWhatItCouldNotStore(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var log world.SyncBuffer
		tr := tap(w.Open())
		tr.set(func(ctx context.Context, _ []string) error {
			<-ctx.Done()
			return fmt.Errorf("%w: %w", transport.ErrUnknown, ctx.Err())
		})
		b := w.BusOn(tr, bus.Config{
			BatchSize: 2, PublishTimeout: time.Minute, BatchTimeout: time.Hour,
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		var all []*bus.Pending
		for i := range 5 {
			all = append(all, queue(w, b, fmt.Sprint("event-", i)))
		}
		world.Settle(time.Second)
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		err := b.Close(ctx)
		require.Equal(w, 3*time.Second, time.Since(began))
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(err), "%v", err)
		require.ErrorContains(w, err, "close: 5 queued events were not stored, or it is not known; first: publish user.created")
		require.ErrorIs(w, err, bus.ErrClosed)
		for i, p := range all {
			require.False(w, pending(p))
			code := bus.CodeClosed // not sent
			if i < 2 {
				code = bus.CodeUnknown // on its way
			}
			require.Equal(w, code, bus.CodeOf(p.Err()), "%d: %v", i, p.Err())
			require.Contains(w, log.String(), fmt.Sprintf(`level=ERROR msg="queued event not stored" service=svc name=user.created id=%s code=%s`, p.ID(), code))
		}
		require.ErrorContains(w, all[4].Err(), "not sent before Close ended; it is not stored")
		require.Equal(w, 5, strings.Count(log.String(), "queued event not stored"))
	})
}

// A failure from before that nobody asked for is Close's to tell, once.
func TestCloseTellsWhatNobodyKnows(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var log world.SyncBuffer
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		tr.refuse("dropped", "looked-at")
		p := queue(w, b, "looked-at")
		queue(w, b, "dropped")
		queue(w, b, "fine")
		require.Error(w, p.Wait(w.Context()))
		err := b.Close(w.Context())
		require.ErrorContains(w, err, "close: 1 queued event was not stored; first: publish user.created: permission denied")
		require.Same(w, err, b.Close(w.Context()))
		require.Contains(w, log.String(), "name=user.created id=dropped code=permission")
		require.NotContains(w, log.String(), "id=looked-at")
	})
}

// What fails while the bus closes is Close's to tell, whoever has asked for it.
func TestCloseCountsWhatOthersWereTold(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchTimeout: time.Hour})
		tr.set(func(_ context.Context, ids []string) error {
			if ids[0] == "last" {
				time.Sleep(time.Second)
			}
			return refused{"first", "last"}
		})
		p := queue(w, b, "first")
		told := world.NewRecord[error]()
		go func() { told.Add(p.Wait(context.Background())) }()
		queue(w, b, "stored", bus.WithKey("k"))
		queue(w, b, "last", bus.WithKey("k"))
		err := b.Close(w.Context())
		require.Len(w, told.All(), 1)
		require.ErrorContains(w, err, "close: 2 queued events were not stored")
	})
}

// Who waits for room when Close gives up what is queued is told at once.
func TestCloseWhileTheQueueIsStuck(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		tr.set(func(ctx context.Context, _ []string) error { <-ctx.Done(); return ctx.Err() })
		b := w.BusOn(tr, bus.Config{QueueSize: 3, BatchSize: 1, PublishTimeout: time.Hour})
		outcomes := world.NewRecord[bus.Code]()
		for range 20 {
			go func() {
				p, err := bus.PublishAsync(context.Background(), b, world.UserCreated{})
				if err == nil {
					err = p.Wait(context.Background())
				}
				outcomes.Add(bus.CodeOf(err))
			}()
		}
		world.Settle(time.Second)
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
		defer cancel()
		require.Error(w, b.Close(ctx))
		world.Settle(time.Millisecond)
		count := map[bus.Code]int{}
		for _, code := range outcomes.All() {
			count[code]++
		}
		require.Equal(w, map[bus.Code]int{bus.CodeCancelled: 1, bus.CodeClosed: 19}, count)
	})
}

// Close's context may be used up by a handler; what is queued gets a moment.
func TestCloseStoresWhatIsQueuedAfterItsContext(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{BatchTimeout: time.Hour})
		keep(w)
		started := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ *world.UserDeleted) error {
			started.Add(1)
			<-ctx.Done()
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserDeleted{ID: "a"}))
		started.Wait(w, 1)
		p := queue(w, b, "a")
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		require.NoError(w, b.Close(ctx))
		require.NoError(w, p.Err())
		require.Equal(w, []string{"a"}, stored(w, 1))
	})
}

func TestHandlersQueueEventsWhileTheBusCloses(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		keep(w)
		started, waited := world.NewRecord[int](), world.NewRecord[error]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ *world.UserDeleted) error {
			started.Add(1)
			time.Sleep(time.Second)
			p, err := bus.PublishAsync(ctx, b, world.UserCreated{}, bus.WithID("waited-for"))
			require.NoError(w, err)
			waited.Add(p.Wait(ctx))
			_, err = bus.PublishAsync(ctx, b, world.UserCreated{}, bus.WithID("left"))
			return err
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserDeleted{ID: "a"}))
		started.Wait(w, 1)
		require.NoError(w, b.Close(w.Context()))
		require.Equal(w, []error{nil}, waited.All())
		require.Equal(w, []string{"waited-for", "left"}, stored(w, 2))
	})
}

// Who waits for room when the bus closes gets room or an error, and what was
// queued a result.
func TestCloseWhilePublishersWaitForRoom(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{QueueSize: 3, BatchSize: 2})
		keep(w)
		var mu sync.Mutex
		var queued []*bus.Pending
		refused := 0
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for {
					p, err := bus.PublishAsync(context.Background(), b, world.UserCreated{})
					mu.Lock()
					if err != nil {
						require.ErrorIs(w, err, bus.ErrClosed)
						refused++
						mu.Unlock()
						return
					}
					queued = append(queued, p)
					mu.Unlock()
				}
			})
		}
		require.NoError(w, b.Close(w.Context()))
		wg.Wait()
		require.Equal(w, 20, refused)
		for _, p := range queued {
			require.False(w, pending(p))
			require.NoError(w, p.Err())
		}
		if len(queued) > 0 {
			require.Len(w, stored(w, len(queued)), len(queued))
		}
	})
}

// The connection breaks while events are on their way: each has a result, and
// what was not stored, or is not known, is stored once when it is published again.
func TestPublishAsyncSurvivesACutConnection(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		w := world.New(t, func(ctx context.Context) (transport.Transport, error) {
			return nats.Open(ctx, nats.Config{Server: s})
		})
		keep(w)
		cable := natstest.NewCable(s)
		tr, err := nats.Open(t.Context(), nats.Config{Server: cable})
		require.NoError(t, err)
		b := w.BusOn(tr, bus.Config{BatchSize: 10})
		cable.Cut()
		var want []string
		var all []*bus.Pending
		for i := range 25 {
			id := fmt.Sprint(i)
			want, all = append(want, id), append(all, queue(w, b, id))
		}
		err = b.Flush(t.Context())
		require.Error(t, err)
		for _, p := range all {
			require.Contains(t, []bus.Code{bus.CodeUnknown, bus.CodeUnavailable, bus.CodeTimeout}, bus.CodeOf(p.Err()), "%v", p.Err())
		}
		cable.Mend()
		for _, p := range all {
			queue(w, b, p.ID())
		}
		require.NoError(t, b.Flush(t.Context()))
		require.ElementsMatch(t, want, stored(w, 25))
	})
}

// The server stops and comes back while events are queued: over TCP, with real
// time. Nothing that has a good result is lost, and nothing is stored twice.
func TestPublishAsyncSurvivesARestartOfTheServer(t *testing.T) {
	s := natstest.Server(t)
	open := func() *bus.Bus {
		tr, err := nats.Open(t.Context(), nats.Config{URL: s.URL()})
		require.NoError(t, err)
		b, err := bus.New(tr, bus.Config{Service: "svc", BatchTimeout: 5 * time.Millisecond})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
		return b
	}
	b := open()
	const n = 3000
	var all []*bus.Pending
	for i := range n {
		if i == n/3 {
			s.Stop()
		}
		if i == n/2 {
			s.Start()
		}
		p, err := bus.PublishAsync(t.Context(), b, world.UserCreated{}, bus.WithID(fmt.Sprint(i)))
		require.NoError(t, err)
		all = append(all, p)
	}
	for round := 0; ; round++ {
		_ = b.Flush(t.Context()) // the handles tell
		var failed []*bus.Pending
		for _, p := range all {
			require.False(t, pending(p))
			if p.Err() != nil {
				again, err := bus.PublishAsync(t.Context(), b, world.UserCreated{}, bus.WithID(p.ID()))
				require.NoError(t, err)
				failed = append(failed, again)
			}
		}
		if len(failed) == 0 {
			break
		}
		require.Less(t, round, 10)
		all = failed
	}
	got := world.NewRecord[string]()
	_, err := bus.Subscribe(t.Context(), open(), func(ctx context.Context, _ world.UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		got.Add(m.ID)
		return nil
	}, bus.WithStart(bus.All()))
	require.NoError(t, err)
	seen := map[string]int{}
	for _, id := range got.Wait(t, n) {
		seen[id]++
	}
	require.Len(t, seen, n)
}
