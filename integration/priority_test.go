package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// player is a listener that does as a test says: its first run returns the first
// error, and so on; then it succeeds.
type player struct {
	name     string
	priority int
	errs     []error
}

// play registers players and records each run, as "name attempt".
func play(w *world.World, s bus.Scope, ran *world.Record[string], players ...player) map[string]*bus.Subscription {
	w.Helper()
	subs := map[string]*bus.Subscription{}
	for _, p := range players {
		var runs atomic.Int64
		sub, err := bus.Subscribe(w.Context(), s, func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			ran.Add(fmt.Sprint(p.name, " ", m.Attempt))
			time.Sleep(10 * time.Millisecond) // so that nobody is done before another has begun
			if n := int(runs.Add(1)); n <= len(p.errs) {
				return p.errs[n-1]
			}
			return nil
		}, bus.WithName(p.name), bus.WithPriority(p.priority))
		require.NoError(w, err)
		subs[p.name] = sub
	}
	return subs
}

func stop(err error) error { return bus.StopPropagation(err) }

func later(d time.Duration) error { return bus.RetryAfter(d, world.ErrOops) }

// inBoth runs a behaviour for listeners of a group and for those of a session.
func inBoth(t *testing.T, f func(w *world.World, tr transport.Transport, s bus.Scope)) {
	t.Run("group", func(t *testing.T) {
		world.Everywhere(t, func(w *world.World) {
			tr := w.Open()
			f(w, tr, w.BusOn(tr, bus.Config{Retry: world.Steady}))
		})
	})
	t.Run("session", func(t *testing.T) {
		world.Everywhere(t, func(w *world.World) {
			tr := w.Open()
			s, err := w.BusOn(tr, bus.Config{Retry: world.Steady}).Session(w.Context(), "job")
			require.NoError(w, err)
			f(w, tr, s)
		})
	})
}

func TestFailuresByPriority(t *testing.T) {
	const high, normal, low = bus.PriorityHigh, bus.PriorityNormal, bus.PriorityLow
	const long = 40 * time.Second // the retry waits in the broker, if it may
	fail, halt, dead := world.ErrOops, stop(world.ErrOops), stop(bus.Permanent(world.ErrOops))
	for what, c := range map[string]struct {
		players []player
		want    []string // what is in one line runs in any order
		dead    []string
	}{
		"a failure stops nobody": {
			[]player{{"check", high, []error{fail, fail}}, {"work", normal, nil}, {"log", low, nil}},
			[]string{"check 1", "work 1", "log 1", "check 2", "check 3"}, nil,
		},
		"a dead letter stops nobody": {
			[]player{{"check", high, []error{bus.Permanent(fail)}}, {"work", normal, nil}},
			[]string{"check 1", "work 1"}, []string{"check"},
		},
		"stopped until it succeeds": {
			[]player{{"check", high, []error{halt, halt}}, {"work", normal, nil}, {"log", low, nil}},
			[]string{"check 1", "check 2", "check 3", "work 1", "log 1"}, nil,
		},
		"stopped for long": {
			[]player{{"check", high, []error{stop(later(long)), bus.RetryAfter(long, halt)}}, {"work", normal, nil}, {"log", low, nil}},
			[]string{"check 1", "check 2", "check 3", "work 1", "log 1"}, nil,
		},
		"stopped for long and then shortly": {
			[]player{{"check", high, []error{stop(later(long)), halt}}, {"work", normal, nil}, {"log", low, nil}},
			[]string{"check 1", "check 2", "check 3", "work 1", "log 1"}, nil,
		},
		"stopped shortly and then for long": {
			[]player{{"check", high, []error{halt, stop(later(long))}}, {"work", normal, nil}, {"log", low, nil}},
			[]string{"check 1", "check 2", "check 3", "work 1", "log 1"}, nil,
		},
		"each failure decides anew": {
			[]player{{"check", high, []error{halt, fail, halt}}, {"work", normal, nil}},
			[]string{"check 1", "check 2", "work 1", "check 3", "check 4"}, nil,
		},
		"stopped by the last attempt": {
			[]player{{"check", high, []error{halt, halt, halt, halt}}, {"work", normal, nil}},
			[]string{"check 1", "check 2", "check 3", "check 4"}, []string{"check"},
		},
		"stopped for good at once": {
			[]player{{"check", high, []error{dead}}, {"work", normal, nil}},
			[]string{"check 1"}, []string{"check"},
		},
		"stopped for good the other way round": {
			[]player{{"check", high, []error{bus.Permanent(halt)}}, {"work", normal, nil}},
			[]string{"check 1"}, []string{"check"},
		},
		"stopped for good after long": {
			[]player{{"check", high, []error{stop(later(long)), dead}}, {"work", normal, nil}},
			[]string{"check 1", "check 2"}, []string{"check"},
		},
		"a long wait that is not stopped any more": {
			[]player{{"check", high, []error{stop(later(long)), later(long)}}, {"work", normal, nil}},
			[]string{"check 1", "check 2", "work 1", "check 3"}, nil,
		},
		"in the middle": {
			[]player{{"first", high + 1, nil}, {"check", high, []error{halt}}, {"work", normal, nil}},
			[]string{"first 1", "check 1", "check 2", "work 1"}, nil,
		},
		"equal ones run all the same": {
			[]player{{"check", high, []error{halt}}, {"peer", high, nil}, {"work", normal, nil}},
			[]string{"check 1, peer 1", "check 2", "work 1"}, nil,
		},
		"several stop": {
			[]player{{"check", high, []error{halt}}, {"other", high, []error{halt, halt}}, {"work", normal, nil}},
			[]string{"check 1, other 1", "check 2, other 2", "other 3", "work 1"}, nil,
		},
		"several stop for long": {
			[]player{{"check", high, []error{stop(later(long))}}, {"other", high, []error{halt, stop(later(long))}}, {"work", normal, nil}},
			[]string{"check 1, other 1", "check 2, other 2", "other 3", "work 1"}, nil,
		},
		"one of several for good": {
			[]player{{"check", high, []error{dead}}, {"other", high, []error{halt}}, {"work", normal, nil}},
			[]string{"check 1, other 1", "other 2"}, []string{"check"},
		},
		"an equal one fails without stopping": {
			[]player{{"check", high, []error{stop(later(long))}}, {"peer", high, []error{later(2 * long)}}, {"work", normal, nil}},
			[]string{"check 1, peer 1", "check 2", "work 1", "peer 2"}, nil,
		},
		"those that waited fail themselves": {
			[]player{{"check", high, []error{halt}}, {"work", normal, []error{fail, stop(later(long)), fail}}, {"log", low, []error{fail}}},
			[]string{"check 1", "check 2", "work 1", "log 1", "work 2", "work 3", "log 2", "work 4"}, nil,
		},
		"one after the other": {
			[]player{{"check", high, []error{halt}}, {"work", normal, []error{halt, stop(later(long))}}, {"log", low, nil}},
			[]string{"check 1", "check 2", "work 1", "work 2", "work 3", "log 1"}, nil,
		},
	} {
		t.Run(what, func(t *testing.T) {
			inBoth(t, func(w *world.World, tr transport.Transport, s bus.Scope) {
				ran := world.NewRecord[string]()
				play(w, s, ran, c.players...)
				require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{}))
				world.Settle(5 * time.Minute)
				if _, ok := s.(*bus.Session); ok && what == "an equal one fails without stopping" {
					// What waits in one process waits together, for the longest.
					c.want = []string{"check 1, peer 1", "check 2, peer 2", "work 1"}
				}
				require.Equal(w, inAnyOrder(c.want, ran.All()), ran.All())
				var dead []string
				for _, d := range w.DeadLetters(tr, len(c.dead)) {
					dead = append(dead, d.Handler)
				}
				require.ElementsMatch(w, c.dead, dead)
			})
		})
	}
}

// inAnyOrder flattens want, and gives what is in one line of it the order that it
// has in got.
func inAnyOrder(want, got []string) (flat []string) {
	for _, line := range want {
		from := len(flat)
		flat = append(flat, strings.Split(line, ", ")...)
		if len(flat) == from+2 && len(got) >= len(flat) && got[from] == flat[from+1] {
			flat[from], flat[from+1] = flat[from+1], flat[from]
		}
	}
	return flat
}

// Nobody who waits holds a worker.
func TestWhileOneEventIsStoppedOthersRun(t *testing.T) {
	inBoth(t, func(w *world.World, _ transport.Transport, s bus.Scope) {
		ran := world.NewRecord[world.UserID]()
		for name, priority := range map[string]int{"check": 100, "work": 50} {
			_, err := bus.Subscribe(w.Context(), s, func(ctx context.Context, e world.UserCreated) error {
				if m, _ := bus.MetaFrom(ctx); name == "check" && e.ID == "slow" && m.Attempt == 1 {
					return stop(later(20 * time.Second))
				} else if name == "work" {
					ran.Add(e.ID)
				}
				return nil
			}, bus.WithName(name), bus.WithPriority(priority), bus.WithConcurrency(1))
			require.NoError(w, err)
		}
		for _, id := range []world.UserID{"slow", "slow", "slow", "fast"} {
			require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{ID: id}))
		}
		began := time.Now()
		require.Equal(w, []world.UserID{"fast"}, ran.Wait(w, 1))
		require.Less(w, time.Since(began), 10*time.Second)
		ran.Wait(w, 4)
	})
}

// A bus that closes hands what it holds to the group, as it stands.
func TestCloseWhileAnEventIsStopped(t *testing.T) {
	all := []player{{"check", 100, nil}, {"peer", 100, nil}, {"work", 50, nil}, {"log", 10, nil}}
	for what, c := range map[string]struct {
		next  [][]player // what other processes have, and a minute later again others
		close string     // the subscription that is closed, instead of the bus
		want  []string
		dead  []string
	}{
		"another process goes on":                {next: [][]player{all}, want: []string{"check 2", "work 1", "log 1"}},
		"one that has it in another order":       {next: [][]player{{{"check", 10, nil}, {"work", 50, nil}, {"log", 100, nil}}}, want: []string{"check 2", "log 1", "work 1"}},
		"one that lacks who waits":               {next: [][]player{{all[0], all[3]}, {all[2]}}, want: []string{"check 2", "log 1", "work 1"}},
		"one that lacks who stopped it":          {next: [][]player{{all[2]}, {all[0]}}, want: []string{"check 2", "work 1"}},
		"nobody ever has who stopped it":         {next: [][]player{{all[2]}}, dead: []string{"check", "work", "log"}},
		"who stopped it is closed, and again":    {next: [][]player{{all[0]}}, close: "check", want: []string{"check 2", "work 1", "log 1"}},
		"who waits is closed, and again":         {next: [][]player{{all[2]}}, close: "work", want: []string{"check 2", "log 1", "work 1"}},
		"it is stopped again, and then for good": {next: [][]player{{{"check", 100, []error{stop(later(20 * time.Second)), stop(bus.Permanent(world.ErrOops))}}, all[2]}}, want: []string{"check 2", "check 3"}, dead: []string{"check"}},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				w.BusOn(tr, bus.Config{Service: "p"}) // closes it
				b := w.Bus(bus.Config{Retry: world.Steady})
				before, after := world.NewRecord[string](), world.NewRecord[string]()
				now := []player{{"check", 100, []error{stop(later(20 * time.Second))}}, all[1], all[2], all[3]}
				if what == "one that lacks who stopped it" {
					now = now[:3] // two that nobody is sure to find might take turns in missing each other
				}
				subs := play(w, b, before, now...)
				at := time.Now()
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "x"}, bus.WithHeader("Tenant", "t")))
				before.Wait(w, 2)
				world.Settle(time.Second)
				ran := after
				if c.close != "" {
					require.NoError(w, subs[c.close].Close(w.Context()))
					ran = before
				} else {
					require.NoError(w, b.Close(w.Context()))
				}
				for i, players := range c.next {
					if i > 0 {
						world.Settle(30 * time.Second)
					}
					s := b
					if c.close == "" {
						s = w.Bus(bus.Config{Retry: world.Steady})
					}
					play(w, s, ran, players...)
				}
				world.Settle(5 * time.Minute)
				require.ElementsMatch(w, []string{"check 1", "peer 1"}, before.All()[:2])
				rest := append([]string{}, ran.All()...)
				if c.close != "" {
					rest = rest[2:]
				} else {
					require.Len(w, before.All(), 2)
				}
				require.Equal(w, append([]string{}, c.want...), rest)
				require.Greater(w, time.Since(at), 20*time.Second)
				var dead []string
				for _, d := range w.DeadLetters(tr, len(c.dead)) {
					dead = append(dead, d.Handler)
					require.Equal(w, transport.Header{"Tenant": {"t"}}, d.Message.Header)
				}
				require.ElementsMatch(w, c.dead, dead)
			})
		})
	}
}

// What Close cuts short decides nothing: it was stopped before and stays so.
func TestStoppedListenerIsCutShort(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ran, after := world.NewRecord[string](), world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				return stop(later(10 * time.Second))
			}
			<-ctx.Done()
			return ctx.Err()
		}, bus.WithName("check"), bus.WithPriority(100))
		require.NoError(w, err)
		play(w, b, ran, player{"work", 50, nil})
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(11 * time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.NoError(w, b.Close(ctx))
		play(w, w.Bus(bus.Config{}), after, player{"check", 100, nil}, player{"work", 50, nil})
		world.Settle(time.Minute)
		require.Empty(w, ran.All())
		require.Equal(w, []string{"check 2", "work 1"}, after.All())
	})
}

// Those that wait in a copy wait for everyone who stopped the event, also for one
// that is closed before its turn.
func TestStoppingListenerIsClosedBeforeItsTurn(t *testing.T) {
	for closed, want := range map[string][]string{"check": {"check 2", "work 1"}, "peer": {"check 2", "peer 2", "work 1"}} {
		t.Run(closed, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(bus.Config{})
				ran := world.NewRecord[string]()
				listen := func(name string, priority int) *bus.Subscription {
					sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
						m, _ := bus.MetaFrom(ctx)
						switch {
						case e.ID == "busy" && name == closed:
							time.Sleep(20 * time.Second)
						case e.ID == "busy" || name == "peer" && closed != "peer":
						case name != "work" && m.Attempt == 1:
							return stop(later(40 * time.Second))
						default:
							ran.Add(fmt.Sprint(name, " ", m.Attempt))
						}
						return nil
					}, bus.WithName(name), bus.WithPriority(priority), bus.WithConcurrency(map[bool]int{true: 1, false: 4}[name == closed]))
					require.NoError(w, err)
					return sub
				}
				subs := map[string]*bus.Subscription{"check": listen("check", 100), "peer": listen("peer", 100), "work": listen("work", 50)}
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "x"}))
				world.Settle(35 * time.Second)
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "busy"}))
				world.Settle(10 * time.Second)
				ctx, cancel := context.WithTimeout(w.Context(), time.Second)
				defer cancel()
				require.Error(w, subs[closed].Close(ctx), "it is busy")
				world.Settle(15 * time.Second)
				require.ElementsMatch(w, want[:len(want)-2], ran.All())
				listen(closed, 100)
				world.Settle(2 * time.Minute)
				require.Equal(w, want, ran.All())
			})
		})
	}
}

func TestStoppedForAsLongAsAsked(t *testing.T) {
	for _, wait := range []time.Duration{20 * time.Second, 40 * time.Second} {
		t.Run(wait.String(), func(t *testing.T) {
			inBoth(t, func(w *world.World, _ transport.Transport, s bus.Scope) {
				at := world.NewRecord[time.Duration]()
				began := time.Now()
				for _, name := range []string{"check", "peer"} {
					_, err := bus.Subscribe(w.Context(), s, func(ctx context.Context, _ world.UserCreated) error {
						at.Add(time.Since(began))
						if m, _ := bus.MetaFrom(ctx); m.Attempt > 1 {
							return nil
						}
						if name == "peer" {
							return stop(later(time.Second))
						}
						return stop(later(wait))
					}, bus.WithName(name), bus.WithPriority(100))
					require.NoError(w, err)
				}
				play(w, s, world.NewRecord[string](), player{"work", 50, nil})
				require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{}))
				for _, d := range at.Wait(w, 4)[2:] {
					require.InDelta(w, wait.Seconds(), d.Seconds(), 0.5)
				}
			})
		})
	}
}

// After a crash the event comes whole, and nobody knows who had run.
func TestCrashWhileAnEventIsStopped(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		ran := world.NewRecord[string]()
		play(w, w.BusOn(tr, bus.Config{Retry: world.Steady}), world.NewRecord[string](),
			player{"check", 100, []error{stop(later(20 * time.Second))}}, player{"work", 50, nil})
		require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{Service: "p"}), world.UserCreated{}))
		world.Settle(time.Second)
		tr.Kill()
		play(w, w.Bus(bus.Config{Retry: world.Steady}), ran, player{"check", 100, nil}, player{"work", 50, nil})
		world.Settle(5 * time.Minute)
		require.Equal(w, []string{"check 2", "work 2"}, ran.All())
	})
}

func TestStoppedWhileTheDeadLetterIsRefused(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := &fullDeadLetters{Transport: w.Open()}
		tr.full.Store(true)
		ran := world.NewRecord[string]()
		dead := stop(bus.Permanent(world.ErrOops))
		play(w, w.BusOn(tr, bus.Config{}), ran, player{"check", 100, []error{dead, dead, dead}}, player{"work", 50, nil})
		require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{Service: "p"}), world.UserCreated{}))
		world.Settle(8 * time.Second)
		require.Equal(w, []string{"check 1", "check 2"}, ran.All())
		tr.full.Store(false)
		world.Settle(20 * time.Minute)
		require.Equal(w, []string{"check 1", "check 2", "check 3"}, ran.All())
		w.DeadLetters(tr.Transport, 1)
	})
}

func TestStoppedWhileTheCopyIsRefused(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		ran := world.NewRecord[string]()
		play(w, w.BusOn(tr, bus.Config{}), ran, player{"check", 100, []error{stop(later(10 * time.Minute))}}, player{"work", 50, nil})
		tr.Set(world.Failing("publish", transport.ErrUnavailable))
		require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{Service: "p"}), world.UserCreated{}))
		world.Settle(15 * time.Minute)
		require.Equal(w, []string{"check 1", "check 2", "work 1"}, ran.All())
	})
}

func TestObserversSeeWhatIsStopped(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{Retry: world.Steady})
		play(w, b, world.NewRecord[string](),
			player{"check", 100, []error{stop(world.ErrOops), stop(bus.Permanent(world.ErrOops))}}, player{"work", 50, nil})
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Minute)
		require.Equal(w, []string{
			"sent user.created / 0",
			"handled user.created svc/check 1 failed", "retrying user.created svc/check 1 in 1s failed",
			"handled user.created svc/check 2 failed", "dead-lettered user.created svc/check 2 failed",
			"filtered user.created svc/work 1 failed",
		}, world.Steps(told.All()))
		require.ErrorIs(w, told.All()[5].Err, world.ErrOops)
	})
}

// A listener of a session that is closed while others wait for it, or while events
// wait for it, takes its share with it.
func TestSessionListenerIsClosedWhileEventsWait(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{Retry: world.Steady})
		s, err := b.Session(w.Context(), "job")
		require.NoError(w, err)
		ran := world.NewRecord[string]()
		subs := play(w, s, ran, player{"check", 100, []error{stop(later(20 * time.Second))}}, player{"work", 50, nil})
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{}))
		world.Settle(time.Second)
		require.NoError(w, subs["check"].Close(w.Context()))
		world.Settle(time.Minute)
		require.Equal(w, []string{"check 1"}, ran.All())
		lines := world.Steps(told.All())
		require.ElementsMatch(w, []string{"returned user.created /check 2 failed", "filtered user.created /work 1 failed"}, lines[len(lines)-2:])

		narrow := world.NewRecord[int]()
		sub, err := bus.Subscribe(w.Context(), s, func(context.Context, world.UserCreated) error {
			narrow.Add(1)
			time.Sleep(time.Minute)
			return nil
		}, bus.WithName("narrow"), bus.WithConcurrency(1))
		require.NoError(w, err)
		for range 5 {
			require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{}))
		}
		narrow.Wait(w, 1)
		world.Settle(time.Second)
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Minute)
		defer cancel()
		require.NoError(w, sub.Close(ctx))
		require.NoError(w, s.Close(ctx))
		require.Len(w, narrow.All(), 1)
	})
}

func TestStopPropagationOfNothing(t *testing.T) {
	require.NoError(t, bus.StopPropagation(nil))
	err := fmt.Errorf("check: %w", bus.StopPropagation(world.ErrOops))
	require.ErrorIs(t, err, world.ErrOops)
	require.EqualError(t, err, "check: oops")
	require.True(t, bus.IsPermanent(bus.StopPropagation(bus.Permanent(world.ErrOops))))
}
