package integration_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// What was fetched, and waits for a handler's turn when the circuit opens, goes back
// without an attempt.
func TestWhatHasNotBegunWhenTheCircuitOpensGoesBack(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{}})
		f := newFlaky()
		f.takes.Store(int64(time.Second))
		second := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithName("one-at-a-time"), bus.WithPriority(bus.PriorityHigh),
			bus.WithConcurrency(1), slowRetries)
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { second.Add(e.ID); return nil },
			bus.WithName("second"), bus.WithConcurrency(10))
		require.NoError(w, err)
		publishUsers(w, b, 1, 10)
		world.Settle(20 * time.Second)
		require.Equal(w, resilience.BreakerOpen, breaker(w, b).State)
		require.Len(w, f.runs.All(), 5)
		require.Len(w, second.All(), 5, "what has begun goes on")

		f.healthy.Store(true)
		for id, n := range once(w, f.done.Wait(w, 10), 1, 10) {
			if n != 1 {
				require.Contains(w, f.runs.All(), attempt{id, 1}, "an attempt was lost")
			}
		}
		require.Len(w, f.runs.All(), 15)
		w.Wait()
		require.Len(w, second.All(), 10)
	})
}

// watched is a transport that notes what its readers ask for, and whose sources may
// take long to close.
type watched struct {
	transport.Transport
	closing time.Duration

	mu       sync.Mutex
	prefetch []int
	open     atomic.Int64
	handed   atomic.Int64
}

func (t *watched) InProcess() bool {
	p, ok := t.Transport.(transport.InProcess)
	return ok && p.InProcess()
}

func (t *watched) Subscribe(ctx context.Context, s transport.Subscription) (transport.Source[transport.Delivery], error) {
	src, err := t.Transport.Subscribe(ctx, s)
	if err != nil || s.Group == "" {
		return src, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prefetch = append(t.prefetch, s.Prefetch)
	t.open.Add(1)
	return &watchedSource{Source: src, t: t}, nil
}

type watchedSource struct {
	transport.Source[transport.Delivery]
	t    *watched
	once sync.Once
}

func (s *watchedSource) Next(ctx context.Context) (transport.Delivery, error) {
	d, err := s.Source.Next(ctx)
	if err == nil {
		s.t.handed.Add(1)
	}
	return d, err
}

func (s *watchedSource) Close(ctx context.Context) error {
	s.once.Do(func() {
		time.Sleep(s.t.closing)
		s.t.open.Add(-1)
	})
	return s.Source.Close(ctx)
}

func TestPausedGroupHasNoSourceAndProbesWithASmallOne(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := &watched{Transport: w.Open()}
		b := w.BusOn(tr, bus.Config{EventBreaker: &resilience.Breaker{FailureThreshold: 1, SuccessThreshold: 2}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithConcurrency(5), slowRetries)
		require.NoError(w, err)
		publishUsers(w, b, 1, 1)
		world.Settle(5 * time.Second)
		require.Zero(w, tr.open.Load())
		f.healthy.Store(true)
		publishUsers(w, b, 2, 5)
		f.done.Wait(w, 5)
		world.Settle(5 * time.Second)
		require.EqualValues(w, 1, tr.open.Load())
		require.Equal(w, []int{10, 1, 10}, tr.prefetch)
	})
}

// The transport may take long to close the source of a group that pauses. Nothing
// goes back and forth meanwhile.
func TestPausingDoesNotSpinWhileTheSourceCloses(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := &watched{Transport: w.Open(), closing: 20 * time.Second}
		b := w.BusOn(tr, bus.Config{EventBreaker: &resilience.Breaker{Recovery: time.Hour}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, bus.WithConcurrency(1), slowRetries)
		require.NoError(w, err)
		publishUsers(w, b, 1, 50)
		world.Settle(15 * time.Second)
		require.Len(w, f.runs.All(), 5)
		require.LessOrEqual(w, tr.handed.Load(), int64(5+8), "those whose workers were waiting already")
	})
}

// A harness waits for the events of a group that only pauses.
func TestHarnessWaitsForAPausedGroup(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{EventBreaker: &resilience.Breaker{}})
		f := newFlaky()
		_, err := bus.Subscribe(w.Context(), b, f.handle, slowRetries, bus.WithConcurrency(1))
		require.NoError(w, err)
		publishUsers(w, b, 1, 20)
		time.AfterFunc(30*time.Second, func() { f.healthy.Store(true) })
		w.Wait()
		once(w, f.done.All(), 1, 20)
	})
}

// Several processes of a group whose dependency comes and goes lose nothing and use
// up no more attempts than their handlers have failed.
func TestFlappingGroupLosesNothing(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		policy := resilience.Breaker{FailureThreshold: 3, Recovery: 5 * time.Second, SuccessThreshold: 2}
		const events = 300
		var healthy atomic.Bool
		runs, done := world.NewRecord[attempt](), world.NewRecord[attempt]()
		publisher := w.Bus(bus.Config{Service: "publisher"})
		var buses []*bus.Bus
		for range 3 {
			b := w.Bus(bus.Config{EventBreaker: &policy})
			buses = append(buses, b)
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithName("good"))
			require.NoError(w, err)
			_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				runs.Add(attempt{e.ID, m.Attempt})
				time.Sleep(rand.N(200 * time.Millisecond))
				if !healthy.Load() {
					return world.ErrOops
				}
				done.Add(attempt{e.ID, m.Attempt})
				return nil
			}, bus.WithName("flaky"), bus.WithRetry(resilience.Retry{MaxRetries: 1000, Initial: time.Second, Max: 8 * time.Second}))
			require.NoError(w, err)
		}
		stop := make(chan struct{})
		flapping := make(chan struct{})
		go func() {
			defer close(flapping)
			for {
				select {
				case <-stop:
					healthy.Store(true)
					return
				case <-time.After(rand.N(20 * time.Second)):
					healthy.Store(!healthy.Load())
				}
			}
		}()
		for i := range events {
			publishUsers(w, publisher, i, i)
			world.Settle(rand.N(200 * time.Millisecond))
		}
		close(stop)
		<-flapping
		attempts := once(w, done.Wait(w, events), 0, events-1)
		w.Wait()
		require.Len(w, done.All(), events)
		var opened int64
		for _, b := range buses {
			opened += breaker(w, b).Opened
		}
		require.Positive(w, opened, "otherwise this tests nothing")
		ran := map[world.UserID]int{}
		for _, a := range runs.All() {
			ran[a.id]++
		}
		for id, n := range attempts {
			require.LessOrEqual(w, n, ran[id], "event %s: an attempt was burnt", id)
			// A reader on NATS that closes cannot tell what others of the group were
			// handed from what it has missed, and does not count that.
			require.GreaterOrEqual(w, n, ran[id]-1, "event %s: its last run says which attempt it was", id)
		}
	})
}
