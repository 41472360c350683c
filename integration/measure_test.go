package integration_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
)

// stopwatch keeps what it is told, in whole tenths of a second.
type stopwatch struct {
	mu   sync.Mutex
	told map[string][]string
	keys []bus.HandlerKey
}

func (s *stopwatch) Handler(k bus.HandlerKey) bus.Timings {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, k)
	add := func(what string) func(time.Duration) {
		return func(d time.Duration) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.told == nil {
				s.told = map[string][]string{}
			}
			id := fmt.Sprint(what, " ", k.Name, " ", k.Group, "/", k.Handler)
			s.told[id] = append(s.told[id], d.Round(100*time.Millisecond).String())
		}
	}
	return bus.Timings{Run: add("run"), Lag: add("lag"), Dwell: add("dwell")}
}

func (s *stopwatch) all() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.told)
}

func TestMeasureCommands(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		keep := func(next bus.Func) bus.Func { return next }
		for way, c := range map[string]struct {
			cfg bus.Config
			ctx context.Context
		}{
			"on the caller's goroutine": {ctx: context.Background()},
			"on its own goroutine":      {ctx: w.Context()},
			"through a chain":           {ctx: w.Context(), cfg: bus.Config{Receiving: []bus.Middleware{keep}}},
		} {
			b := w.BusOn(w.Open(), c.cfg)
			handle := func(s bus.Scope) {
				require.NoError(w, bus.Handle(w.Context(), s, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
					time.Sleep(3 * time.Second)
					if c.Name == "panic" {
						panic("at the disco")
					}
					return "", nil
				}))
			}
			handle(b)
			execute := func(s bus.Scope, name string) { _, _ = bus.Execute(c.ctx, s, world.CreateUser{Name: name}) }
			execute(b, "ada") // before anybody measures
			var early, late stopwatch
			stop := b.Measure(&early)
			execute(b, "ada")
			require.Equal(w, map[string][]string{"run user.create /svc": {"3s"}}, early.all(), way)
			defer b.Measure(&late)()
			require.Equal(w, []bus.Meter{&early, &late}, b.Meters())
			s, err := b.Session(w.Context(), "s")
			require.NoError(w, err)
			handle(s)
			execute(s, "panic")
			require.Equal(w, map[string][]string{"run user.create /svc": {"3s", "3s"}}, early.all(), way)
			stop()
			execute(b, "ada")
			require.Equal(w, map[string][]string{"run user.create /svc": {"3s", "3s"}}, early.all(), way)
			require.Equal(w, map[string][]string{"run user.create /svc": {"3s", "3s"}}, late.all(), way)
			require.Len(w, late.keys, 1, "one of a session's handler, which shares it")
			require.NoError(w, b.Close(context.Background()))
		}
	})
}

func TestMeasureEvents(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var sw stopwatch
		b := w.Bus(bus.Config{Retry: resilience.Retry{MaxRetries: 1, Initial: 2 * time.Second, Jitter: resilience.NoJitter}})
		defer b.Measure(&sw)()
		failures := 1
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			time.Sleep(3 * time.Second)
			failures--
			if failures >= 0 {
				return world.ErrOops
			}
			return nil
		}, bus.WithConcurrency(1))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return bus.Permanent(world.ErrOops) }, bus.WithGroup("dead"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithPrivate())
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"}))
		world.Settle(time.Minute)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"}, bus.WithDelay(10*time.Minute)))
		world.Settle(20 * time.Minute)
		got := sw.all()
		require.Equal(w, []string{"8s", "3s"}, got["dwell user.created svc/default"])
		delete(got, "dwell user.created svc/default")
		require.Equal(w, map[string][]string{
			"run user.created svc/default": {"3s", "3s", "3s"}, "lag user.created svc/default": {"0s", "0s"},
			"run user.created dead/default": {"0s", "0s"}, "lag user.created dead/default": {"0s", "0s"}, "dwell user.created dead/default": {"0s", "0s"},
			"run user.created /default": {"0s", "0s"},
		}, got)
	})
}

// An event that waited for a process to come has lagged.
func TestMeasureLag(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		listen := func(b *bus.Bus) *bus.Subscription {
			sub, err := bus.SubscribeBatch(w.Context(), b, func(context.Context, []world.UserCreated) error { time.Sleep(time.Second); return nil })
			require.NoError(w, err)
			return sub
		}
		b := w.Bus(bus.Config{})
		require.NoError(w, listen(b).Close(w.Context())) // so that the group is there
		require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "ada"}, world.UserCreated{ID: "bob"}))
		world.Settle(time.Minute)
		var sw stopwatch
		defer b.Measure(&sw)()
		listen(b)
		world.Settle(time.Minute)
		got := sw.all()
		require.Equal(w, []string{"1m0s", "1m0s"}, got["lag user.created svc/default"])
		require.Len(w, got["run user.created svc/default"], 1, "a batch is one run")
		require.Len(w, got["dwell user.created svc/default"], 2)
	})
}

type brokenMeter struct{ late bool }

func (m brokenMeter) Handler(bus.HandlerKey) bus.Timings {
	if !m.late {
		panic("no meter")
	}
	return bus.Timings{Run: func(time.Duration) { panic("no clock") }}
}

func TestMeterMayPanic(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) { return "user-1", nil }))
		defer b.Measure(brokenMeter{})()
		defer b.Measure(brokenMeter{late: true})()
		for _, ctx := range []context.Context{w.Context(), context.Background()} {
			id, err := bus.Execute(ctx, b, world.CreateUser{Name: "ada"})
			require.NoError(w, err)
			require.Equal(w, world.UserID("user-1"), id)
		}
	})
}

// Each meter is asked once for each key, whichever comes first.
func TestMeterIsAskedOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		var all [8]stopwatch
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { b.Measure(&all[i]) })
			wg.Go(func() {
				_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithName(fmt.Sprint("l", i)))
				require.NoError(w, err)
			})
		}
		wg.Wait()
		for i := range all {
			require.Len(w, all[i].keys, len(all))
			slices.SortFunc(all[i].keys, func(x, y bus.HandlerKey) int { return int(x.Handler[1]) - int(y.Handler[1]) })
			require.Len(w, slices.Compact(all[i].keys), len(all))
		}
	})
}
