package integration_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

func TestRetriesWaitAndEndAsADeadLetter(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: world.Steady})
		at := world.NewRecord[time.Time]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			at.Add(time.Now())
			return fmt.Errorf("send mail: %w", world.ErrOops)
		}, bus.WithName("mail"))
		require.NoError(w, err)
		sent := time.Now()
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada", Note: "hello"},
			bus.WithID("evt-1"), bus.WithHeader("Tenant", "t1")))

		runs := at.Wait(w, 4)
		for i, want := range []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second} {
			require.InDelta(w, want.Seconds(), runs[i].Sub(sent).Seconds(), 0.3, "run %d", i+1)
		}
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, "event", d.Kind)
		require.Equal(w, "svc", d.Group)
		require.Equal(w, "mail", d.Handler)
		require.Equal(w, "failed", d.Code)
		require.Equal(w, "send mail: oops", d.Error)
		require.Equal(w, 4, d.Attempts)
		require.Equal(w, "svc", d.Service)
		require.Equal(w, "evt-1", d.Message.ID)
		require.Equal(w, transport.Address{Name: "user.created"}, d.Message.To)
		require.Equal(w, transport.Header{"Tenant": {"t1"}}, d.Message.Header)
		require.False(w, d.First.After(runs[0]))
		require.False(w, d.Last.Before(runs[3]))
		if w.InProcess {
			require.Equal(w, world.UserCreated{ID: "ada", Note: "hello"}, d.Message.Value)
		} else {
			require.JSONEq(w, `{"ID":"ada","Note":"hello"}`, string(d.Message.Body))
		}
		world.Settle(20 * time.Minute)
		require.Len(w, at.All(), 4, "settled for good")
		w.DeadLetters(tr, 1)
	})
}

func TestRetrySucceeds(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: world.Steady})
		attempts := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			attempts.Add(m.Attempt)
			if m.Attempt < 3 {
				return world.ErrOops
			}
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(20 * time.Minute)
		require.Equal(w, []int{1, 2, 3}, attempts.All())
		w.DeadLetters(tr, 0)
	})
}

func TestErrorsSteerTheRetry(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: world.Steady})
		at := world.NewRecord[string]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			at.Add(fmt.Sprintf("%s %d %v", e.ID, m.Attempt, time.Since(began).Round(time.Second)))
			switch {
			case e.ID == "permanent":
				return fmt.Errorf("wrapped: %w", bus.Permanent(world.ErrOops))
			case e.ID == "panic" && m.Attempt == 1:
				panic(world.ErrOops)
			case e.ID == "goexit" && m.Attempt == 1:
				runtime.Goexit()
			case e.ID == "after" && m.Attempt == 1:
				return bus.RetryAfter(20*time.Second, world.ErrOops)
			case e.ID == "long" && m.Attempt == 1:
				return bus.RetryAfter(10*time.Minute, world.ErrOops)
			case e.ID == "long" && m.Attempt == 2:
				return bus.RetryAfter(20*time.Minute, world.ErrOops)
			}
			return nil
		})
		require.NoError(w, err)
		for _, id := range []world.UserID{"permanent", "panic", "goexit", "after", "long"} {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: id}))
		}
		world.Settle(40 * time.Minute)
		require.ElementsMatch(w, []string{
			"permanent 1 0s", "panic 1 0s", "goexit 1 0s", "after 1 0s", "long 1 0s",
			"panic 2 1s", "goexit 2 1s", "after 2 20s", "long 2 10m0s", "long 3 30m0s",
		}, at.All())
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, 1, d.Attempts)
		require.Contains(w, d.Error, "oops")
	})
}

func TestPanicIsKeptWithItsStack(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { panic("boom") },
			bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, "panic", d.Code)
		require.Contains(w, d.Error, "boom")
		require.Contains(w, d.Stack, "TestPanicIsKeptWithItsStack")
	})
}

func TestOnlyTheFailedHandlerRunsAgain(t *testing.T) {
	for _, delay := range []time.Duration{time.Second, 5 * time.Minute} { // held here; sent as a copy
		t.Run(delay.String(), func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				b := w.BusOn(tr, bus.Config{Retry: world.Steady})
				got := world.NewRecord[string]()
				listen := func(name string, priority, fails int) {
					_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
						m, _ := bus.MetaFrom(ctx)
						got.Add(fmt.Sprint(name, " ", m.Attempt, " ", m.ID))
						if m.Attempt <= fails {
							return bus.RetryAfter(delay, world.ErrOops)
						}
						return nil
					}, bus.WithName(name), bus.WithPriority(priority))
					require.NoError(w, err)
				}
				listen("good", 100, 0)
				listen("flaky", 50, 2)
				listen("hopeless", 10, 9)
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e")))
				world.Settle(20 * time.Minute)
				require.ElementsMatch(w, []string{
					"good 1 e", "flaky 1 e", "flaky 2 e", "flaky 3 e",
					"hopeless 1 e", "hopeless 2 e", "hopeless 3 e", "hopeless 4 e",
				}, got.All())
				d := w.DeadLetters(tr, 1)[0]
				require.Equal(w, "hopeless", d.Handler)
				require.Equal(w, 4, d.Attempts)
				require.Equal(w, "e", d.Message.ID, "the record shows the event, not the copy")
				require.Empty(w, d.Message.Header)
				require.Empty(w, d.Message.To.Group)
			})
		})
	}
}

func TestWaitingRetriesHoldNoWorker(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		done := world.NewRecord[world.UserID]()
		for _, name := range []string{"a", "b"} {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				if m, _ := bus.MetaFrom(ctx); name == "b" && e.ID == "slow" && m.Attempt == 1 {
					return bus.RetryAfter(20*time.Second, world.ErrOops)
				}
				if name == "b" {
					done.Add(e.ID)
				}
				return nil
			}, bus.WithName(name), bus.WithConcurrency(1))
			require.NoError(w, err)
		}
		for range 5 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "slow"}))
		}
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "fast"}))
		began := time.Now()
		require.Equal(w, []world.UserID{"fast"}, done.Wait(w, 1))
		require.Less(w, time.Since(began), 5*time.Second)
		done.Wait(w, 6)
	})
}

func TestPrivateListenerRetriesInItsProcess(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: world.Steady})
		attempts := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			attempts.Add(m.Attempt)
			return world.ErrOops
		}, bus.WithPrivate())
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		require.Equal(w, []int{1, 2, 3, 4}, attempts.Wait(w, 4))
		d := w.DeadLetters(tr, 1)[0]
		require.Empty(w, d.Group)
	})
}

func TestLongHandlerRunsOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		runs := world.NewRecord[int]()
		for range 2 {
			b := w.Bus(bus.Config{})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				runs.Add(1)
				time.Sleep(10 * time.Minute) // twenty times AckWait
				return ctx.Err()
			})
			require.NoError(w, err)
		}
		require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{Service: "p"}), world.UserCreated{}))
		world.Settle(30 * time.Minute)
		require.Len(w, runs.All(), 1)
	})
}

func TestHandlerThatRunsTooLongIsCancelled(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{MaxRun: 2 * time.Minute, Retry: world.Steady})
		causes := world.NewRecord[error]()
		var runs atomic.Int64
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			if runs.Add(1) > 1 {
				return nil
			}
			<-ctx.Done()
			causes.Add(context.Cause(ctx))
			return ctx.Err()
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(10 * time.Minute)
		require.Len(w, causes.All(), 1)
		require.ErrorIs(w, causes.All()[0], bus.ErrMaxRun)
		require.EqualValues(w, 2, runs.Load(), "and it counts as a failure")
	})
}

func TestUndecodableEventsBecomeDeadLetters(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if w.InProcess {
			return // values are not decoded
		}
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		good := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { good.Add(e.ID); return nil })
		require.NoError(w, err)
		to := transport.Address{Name: "user.created"}
		for _, m := range []*transport.Message{
			{To: to, ID: "truncated", Body: []byte(`{"ID":`)},
			{To: to, ID: "empty", Body: nil},
			{To: to, ID: "wrong type", Body: []byte(`{"ID":{}}`)},
			{To: to, ID: "foreign", Body: []byte{0xff, 0x00}, ContentType: "application/x-unknown"},
			{To: to, ID: "deep", Body: []byte(strings.Repeat("[", 5000))},
		} {
			m.ID = strings.ReplaceAll(m.ID, " ", "-")
			require.NoError(w, tr.Publish(w.Context(), m))
		}
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "good"}))
		require.Equal(w, []world.UserID{"good"}, good.Wait(w, 1))
		for _, d := range w.DeadLetters(tr, 5) {
			require.Equal(w, "invalid", d.Code)
			require.Contains(w, d.Error, "user.created")
			require.Zero(w, d.Attempts, "it never ran")
			if d.Message.ID == "foreign" {
				require.Contains(w, d.Error, "application/x-unknown")
				require.Equal(w, []byte{0xff, 0x00}, d.Message.Body)
			}
		}
	})
}

// crashes delivers the event that is next for the group svc n times to a process that
// dies with it, having run it or not.
func crashes(w *world.World, tr transport.Transport, n int) {
	w.Helper()
	src, err := tr.Subscribe(w.Context(), transport.Subscription{Name: "user.created", Group: "svc", AckWait: 30 * time.Second})
	require.NoError(w, err)
	for range n {
		_, err := src.Next(w.Context())
		require.NoError(w, err)
		world.Settle(31 * time.Second)
	}
	require.NoError(w, src.Close(w.Context()))
}

// An event whose process dies with it is run four times, which are its attempts, and
// twice more, the last time with a mark: then it is a dead letter, unrun.
func TestCrashLoopIsDeadLetteredUnrun(t *testing.T) {
	for name, subscribe := range map[string]func(w *world.World, b *bus.Bus, f func(context.Context) error){
		"one by one": func(w *world.World, b *bus.Bus, f func(context.Context) error) {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error { return f(ctx) })
			require.NoError(w, err)
		},
		"in batches": func(w *world.World, b *bus.Bus, f func(context.Context) error) {
			_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, _ []world.UserCreated) error { return f(ctx) })
			require.NoError(w, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				b := w.BusOn(tr, bus.Config{})
				src, err := tr.Subscribe(w.Context(), transport.Subscription{Name: "user.created", Group: "svc"})
				require.NoError(w, err)
				require.NoError(w, src.Close(w.Context()))
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
				crashes(w, tr, 5)
				dies := world.NewFaulty(w.Open())
				started := world.NewRecord[int]()
				subscribe(w, w.BusOn(dies, bus.Config{}), func(ctx context.Context) error {
					started.Add(1)
					<-ctx.Done()
					return ctx.Err()
				})
				started.Wait(w, 1)
				dies.Kill()
				world.Settle(31 * time.Second)
				ran := world.NewRecord[int]()
				subscribe(w, b, func(context.Context) error { ran.Add(1); return nil })
				d := w.DeadLetters(tr, 1)[0]
				require.Contains(w, d.Error, "running when its process ended")
				require.Equal(w, 6, d.Attempts)
				world.Settle(20 * time.Minute)
				require.Empty(w, ran.All())
				require.Len(w, started.All(), 1)
				w.DeadLetters(tr, 1)
			})
		})
	}
}

// One that only waited in the buffers of processes that died is none of that, however
// often; nor is one whose process closed while it ran.
func TestEventsBesideACrashLoopAreHandled(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		src, err := tr.Subscribe(w.Context(), transport.Subscription{Name: "user.created", Group: "svc"})
		require.NoError(w, err)
		require.NoError(w, src.Close(w.Context()))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		crashes(w, tr, 9)
		attempts := world.NewRecord[int]()
		for range 3 {
			b := w.Bus(bus.Config{CloseTimeout: time.Second})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				attempts.Add(m.Attempt)
				<-ctx.Done()
				return ctx.Err()
			})
			require.NoError(w, err)
			attempts.Wait(w, 1)
			world.Settle(time.Second)
			require.NoError(w, b.Close(w.Context()))
		}
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			attempts.Add(m.Attempt)
			return nil
		})
		require.NoError(w, err)
		world.Settle(20 * time.Minute)
		require.Equal(w, []int{10, 10, 10, 10}, attempts.All())
		w.DeadLetters(tr, 0)
	})
}

// A dead letter that was refused for long tells of the failure, not of a crash.
func TestDeadLetterThatWasRefusedForLongTellsWhy(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := &fullDeadLetters{Transport: w.Open()}
		tr.full.Store(true)
		b := w.BusOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return bus.Permanent(world.ErrOops) })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(10 * time.Minute)
		w.DeadLetters(tr.Transport, 0)
		tr.full.Store(false)
		d := w.DeadLetters(tr.Transport, 1)[0]
		require.Equal(w, "oops", d.Error)
		require.Equal(w, "default", d.Handler)
		require.Greater(w, d.Attempts, 10)
	})
}

func TestRefusedDeadLetterKeepsTheEvent(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := &fullDeadLetters{Transport: w.Open()}
		tr.full.Store(true)
		b := w.BusOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return bus.Permanent(world.ErrOops) })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e")))
		world.Settle(20 * time.Second)
		w.DeadLetters(tr.Transport, 0)
		tr.full.Store(false)
		require.Equal(w, "e", w.DeadLetters(tr.Transport, 1)[0].Message.ID)
	})
}

// fullDeadLetters refuses dead letters while full is set.
type fullDeadLetters struct {
	transport.Transport
	full atomic.Bool
}

func (f *fullDeadLetters) InProcess() bool {
	p, ok := f.Transport.(transport.InProcess)
	return ok && p.InProcess()
}

func (f *fullDeadLetters) DeadLetters() transport.DeadLetters {
	return refusing{f.Transport.DeadLetters(), &f.full}
}

type refusing struct {
	transport.DeadLetters
	full *atomic.Bool
}

func (r refusing) Add(ctx context.Context, d *transport.DeadLetter) error {
	if r.full.Load() {
		return transport.ErrBacklog
	}
	return r.DeadLetters.Add(ctx, d)
}

func TestRetryForAHandlerThatIsNotHere(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		listen := func(b *bus.Bus, name string, fail bool, got *world.Record[string]) *bus.Subscription {
			sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				got.Add(fmt.Sprint(name, " ", m.Attempt))
				if fail {
					return bus.RetryAfter(time.Minute, world.ErrOops)
				}
				return nil
			}, bus.WithName(name))
			require.NoError(w, err)
			return sub
		}
		got := world.NewRecord[string]()
		old := w.Bus(bus.Config{})
		listen(old, "kept", false, got)
		listen(old, "dropped", true, got)
		listen(old, "moved", true, got)
		require.NoError(w, bus.Publish(w.Context(), old, world.UserCreated{}, bus.WithID("e")))
		got.Wait(w, 3)
		world.Settle(time.Second)
		require.NoError(w, old.Close(w.Context()))

		// The next version has no "dropped", and "moved" starts later.
		b := w.BusOn(tr, bus.Config{})
		listen(b, "kept", false, got)
		world.Settle(80 * time.Second)
		listen(b, "moved", false, got)
		world.Settle(20 * time.Minute)
		require.ElementsMatch(w, []string{"kept 1", "dropped 1", "moved 1", "moved 2"}, got.All())
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, "dropped", d.Handler)
		require.Equal(w, "no_handler", d.Code)
		require.Equal(w, "e", d.Message.ID)
	})
}

func TestClosingTheLastListenerLosesNothing(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		seen := world.NewRecord[world.UserID]()
		listen := func() *bus.Subscription {
			sub, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { seen.Add(e.ID); return nil })
			require.NoError(w, err)
			return sub
		}
		sub := listen()
		sent := make(chan int)
		go func() {
			n := 0
			for range 300 {
				if bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(fmt.Sprint(n))}) == nil {
					n++
				}
			}
			sent <- n
		}()
		for range 20 {
			world.Settle(time.Millisecond)
			require.NoError(w, sub.Close(w.Context()))
			sub = listen()
		}
		n := <-sent
		seen.Wait(w, n)
		world.Settle(time.Minute)
		distinct := map[world.UserID]bool{}
		for _, id := range seen.All() {
			distinct[id] = true
		}
		require.Len(w, distinct, n)
	})
}

func TestEventsWithoutAnIDAreToldApart(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: world.Steady})
		ids := world.NewRecord[string]()
		for _, name := range []string{"good", "bad"} {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				ids.Add(m.ID)
				if name == "bad" {
					return bus.RetryAfter(time.Minute, world.ErrOops) // by way of a copy
				}
				return nil
			}, bus.WithName(name))
			require.NoError(w, err)
		}
		for range 2 {
			m := &transport.Message{To: transport.Address{Name: "user.created"}, Body: []byte(`{}`)}
			if w.InProcess {
				m.Body, m.Value = nil, world.UserCreated{}
			}
			require.NoError(w, tr.Publish(w.Context(), m))
		}
		world.Settle(20 * time.Minute)
		all := w.DeadLetters(tr, 2)
		require.NotEqual(w, all[0].Message.ID, all[1].Message.ID)
		require.NotEmpty(w, all[0].Message.ID)
		require.Len(w, ids.All(), 2*(1+4), "and their retries too")
	})
}
