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
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

func TestTimeoutOfAHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: resilience.Retry{MaxRetries: 1}, Receiving: []bus.Middleware{middleware.Timeout(time.Second)}})
		waits := func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		ended := world.NewRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			if c.Name == "ignores" {
				time.Sleep(2 * time.Second)
				return "late", nil
			}
			err := waits(ctx)
			ended.Add(err)
			return "", err
		}))
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error { return waits(ctx) })
		require.NoError(w, err)
		for _, from := range []*bus.Bus{b, w.Bus(bus.Config{Service: "caller"})} {
			began := time.Now()
			_, err := bus.Execute(w.Context(), from, world.CreateUser{Name: "waits"})
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "it ran, and the caller's deadline has not passed")
			require.ErrorContains(w, err, "the handler of user.create took longer than 1s")
			require.Less(w, time.Since(began), 2*time.Second)

			id, err := bus.Execute(w.Context(), from, world.CreateUser{Name: "ignores"})
			require.NoError(w, err)
			require.Equal(w, world.UserID("late"), id)

			ctx, cancel := context.WithTimeout(w.Context(), 500*time.Millisecond)
			_, err = bus.Execute(ctx, from, world.CreateUser{Name: "waits"})
			cancel()
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "the caller's own deadline")
		}
		for _, err := range ended.Wait(w, 4) {
			require.ErrorIs(w, err, context.DeadlineExceeded)
		}
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, "timeout", d.Code)
		require.Contains(w, d.Error, `the listener "default" of user.created in group "svc" took longer than 1s`)
		require.Equal(w, 2, d.Attempts, "it is retried like any failure")
	})
}

func TestTimeoutOfASender(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, world.CreateUser) (world.UserID, error) {
			time.Sleep(3 * time.Second)
			return "late", nil
		}))
		caller := w.Bus(bus.Config{Service: "caller", Sending: []bus.Middleware{middleware.Timeout(time.Second)}})
		began := time.Now()
		_, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "execute user.create")
		require.Less(w, time.Since(began), 2*time.Second)
		world.Settle(5 * time.Second)
	})
}

// A command is run again within its caller's deadline, by a process of its service.
func TestRetryOfACommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		runs := world.NewRecord[time.Time]()
		errLocked := errors.New("locked")
		fail := errLocked
		server := w.Bus(bus.Config{})
		inner := world.NewRecord[int]()
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			runs.Add(time.Now())
			if c.Name == "third time" && len(runs.All()) == 3 {
				return "done", nil
			}
			return "", fail
		}, bus.WithMiddleware(
			middleware.Retry(world.Steady, middleware.OnlyIf(func(err error) bool { return errors.Is(err, errLocked) })),
			middleware.Validate(func(_ context.Context, m *bus.Message) error { inner.Add(m.Attempt); return nil }),
		)))
		for _, from := range []*bus.Bus{server, w.Bus(bus.Config{Service: "caller"})} {
			fail = errLocked
			runs.Reset()
			inner.Reset()
			id, err := bus.Execute(w.Context(), from, world.CreateUser{Name: "third time"})
			require.NoError(w, err)
			require.Equal(w, world.UserID("done"), id)
			require.Equal(w, []int{1, 2, 3}, inner.All())

			runs.Reset()
			ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
			began := time.Now()
			_, err = bus.Execute(ctx, from, world.CreateUser{Name: "never"})
			cancel()
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "the handler's own error, in time")
			require.ErrorContains(w, err, "locked")
			require.Less(w, time.Since(began), 4*time.Second, "after 1 s and 2 s: the next delay would end after the deadline")
			world.Settle(time.Minute)
			require.Len(w, runs.All(), 3)

			runs.Reset()
			fail = bus.Permanent(errLocked)
			_, err = bus.Execute(w.Context(), from, world.CreateUser{Name: "never"})
			require.Error(w, err)
			fail = world.ErrOops
			_, err = bus.Execute(w.Context(), from, world.CreateUser{Name: "never"})
			require.Error(w, err)
			require.Len(w, runs.All(), 2, "once each")
		}
	})
}

// A caller that comes before the handler waits for it.
func TestRetryOfASender(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		caller := w.Bus(bus.Config{Service: "caller", Sending: []bus.Middleware{middleware.Retry(world.Steady)}})
		var calls atomic.Int32
		server := w.Bus(bus.Config{})
		time.AfterFunc(2500*time.Millisecond, func() {
			_ = bus.Handle(context.Background(), server, func(context.Context, world.CreateUser) (world.UserID, error) {
				calls.Add(1)
				return "", world.ErrOops
			})
		})
		_, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		require.Equal(w, int32(1), calls.Load(), "what ran is not sent again")
	})
}

// An event whose outcome is unknown is published again under its id, and stored once.
func TestRetryOfAPublish(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{Sending: []bus.Middleware{middleware.Retry(world.Steady)}})
		heard := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { heard.Add(e.ID); return nil })
		require.NoError(w, err)
		published := tr.Count("publish")

		tr.SetAfter(world.Times(1, world.Failing("publish", transport.ErrUnknown)))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "stored at once"}))
		tr.SetAfter(nil)
		tr.Set(world.Times(2, world.Failing("publish", transport.ErrUnavailable)))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "third time"}))
		require.Equal(w, published+5, tr.Count("publish"))

		tr.Set(world.Failing("publish", transport.ErrPermission))
		require.Equal(w, bus.CodePermission, bus.CodeOf(bus.Publish(w.Context(), b, world.UserCreated{ID: "never"})))
		require.Equal(w, published+6, tr.Count("publish"))
		tr.Set(nil)
		world.Settle(time.Minute)
		require.ElementsMatch(w, []world.UserID{"stored at once", "third time"}, heard.All())
	})
}

func TestRateLimitPerSession(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server := w.Bus(bus.Config{Receiving: []bus.Middleware{
			middleware.Commands(middleware.RateLimit(rate.Every(time.Minute), 2, middleware.PerSession(), middleware.Reject())),
			middleware.Events(middleware.RateLimit(rate.Every(time.Second), 1, middleware.PerSession())),
		}})
		require.NoError(w, bus.Handle(w.Context(), server, world.Create))
		began := time.Now()
		heard := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), server, func(ctx context.Context, e world.UserCreated) error {
			heard.Add(bus.SessionFrom(ctx) + " after " + time.Since(began).Round(time.Second).String())
			return nil
		})
		require.NoError(w, err)
		caller := w.Bus(bus.Config{Service: "caller"})
		one, two := w.Session(caller, "one"), w.Session(server, "two")
		for _, s := range []bus.Scope{one, two, caller} {
			for i := range 4 {
				_, err := bus.Execute(w.Context(), s, world.CreateUser{Name: "a"})
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
		world.Settle(time.Minute)
		_, err = bus.Execute(w.Context(), one, world.CreateUser{Name: "a"})
		require.NoError(w, err)

		began = time.Now()
		for _, s := range []bus.Scope{one, two} {
			for range 3 {
				require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{}))
			}
		}
		require.ElementsMatch(w, []string{
			"one after 0s", "one after 1s", "one after 2s", "two after 0s", "two after 1s", "two after 2s",
		}, heard.Wait(w, 6), "events wait; none is refused")
	})
}

// A caller that retries gets through a limit which rejects.
func TestRetryOfASenderWhomALimitRejects(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server := w.Bus(bus.Config{Receiving: []bus.Middleware{middleware.RateLimit(rate.Every(2*time.Second), 1, middleware.Reject())}})
		var calls atomic.Int32
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, world.CreateUser) (world.UserID, error) {
			calls.Add(1)
			return "x", nil
		}))
		caller := w.Bus(bus.Config{Service: "caller", Sending: []bus.Middleware{middleware.Retry(world.Steady)}})
		for range 3 {
			_, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "a"})
			require.NoError(w, err)
		}
		require.Equal(w, int32(3), calls.Load())
	})
}

// One limit holds for everything that it wraps, commands and events alike.
func TestLimitOverHandlers(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var now, most atomic.Int32
		work := func() {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			now.Add(-1)
		}
		b := w.Bus(bus.Config{Receiving: []bus.Middleware{middleware.Limit(3)}})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			work()
			return "x", nil
		}))
		heard := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
			work()
			heard.Add(e.ID)
			return nil
		})
		require.NoError(w, err)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
				require.NoError(w, err)
			})
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		wg.Wait()
		heard.Wait(w, 6)
		require.Equal(w, int32(3), most.Load())
	})
}

func TestLimitThatRejects(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server := w.Bus(bus.Config{})
		begun, finish := make(chan struct{}), make(chan struct{})
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, world.CreateUser) (world.UserID, error) {
			begun <- struct{}{}
			<-finish
			return "x", nil
		}, bus.WithMiddleware(middleware.Limit(1, middleware.Reject()))))
		caller := w.Bus(bus.Config{Service: "caller"})
		for _, from := range []*bus.Bus{server, caller} {
			first := make(chan error)
			go func() {
				_, err := bus.Execute(w.Context(), from, world.CreateUser{Name: "a"})
				first <- err
			}()
			<-begun
			for _, second := range []*bus.Bus{server, caller} {
				_, err := bus.Execute(w.Context(), second, world.CreateUser{Name: "a"})
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
	world.Everywhere(t, func(w *world.World) {
		heard := world.NewRecord[int]()
		listen := func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			heard.Add(m.Attempt)
			return nil
		}
		first := w.Bus(bus.Config{Receiving: []bus.Middleware{middleware.RateLimit(rate.Every(time.Hour), 1)}})
		_, err := bus.Subscribe(w.Context(), first, listen)
		require.NoError(w, err)
		for range 2 {
			require.NoError(w, bus.Publish(w.Context(), first, world.UserCreated{}))
		}
		heard.Wait(w, 1)
		world.Settle(time.Second)
		require.NoError(w, first.Close(w.Context()))
		require.Len(w, heard.All(), 1)
		_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), listen)
		require.NoError(w, err)
		require.Equal(w, []int{1, 1}, heard.Wait(w, 2))
	})
}
