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
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

func TestRetriesWaitAndEndAsADeadLetter(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Retry: steady})
		at := newRecord[time.Time]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			at.add(time.Now())
			return fmt.Errorf("send mail: %w", errOops)
		}, bus.WithName("mail"))
		require.NoError(w, err)
		sent := time.Now()
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "ada", Note: "hello"},
			bus.WithID("evt-1"), bus.WithHeader("Tenant", "t1")))

		runs := at.wait(w, 4)
		for i, want := range []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second} {
			require.InDelta(w, want.Seconds(), runs[i].Sub(sent).Seconds(), 0.3, "run %d", i+1)
		}
		d := w.deadLetters(tr, 1)[0]
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
		if w.inProcess {
			require.Equal(w, userCreated{ID: "ada", Note: "hello"}, d.Message.Value)
		} else {
			require.JSONEq(w, `{"ID":"ada","Note":"hello"}`, string(d.Message.Body))
		}
		settle(time.Hour)
		require.Len(w, at.all(), 4, "settled for good")
		w.deadLetters(tr, 1)
	})
}

func TestRetrySucceeds(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Retry: steady})
		attempts := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			attempts.add(m.Attempt)
			if m.Attempt < 3 {
				return errOops
			}
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Hour)
		require.Equal(w, []int{1, 2, 3}, attempts.all())
		w.deadLetters(tr, 0)
	})
}

func TestErrorsSteerTheRetry(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Retry: steady})
		at := newRecord[string]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			at.add(fmt.Sprintf("%s %d %v", e.ID, m.Attempt, time.Since(began).Round(time.Second)))
			switch {
			case e.ID == "permanent":
				return fmt.Errorf("wrapped: %w", bus.Permanent(errOops))
			case e.ID == "panic" && m.Attempt == 1:
				panic(errOops)
			case e.ID == "goexit" && m.Attempt == 1:
				runtime.Goexit()
			case e.ID == "after" && m.Attempt == 1:
				return bus.RetryAfter(20*time.Second, errOops)
			case e.ID == "long" && m.Attempt == 1:
				return bus.RetryAfter(10*time.Minute, errOops)
			case e.ID == "long" && m.Attempt == 2:
				return bus.RetryAfter(time.Hour, errOops)
			}
			return nil
		})
		require.NoError(w, err)
		for _, id := range []userID{"permanent", "panic", "goexit", "after", "long"} {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: id}))
		}
		settle(2 * time.Hour)
		require.ElementsMatch(w, []string{
			"permanent 1 0s", "panic 1 0s", "goexit 1 0s", "after 1 0s", "long 1 0s",
			"panic 2 1s", "goexit 2 1s", "after 2 20s", "long 2 10m0s", "long 3 1h10m0s",
		}, at.all())
		d := w.deadLetters(tr, 1)[0]
		require.Equal(w, 1, d.Attempts)
		require.Contains(w, d.Error, "oops")
	})
}

func TestPanicIsKeptWithItsStack(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { panic("boom") },
			bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		d := w.deadLetters(tr, 1)[0]
		require.Equal(w, "panic", d.Code)
		require.Contains(w, d.Error, "boom")
		require.Contains(w, d.Stack, "TestPanicIsKeptWithItsStack")
	})
}

func TestOnlyTheFailedHandlerRunsAgain(t *testing.T) {
	for _, delay := range []time.Duration{time.Second, 5 * time.Minute} { // held here; sent as a copy
		t.Run(delay.String(), func(t *testing.T) {
			everywhere(t, func(w *world) {
				tr := w.open()
				b := w.busOn(tr, bus.Config{Retry: steady})
				got := newRecord[string]()
				listen := func(name string, priority, fails int) {
					_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
						m, _ := bus.MetaFrom(ctx)
						got.add(fmt.Sprint(name, " ", m.Attempt, " ", m.ID))
						if m.Attempt <= fails {
							return bus.RetryAfter(delay, errOops)
						}
						return nil
					}, bus.WithName(name), bus.WithPriority(priority))
					require.NoError(w, err)
				}
				listen("good", 100, 0)
				listen("flaky", 50, 2)
				listen("hopeless", 10, 9)
				require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e")))
				settle(time.Hour)
				require.ElementsMatch(w, []string{
					"good 1 e", "flaky 1 e", "flaky 2 e", "flaky 3 e",
					"hopeless 1 e", "hopeless 2 e", "hopeless 3 e", "hopeless 4 e",
				}, got.all())
				d := w.deadLetters(tr, 1)[0]
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
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		done := newRecord[userID]()
		for _, name := range []string{"a", "b"} {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				if m, _ := bus.MetaFrom(ctx); name == "b" && e.ID == "slow" && m.Attempt == 1 {
					return bus.RetryAfter(20*time.Second, errOops)
				}
				if name == "b" {
					done.add(e.ID)
				}
				return nil
			}, bus.WithName(name), bus.WithConcurrency(1))
			require.NoError(w, err)
		}
		for range 5 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "slow"}))
		}
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "fast"}))
		began := time.Now()
		require.Equal(w, []userID{"fast"}, done.wait(w, 1))
		require.Less(w, time.Since(began), 5*time.Second)
		done.wait(w, 6)
	})
}

func TestPrivateListenerRetriesInItsProcess(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Retry: steady})
		attempts := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			attempts.add(m.Attempt)
			return errOops
		}, bus.WithPrivate())
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		require.Equal(w, []int{1, 2, 3, 4}, attempts.wait(w, 4))
		d := w.deadLetters(tr, 1)[0]
		require.Empty(w, d.Group)
	})
}

func TestLongHandlerRunsOnce(t *testing.T) {
	everywhere(t, func(w *world) {
		runs := newRecord[int]()
		for range 2 {
			b := w.bus(bus.Config{})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				runs.add(1)
				time.Sleep(10 * time.Minute) // twenty times AckWait
				return ctx.Err()
			})
			require.NoError(w, err)
		}
		require.NoError(w, bus.Publish(w.Context(), w.bus(bus.Config{Service: "p"}), userCreated{}))
		settle(time.Hour)
		require.Len(w, runs.all(), 1)
	})
}

func TestHandlerThatRunsTooLongIsCancelled(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{MaxRun: 2 * time.Minute, Retry: steady})
		causes := newRecord[error]()
		var runs atomic.Int64
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			if runs.Add(1) > 1 {
				return nil
			}
			<-ctx.Done()
			causes.add(context.Cause(ctx))
			return ctx.Err()
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(10 * time.Minute)
		require.Len(w, causes.all(), 1)
		require.ErrorIs(w, causes.all()[0], bus.ErrMaxRun)
		require.EqualValues(w, 2, runs.Load(), "and it counts as a failure")
	})
}

func TestUndecodableEventsBecomeDeadLetters(t *testing.T) {
	everywhere(t, func(w *world) {
		if w.inProcess {
			return // values are not decoded
		}
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		good := newRecord[userID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error { good.add(e.ID); return nil })
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
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "good"}))
		require.Equal(w, []userID{"good"}, good.wait(w, 1))
		for _, d := range w.deadLetters(tr, 5) {
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
func (w *world) crashes(tr transport.Transport, n int) {
	w.Helper()
	src, err := tr.Subscribe(w.Context(), transport.Subscription{Name: "user.created", Group: "svc", AckWait: 30 * time.Second})
	require.NoError(w, err)
	for range n {
		_, err := src.Next(w.Context())
		require.NoError(w, err)
		settle(31 * time.Second)
	}
	require.NoError(w, src.Close(w.Context()))
}

// An event whose process dies with it is run four times, which are its attempts, and
// twice more, the last time with a mark: then it is a dead letter, unrun.
func TestCrashLoopIsDeadLetteredUnrun(t *testing.T) {
	for name, subscribe := range map[string]func(w *world, b *bus.Bus, f func(context.Context) error){
		"one by one": func(w *world, b *bus.Bus, f func(context.Context) error) {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error { return f(ctx) })
			require.NoError(w, err)
		},
		"in batches": func(w *world, b *bus.Bus, f func(context.Context) error) {
			_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, _ []userCreated) error { return f(ctx) })
			require.NoError(w, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(w *world) {
				tr := w.open()
				b := w.busOn(tr, bus.Config{})
				src, err := tr.Subscribe(w.Context(), transport.Subscription{Name: "user.created", Group: "svc"})
				require.NoError(w, err)
				require.NoError(w, src.Close(w.Context()))
				require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
				w.crashes(tr, 5)
				dies := newFaulty(w.open())
				started := newRecord[int]()
				subscribe(w, w.busOn(dies, bus.Config{}), func(ctx context.Context) error {
					started.add(1)
					<-ctx.Done()
					return ctx.Err()
				})
				started.wait(w, 1)
				dies.kill()
				settle(31 * time.Second)
				ran := newRecord[int]()
				subscribe(w, b, func(context.Context) error { ran.add(1); return nil })
				d := w.deadLetters(tr, 1)[0]
				require.Contains(w, d.Error, "running when its process ended")
				require.Equal(w, 6, d.Attempts)
				settle(time.Hour)
				require.Empty(w, ran.all())
				require.Len(w, started.all(), 1)
				w.deadLetters(tr, 1)
			})
		})
	}
}

// One that only waited in the buffers of processes that died is none of that, however
// often; nor is one whose process closed while it ran.
func TestEventsBesideACrashLoopAreHandled(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		src, err := tr.Subscribe(w.Context(), transport.Subscription{Name: "user.created", Group: "svc"})
		require.NoError(w, err)
		require.NoError(w, src.Close(w.Context()))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		w.crashes(tr, 9)
		attempts := newRecord[int]()
		for range 3 {
			b := w.bus(bus.Config{CloseTimeout: time.Second})
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
				m, _ := bus.MetaFrom(ctx)
				attempts.add(m.Attempt)
				<-ctx.Done()
				return ctx.Err()
			})
			require.NoError(w, err)
			attempts.wait(w, 1)
			settle(time.Second)
			require.NoError(w, b.Close(w.Context()))
		}
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			attempts.add(m.Attempt)
			return nil
		})
		require.NoError(w, err)
		settle(time.Hour)
		require.Equal(w, []int{10, 10, 10, 10}, attempts.all())
		w.deadLetters(tr, 0)
	})
}

// A dead letter that was refused for long tells of the failure, not of a crash.
func TestDeadLetterThatWasRefusedForLongTellsWhy(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := &fullDeadLetters{Transport: w.open()}
		tr.full.Store(true)
		b := w.busOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return bus.Permanent(errOops) })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(10 * time.Minute)
		w.deadLetters(tr.Transport, 0)
		tr.full.Store(false)
		d := w.deadLetters(tr.Transport, 1)[0]
		require.Equal(w, "oops", d.Error)
		require.Equal(w, "default", d.Handler)
		require.Greater(w, d.Attempts, 10)
	})
}

func TestRefusedDeadLetterKeepsTheEvent(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := &fullDeadLetters{Transport: w.open()}
		tr.full.Store(true)
		b := w.busOn(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return bus.Permanent(errOops) })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e")))
		settle(20 * time.Second)
		w.deadLetters(tr.Transport, 0)
		tr.full.Store(false)
		require.Equal(w, "e", w.deadLetters(tr.Transport, 1)[0].Message.ID)
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
	everywhere(t, func(w *world) {
		tr := w.open()
		listen := func(b *bus.Bus, name string, fail bool, got *record[string]) *bus.Subscription {
			sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				m, _ := bus.MetaFrom(ctx)
				got.add(fmt.Sprint(name, " ", m.Attempt))
				if fail {
					return bus.RetryAfter(time.Minute, errOops)
				}
				return nil
			}, bus.WithName(name))
			require.NoError(w, err)
			return sub
		}
		got := newRecord[string]()
		old := w.bus(bus.Config{})
		listen(old, "kept", false, got)
		listen(old, "dropped", true, got)
		listen(old, "moved", true, got)
		require.NoError(w, bus.Publish(w.Context(), old, userCreated{}, bus.WithID("e")))
		got.wait(w, 3)
		settle(time.Second)
		require.NoError(w, old.Close(w.Context()))

		// The next version has no "dropped", and "moved" starts later.
		b := w.busOn(tr, bus.Config{})
		listen(b, "kept", false, got)
		settle(80 * time.Second)
		listen(b, "moved", false, got)
		settle(time.Hour)
		require.ElementsMatch(w, []string{"kept 1", "dropped 1", "moved 1", "moved 2"}, got.all())
		d := w.deadLetters(tr, 1)[0]
		require.Equal(w, "dropped", d.Handler)
		require.Equal(w, "no_handler", d.Code)
		require.Equal(w, "e", d.Message.ID)
	})
}

func TestClosingTheLastListenerLosesNothing(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		seen := newRecord[userID]()
		listen := func() *bus.Subscription {
			sub, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error { seen.add(e.ID); return nil })
			require.NoError(w, err)
			return sub
		}
		sub := listen()
		sent := make(chan int)
		go func() {
			n := 0
			for range 300 {
				if bus.Publish(w.Context(), b, userCreated{ID: userID(fmt.Sprint(n))}) == nil {
					n++
				}
			}
			sent <- n
		}()
		for range 20 {
			settle(time.Millisecond)
			require.NoError(w, sub.Close(w.Context()))
			sub = listen()
		}
		n := <-sent
		seen.wait(w, n)
		settle(time.Minute)
		distinct := map[userID]bool{}
		for _, id := range seen.all() {
			distinct[id] = true
		}
		require.Len(w, distinct, n)
	})
}

func TestEventsWithoutAnIDAreToldApart(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Retry: steady})
		ids := newRecord[string]()
		for _, name := range []string{"good", "bad"} {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
				m, _ := bus.MetaFrom(ctx)
				ids.add(m.ID)
				if name == "bad" {
					return bus.RetryAfter(time.Minute, errOops) // by way of a copy
				}
				return nil
			}, bus.WithName(name))
			require.NoError(w, err)
		}
		for range 2 {
			m := &transport.Message{To: transport.Address{Name: "user.created"}, Body: []byte(`{}`)}
			if w.inProcess {
				m.Body, m.Value = nil, userCreated{}
			}
			require.NoError(w, tr.Publish(w.Context(), m))
		}
		settle(time.Hour)
		all := w.deadLetters(tr, 2)
		require.NotEqual(w, all[0].Message.ID, all[1].Message.ID)
		require.NotEmpty(w, all[0].Message.ID)
		require.Len(w, ids.all(), 2*(1+4), "and their retries too")
	})
}
