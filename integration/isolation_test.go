package integration_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
)

// beat is an event of which everybody is to hear at once.
type beat struct{ N int }

func (beat) MessageName() string { return "beat" }

// pulse is another one, and poke a command, that the misbehaving handle as well.
type pulse struct{ N int }

func (pulse) MessageName() string { return "pulse" }

type poke struct{ bus.Command[int] }

func (poke) MessageName() string { return "poke" }

type prod struct{ bus.Command[int] }

func (prod) MessageName() string { return "prod" }

// misbehaviour is what a handler does to its message. It hangs until the end.
type misbehaviour func(ctx context.Context, end <-chan struct{}) error

var misbehaviours = map[string]misbehaviour{
	"panics": func(context.Context, <-chan struct{}) error { panic("oops") },
	"ends its goroutine": func(context.Context, <-chan struct{}) error {
		runtime.Goexit()
		return nil
	},
	"hangs and ignores its context": func(_ context.Context, end <-chan struct{}) error { <-end; return nil },
	"is slow":                       func(context.Context, <-chan struct{}) error { world.Settle(20 * time.Second); return nil },
	"fails":                         func(context.Context, <-chan struct{}) error { return world.ErrOops },
	"fails for good":                func(context.Context, <-chan struct{}) error { return bus.Permanent(world.ErrOops) },
	"wants to be retried at once":   func(context.Context, <-chan struct{}) error { return bus.RetryAfter(0, world.ErrOops) },
	"has an error that panics":      func(context.Context, <-chan struct{}) error { return badError{} },
	"takes much memory": func(ctx context.Context, _ <-chan struct{}) error {
		b := make([]byte, 4<<20)
		for i := 0; i < len(b); i += 4 << 10 { // each page
			b[i] = 1
		}
		world.Settle(time.Second)
		runtime.KeepAlive(b)
		return nil
	},
}

type badError struct{}

func (badError) Error() string { panic("no text") }

// latencies are how long something took, in fake time.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, time.Since(since))
}

func (l *latencies) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

// A handler that misbehaves in one group, session or command leaves all others
// alone: what they are sent is handled at once, in fake time, and all of it.
func TestMisbehavingHandlerHarmsNoOther(t *testing.T) {
	const beats = 40
	for what, misbehave := range misbehaviours {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(bus.Config{CloseTimeout: time.Minute, Retry: resilience.Retry{MaxRetries: 5}})
				end := make(chan struct{})
				bad := func(ctx context.Context) error { return misbehave(ctx, end) }
				s, err := b.Session(w.Context(), "job/1")
				require.NoError(w, err)
				other, err := b.Session(w.Context(), "job/2")
				require.NoError(w, err)

				// Those that misbehave.
				var atOnce, most atomic.Int64
				_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ beat) error {
					n := atOnce.Add(1)
					defer atOnce.Add(-1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					return bad(ctx)
				}, bus.WithGroup("bad"), bus.WithConcurrency(4))
				require.NoError(w, err)
				for _, opts := range [][]bus.SubscribeOption{{bus.WithPrivate()}, {bus.WithGroup("bad")}} {
					_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ pulse) error { return bad(ctx) }, opts...)
					require.NoError(w, err)
				}
				_, err = bus.Subscribe(w.Context(), other, func(ctx context.Context, _ beat) error { return bad(ctx) })
				require.NoError(w, err)
				for _, scope := range []bus.Scope{b, other} {
					require.NoError(w, bus.Handle(w.Context(), scope, func(ctx context.Context, _ prod) (int, error) { return 0, bad(ctx) }, bus.WithConcurrency(4)))
				}

				// Those that do not.
				var sent [beats]time.Time
				heard := map[string]*latencies{}
				listen := func(name string, s bus.Scope, opts ...bus.SubscribeOption) {
					l := &latencies{}
					heard[name] = l
					_, err := bus.Subscribe(w.Context(), s, func(_ context.Context, e beat) error { l.add(sent[e.N]); return nil }, opts...)
					require.NoError(w, err)
				}
				listen("good", b, bus.WithGroup("good"))
				listen("narrow", b, bus.WithGroup("narrow"), bus.WithConcurrency(1))
				listen("private", b, bus.WithPrivate())
				listen("session", s)
				for _, scope := range []bus.Scope{b, s} {
					require.NoError(w, bus.Handle(w.Context(), scope, func(context.Context, poke) (int, error) { return 1, nil }, bus.WithConcurrency(1)))
				}

				var calls latencies
				var prods sync.WaitGroup
				for n := range beats {
					sent[n] = time.Now()
					for _, scope := range []bus.Scope{s, other} {
						if scope == s || n%10 == 0 {
							require.NoError(w, bus.Publish(w.Context(), scope, beat{n}))
						}
					}
					require.NoError(w, bus.Publish(w.Context(), b, pulse{n}))
					for _, scope := range []bus.Scope{b, other} {
						prods.Go(func() { _, _ = bus.Execute(w.Context(), scope, prod{}, bus.WithTimeout(time.Second)) })
					}
					for _, scope := range []bus.Scope{b, s, other} {
						began := time.Now()
						v, err := bus.Execute(w.Context(), scope, poke{})
						require.NoError(w, err)
						require.Equal(w, 1, v)
						calls.add(began)
					}
					world.Settle(50 * time.Millisecond)
				}
				world.Settle(time.Second)
				for name, l := range heard {
					want := beats + beats/10
					if name == "session" {
						want = beats
					}
					require.Equal(w, want, l.count(), name)
					for _, took := range l.all {
						require.Less(w, took, 50*time.Millisecond, name)
					}
				}
				for _, took := range calls.all {
					require.Less(w, took, 50*time.Millisecond)
				}
				require.LessOrEqual(w, most.Load(), int64(4), "its bulkhead")

				close(end)
				prods.Wait()
				require.NoError(w, s.Close(w.Context()), "a session of the others closes")
			})
		})
	}
}

// What a group cannot take, because its dead letters are refused, is its own affair.
func TestGroupWithoutRoomForItsDeadLettersHarmsNoOther(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, tr := w.Process("svc")
		tr.Set(world.Failing("bury", errors.New("full")))
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, beat) error { return bus.Permanent(world.ErrOops) }, bus.WithGroup("bad"))
		require.NoError(w, err)
		good := world.NewRecord[int]()
		_, err = bus.Subscribe(w.Context(), b, func(_ context.Context, e beat) error { good.Add(e.N); return nil }, bus.WithGroup("good"))
		require.NoError(w, err)
		for n := range 200 {
			require.NoError(w, bus.Publish(w.Context(), b, beat{n}))
			require.Len(w, good.Wait(w, n+1), n+1)
			world.Settle(10 * time.Millisecond)
		}
		require.Empty(w, w.DeadLetters(tr, 0))
		tr.Set(nil)
		for range 100 { // none is lost
			stats, err := tr.DeadLetters().Stats(w.Context())
			require.NoError(w, err)
			if stats.Count == 200 {
				return
			}
			world.Settle(time.Second)
		}
		require.Fail(w, "dead letters missing")
	})
}
