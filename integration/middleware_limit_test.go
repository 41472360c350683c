package integration_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

func TestTimeoutOfAHandler(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{Retry: resilience.Retry{MaxRetries: 1}, Receiving: []bus.Middleware{middleware.Timeout(time.Second)}})
		waits := func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		ended := newRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
			if c.Name == "ignores" {
				time.Sleep(2 * time.Second)
				return "late", nil
			}
			err := waits(ctx)
			ended.add(err)
			return "", err
		}))
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error { return waits(ctx) })
		require.NoError(w, err)
		for _, from := range []*bus.Bus{b, w.bus(bus.Config{Service: "caller"})} {
			began := time.Now()
			_, err := bus.Execute(w.Context(), from, createUser{Name: "waits"})
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "it ran, and the caller's deadline has not passed")
			require.ErrorContains(w, err, "the handler of user.create took longer than 1s")
			require.Less(w, time.Since(began), 2*time.Second)

			id, err := bus.Execute(w.Context(), from, createUser{Name: "ignores"})
			require.NoError(w, err)
			require.Equal(w, userID("late"), id)

			ctx, cancel := context.WithTimeout(w.Context(), 500*time.Millisecond)
			_, err = bus.Execute(ctx, from, createUser{Name: "waits"})
			cancel()
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "the caller's own deadline")
		}
		for _, err := range ended.wait(w, 4) {
			require.ErrorIs(w, err, context.DeadlineExceeded)
		}
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		d := w.deadLetters(tr, 1)[0]
		require.Equal(w, "timeout", d.Code)
		require.Contains(w, d.Error, `the listener "default" of user.created in group "svc" took longer than 1s`)
		require.Equal(w, 2, d.Attempts, "it is retried like any failure")
	})
}

func TestTimeoutOfASender(t *testing.T) {
	everywhere(t, func(w *world) {
		server := w.bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, createUser) (userID, error) {
			time.Sleep(3 * time.Second)
			return "late", nil
		}))
		caller := w.bus(bus.Config{Service: "caller", Sending: []bus.Middleware{middleware.Timeout(time.Second)}})
		began := time.Now()
		_, err := bus.Execute(w.Context(), caller, createUser{Name: "a"})
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "execute user.create")
		require.Less(w, time.Since(began), 2*time.Second)
		settle(5 * time.Second)
	})
}

// A command is run again within its caller's deadline, by a process of its service.
func TestRetryOfACommand(t *testing.T) {
	everywhere(t, func(w *world) {
		runs := newRecord[time.Time]()
		errLocked := errors.New("locked")
		fail := errLocked
		server := w.bus(bus.Config{})
		inner := newRecord[int]()
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c createUser) (userID, error) {
			runs.add(time.Now())
			if c.Name == "third time" && len(runs.all()) == 3 {
				return "done", nil
			}
			return "", fail
		}, bus.WithMiddleware(
			middleware.Retry(steady, middleware.OnlyIf(func(err error) bool { return errors.Is(err, errLocked) })),
			middleware.Validate(func(_ context.Context, m *bus.Message) error { inner.add(m.Attempt); return nil }),
		)))
		for _, from := range []*bus.Bus{server, w.bus(bus.Config{Service: "caller"})} {
			fail = errLocked
			runs.reset()
			inner.reset()
			id, err := bus.Execute(w.Context(), from, createUser{Name: "third time"})
			require.NoError(w, err)
			require.Equal(w, userID("done"), id)
			require.Equal(w, []int{1, 2, 3}, inner.all())

			runs.reset()
			ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
			began := time.Now()
			_, err = bus.Execute(ctx, from, createUser{Name: "never"})
			cancel()
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "the handler's own error, in time")
			require.ErrorContains(w, err, "locked")
			require.Less(w, time.Since(began), 4*time.Second, "after 1 s and 2 s: the next delay would end after the deadline")
			settle(time.Minute)
			require.Len(w, runs.all(), 3)

			runs.reset()
			fail = bus.Permanent(errLocked)
			_, err = bus.Execute(w.Context(), from, createUser{Name: "never"})
			require.Error(w, err)
			fail = errOops
			_, err = bus.Execute(w.Context(), from, createUser{Name: "never"})
			require.Error(w, err)
			require.Len(w, runs.all(), 2, "once each")
		}
	})
}

// A caller that comes before the handler waits for it.
func TestRetryOfASender(t *testing.T) {
	everywhere(t, func(w *world) {
		caller := w.bus(bus.Config{Service: "caller", Sending: []bus.Middleware{middleware.Retry(steady)}})
		var calls atomic.Int32
		server := w.bus(bus.Config{})
		time.AfterFunc(2500*time.Millisecond, func() {
			_ = bus.Handle(context.Background(), server, func(context.Context, createUser) (userID, error) {
				calls.Add(1)
				return "", errOops
			})
		})
		_, err := bus.Execute(w.Context(), caller, createUser{Name: "a"})
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		require.Equal(w, int32(1), calls.Load(), "what ran is not sent again")
	})
}

// An event whose outcome is unknown is published again under its id, and stored once.
func TestRetryOfAPublish(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{Sending: []bus.Middleware{middleware.Retry(steady)}})
		heard := newRecord[userID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error { heard.add(e.ID); return nil })
		require.NoError(w, err)
		published := tr.count("publish")

		tr.setAfter(times(1, failing("publish", transport.ErrUnknown)))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "stored at once"}))
		tr.setAfter(nil)
		tr.set(times(2, failing("publish", transport.ErrUnavailable)))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "third time"}))
		require.Equal(w, published+5, tr.count("publish"))

		tr.set(failing("publish", transport.ErrPermission))
		require.Equal(w, bus.CodePermission, bus.CodeOf(bus.Publish(w.Context(), b, userCreated{ID: "never"})))
		require.Equal(w, published+6, tr.count("publish"))
		tr.set(nil)
		settle(time.Minute)
		require.ElementsMatch(w, []userID{"stored at once", "third time"}, heard.all())
	})
}

func TestRateLimitPerSession(t *testing.T) {
	everywhere(t, func(w *world) {
		server := w.bus(bus.Config{Receiving: []bus.Middleware{
			middleware.Commands(middleware.RateLimit(rate.Every(time.Minute), 2, middleware.PerSession(), middleware.Reject())),
			middleware.Events(middleware.RateLimit(rate.Every(time.Second), 1, middleware.PerSession())),
		}})
		require.NoError(w, bus.Handle(w.Context(), server, create))
		began := time.Now()
		heard := newRecord[string]()
		_, err := bus.Subscribe(w.Context(), server, func(ctx context.Context, e userCreated) error {
			heard.add(bus.SessionFrom(ctx) + " after " + time.Since(began).Round(time.Second).String())
			return nil
		})
		require.NoError(w, err)
		caller := w.bus(bus.Config{Service: "caller"})
		one, two := w.session(caller, "one"), w.session(server, "two")
		for _, s := range []bus.Scope{one, two, caller} {
			for i := range 4 {
				_, err := bus.Execute(w.Context(), s, createUser{Name: "a"})
				if i < 2 {
					require.NoError(w, err)
					continue
				}
				require.Equal(w, bus.CodeBusy, bus.CodeOf(err), "the caller sees that nothing ran: %v", err)
				var e *bus.Error
				require.ErrorAs(w, err, &e)
				require.NotEmpty(w, e.Details["retry_after"])
				require.Zero(w, e.Attempts)
			}
		}
		settle(time.Minute)
		_, err = bus.Execute(w.Context(), one, createUser{Name: "a"})
		require.NoError(w, err)

		began = time.Now()
		for _, s := range []bus.Scope{one, two} {
			for range 3 {
				require.NoError(w, bus.Publish(w.Context(), s, userCreated{}))
			}
		}
		require.ElementsMatch(w, []string{
			"one after 0s", "one after 1s", "one after 2s", "two after 0s", "two after 1s", "two after 2s",
		}, heard.wait(w, 6), "events wait; none is refused")
	})
}

// A caller that retries gets through a limit which rejects.
func TestRetryOfASenderWhomALimitRejects(t *testing.T) {
	everywhere(t, func(w *world) {
		server := w.bus(bus.Config{Receiving: []bus.Middleware{middleware.RateLimit(rate.Every(2*time.Second), 1, middleware.Reject())}})
		var calls atomic.Int32
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, createUser) (userID, error) {
			calls.Add(1)
			return "x", nil
		}))
		caller := w.bus(bus.Config{Service: "caller", Sending: []bus.Middleware{middleware.Retry(steady)}})
		for range 3 {
			_, err := bus.Execute(w.Context(), caller, createUser{Name: "a"})
			require.NoError(w, err)
		}
		require.Equal(w, int32(3), calls.Load())
	})
}

// One limit holds for everything that it wraps, commands and events alike.
func TestLimitOverHandlers(t *testing.T) {
	everywhere(t, func(w *world) {
		var now, most atomic.Int32
		work := func() {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			now.Add(-1)
		}
		b := w.bus(bus.Config{Receiving: []bus.Middleware{middleware.Limit(3)}})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, createUser) (userID, error) {
			work()
			return "x", nil
		}))
		heard := newRecord[userID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error {
			work()
			heard.add(e.ID)
			return nil
		})
		require.NoError(w, err)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				_, err := bus.Execute(w.Context(), b, createUser{Name: "a"})
				require.NoError(w, err)
			})
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		}
		wg.Wait()
		heard.wait(w, 6)
		require.Equal(w, int32(3), most.Load())
	})
}

func TestLimitThatRejects(t *testing.T) {
	everywhere(t, func(w *world) {
		server := w.bus(bus.Config{})
		begun, finish := make(chan struct{}), make(chan struct{})
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, createUser) (userID, error) {
			begun <- struct{}{}
			<-finish
			return "x", nil
		}, bus.WithMiddleware(middleware.Limit(1, middleware.Reject()))))
		caller := w.bus(bus.Config{Service: "caller"})
		for _, from := range []*bus.Bus{server, caller} {
			first := make(chan error)
			go func() {
				_, err := bus.Execute(w.Context(), from, createUser{Name: "a"})
				first <- err
			}()
			<-begun
			for _, second := range []*bus.Bus{server, caller} {
				_, err := bus.Execute(w.Context(), second, createUser{Name: "a"})
				require.Equal(w, bus.CodeBusy, bus.CodeOf(err))
				require.ErrorContains(w, err, "nothing ran")
			}
			finish <- struct{}{}
			require.NoError(w, <-first)
		}
	})
}

// An event that waits for a limit when its process closes is not lost, and does not
// use up an attempt.
func TestCloseWhileAnEventWaitsForALimit(t *testing.T) {
	everywhere(t, func(w *world) {
		heard := newRecord[int]()
		listen := func(ctx context.Context, _ userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			heard.add(m.Attempt)
			return nil
		}
		first := w.bus(bus.Config{Receiving: []bus.Middleware{middleware.RateLimit(rate.Every(time.Hour), 1)}})
		_, err := bus.Subscribe(w.Context(), first, listen)
		require.NoError(w, err)
		for range 2 {
			require.NoError(w, bus.Publish(w.Context(), first, userCreated{}))
		}
		heard.wait(w, 1)
		settle(time.Second)
		require.NoError(w, first.Close(w.Context()))
		require.Len(w, heard.all(), 1)
		_, err = bus.Subscribe(w.Context(), w.bus(bus.Config{}), listen)
		require.NoError(w, err)
		require.Equal(w, []int{1, 1}, heard.wait(w, 2))
	})
}
