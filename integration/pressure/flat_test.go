package pressure_test

import (
	"context"
	"strings"
	"sync/atomic"
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

// What the flood tests allow and do. A publisher sends an event of a kilobyte each
// two milliseconds for a minute, which is 30 MB, and its listener handles one in ten.
const (
	floodFor  = time.Minute
	floodRest = 10 * time.Second // until every queue and log is full
	floodEach = 2 * time.Millisecond
	floodWork = 20 * time.Millisecond
	floodMay  = 8 << 20 // how much the heap may grow after floodRest, of 25 MB
)

// floods runs f with a transport whose bounds are reached soon. Nothing of the test
// kit is about, which keeps a record of everything.
func floods(t *testing.T, f func(w *world.World, tr transport.Transport)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f(&world.World{T: t}, memory.New(memory.Config{MaxEvents: 1000, MaxPrivate: 1000, MaxHistory: 100}))
		})
	})
	t.Run("nats", func(t *testing.T) {
		servers.Bubble(t, func(t *testing.T, s *embedded.Server) {
			// The server is in this process, and so is its log.
			tr, err := nats.Open(t.Context(), nats.Config{
				Server: s, MaxBytes: 4 << 20, MaxAge: 5 * time.Second, DedupWindow: time.Second,
			})
			require.NoError(t, err)
			f(&world.World{T: t}, tr)
		})
	})
}

// flood publishes for a minute and checks that the heap does not grow.
func flood(w *world.World, b *bus.Bus, handled *atomic.Int64, publish func(context.Context, world.UserCreated) error) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	ended := make(chan struct{})
	var sent, refused int
	go func() {
		defer close(ended)
		tick := time.NewTicker(floodEach)
		defer tick.Stop()
		for ctx.Err() == nil {
			if publish(ctx, world.UserCreated{Note: strings.Repeat("x", 1<<10)}) == nil {
				sent++
			} else {
				refused++
			}
			<-tick.C
		}
	}()
	world.Settle(floodRest)
	full, most := world.HeapInUse(), uint64(0)
	before := handled.Load()
	for range (floodFor - floodRest) / (10 * time.Second) {
		world.Settle(10 * time.Second)
		most = max(most, world.HeapInUse())
	}
	did := handled.Load() - before
	cancel()
	<-ended
	w.Logf("%d published, %d refused, %d handled of %d; heap %d KiB when full, %d KiB at the most; %+v",
		sent, refused, did, (floodFor-floodRest)/floodWork, full>>10, most>>10, b.Stats().Queues)
	require.Less(w, most, full+floodMay)
	require.Greater(w, did, int64((floodFor-floodRest)/floodWork*8/10), "the listener is kept busy")
}

func crawl(w *world.World, b *bus.Bus, opts ...bus.SubscribeOption) *atomic.Int64 {
	w.Helper()
	handled := new(atomic.Int64)
	_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
		time.Sleep(floodWork)
		handled.Add(1)
		return nil
	}, append(opts, bus.WithConcurrency(1))...)
	require.NoError(w, err)
	return handled
}

// slowed is a transport that stores twice as many events as a crawling listener
// handles: on NATS, where nothing else makes the queue of PublishAsync run full.
type slowed struct{ transport.Transport }

func (s slowed) Publish(ctx context.Context, ms ...*transport.Message) error {
	time.Sleep(time.Duration(len(ms)) * floodWork / 2)
	return s.Transport.Publish(ctx, ms...)
}

// Memory stays flat when a publisher is ten times faster than its durable group, with
// each strategy.
func TestFloodOfAGroup(t *testing.T) {
	for _, strategy := range []bus.Strategy{bus.Block, bus.DropOldest, bus.RejectNew, bus.AdaptiveRateLimit} {
		t.Run(strategy.String(), func(t *testing.T) {
			floods(t, func(w *world.World, tr transport.Transport) {
				if _, ok := tr.(*nats.Transport); ok && strategy != bus.AdaptiveRateLimit {
					tr = slowed{tr}
				}
				b := w.Bare(tr, bus.Config{QueueSize: 1000, Backpressure: bus.Backpressure{Strategy: strategy}})
				flood(w, b, crawl(w, b), func(ctx context.Context, e world.UserCreated) error {
					_, err := bus.PublishAsync(ctx, b, e)
					return err
				})
				q := b.Stats().Queues[0]
				require.LessOrEqual(w, q.Max, 1000)
				require.Equal(w, strategy == bus.DropOldest, q.Dropped > 15_000, q)
				require.Equal(w, strategy == bus.RejectNew, q.Rejected > 15_000, q)
				require.Equal(w, strategy != bus.AdaptiveRateLimit, q.Active, q)
			})
		})
	}
}

// The same, when each event is waited for.
func TestFloodByPublish(t *testing.T) {
	for _, strategy := range []bus.Strategy{bus.Block, bus.AdaptiveRateLimit} {
		t.Run(strategy.String(), func(t *testing.T) {
			floods(t, func(w *world.World, tr transport.Transport) {
				b := w.Bare(tr, bus.Config{Backpressure: bus.Backpressure{Strategy: strategy}})
				flood(w, b, crawl(w, b), func(ctx context.Context, e world.UserCreated) error { return bus.Publish(ctx, b, e) })
			})
		})
	}
}

// The same with a private listener, and each strategy of its queue.
func TestFloodOfAPrivateListener(t *testing.T) {
	for name, opts := range map[string][]bus.SubscribeOption{
		"without a queue": nil,
		"block":           {bus.WithQueue(1000, bus.Block)},
		"drop oldest":     {bus.WithQueue(1000, bus.DropOldest)},
		"reject new":      {bus.WithQueue(1000, bus.RejectNew)},
	} {
		t.Run(name, func(t *testing.T) {
			floods(t, func(w *world.World, tr transport.Transport) {
				b := w.Bare(tr, bus.Config{})
				flood(w, b, crawl(w, b, append(opts, bus.WithPrivate())...),
					func(ctx context.Context, e world.UserCreated) error { return bus.Publish(ctx, b, e) })
			})
		})
	}
}
