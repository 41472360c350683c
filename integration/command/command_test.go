package command_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

func TestExecute(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		require.NoError(w, bus.Handle(w.Context(), server, world.Create))
		for name, b := range map[string]*bus.Bus{"the same bus": server, "another bus": caller} {
			id, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
			require.NoError(w, err, name)
			require.Equal(w, world.UserID("id-ada"), id, name)

			id, err = bus.Execute(context.Background(), b, world.CreateUser{Name: "bob"})
			require.NoError(w, err, name)
			require.Equal(w, world.UserID("id-bob"), id, name)
		}
	})
}

func TestExecuteWithoutResult(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		got := world.NewRecord[string]()
		require.NoError(w, bus.HandleNone(w.Context(), server, func(_ context.Context, c *world.ResetAll) error {
			got.Add(c.Reason)
			return nil
		}))
		require.NoError(w, bus.Do(w.Context(), server, &world.ResetAll{Reason: "a"}))
		require.NoError(w, bus.Do(w.Context(), caller, &world.ResetAll{Reason: "b"}))
		require.NoError(w, bus.Do(w.Context(), caller, world.ResetAll{Reason: "c"}), "a handler of *T takes a T")
		require.NoError(w, bus.Do(w.Context(), server, world.ResetAll{Reason: "d"}))
		require.Equal(w, []string{"a", "b", "c", "d"}, got.All())
	})
}

func TestExecutePointerResult(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, world.FindUser) (*world.User, error) {
			return &world.User{Name: "ada", Email: "ada@example.com"}, nil
		}))
		u, err := bus.Execute(w.Context(), caller, world.FindUser{})
		require.NoError(w, err)
		require.Equal(w, &world.User{Name: "ada", Email: "ada@example.com"}, u)
	})
}

func TestDefinedCommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		find := bus.Define[*world.User, []string]("user.find")
		require.NoError(w, find.Handle(w.Context(), server, func(_ context.Context, u *world.User) ([]string, error) {
			return []string{u.Name, u.Email}, nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			got, err := find.Execute(w.Context(), b, &world.User{Name: "a", Email: "b"})
			require.NoError(w, err)
			require.Equal(w, []string{"a", "b"}, got)
		}
		bad := bus.Define[*world.User, int]("User Find")
		_, err := bad.Execute(w.Context(), caller, &world.User{})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		_, err = find.Execute(w.Context(), caller, nil)
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
	})
}

func TestNoHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		began := time.Now()
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.create")
		require.Less(w, time.Since(began), time.Second, "fake time: no waiting for the deadline")
	})
}

func TestSecondHandlerIsRefused(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		err := bus.Handle(w.Context(), b, world.Create)
		require.ErrorIs(w, err, bus.ErrHandled)
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.NoError(w, err, "the first handler stays")
	})
}

func TestAnotherServiceIsRefused(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		first, second := w.Bus(bus.Config{Service: "accounts"}), w.Bus(bus.Config{Service: "billing"})
		require.NoError(w, bus.Handle(w.Context(), first, world.Create))
		err := bus.Handle(w.Context(), second, world.Create)
		require.ErrorIs(w, err, bus.ErrOwned)
		require.ErrorContains(w, err, `"accounts"`, "the error names the owner")

		require.NoError(w, bus.Handle(w.Context(), w.Bus(bus.Config{Service: "accounts"}), world.Create),
			"processes of one service compete")

		_, err = bus.Execute(w.Context(), second, world.CreateUser{Name: "ada"})
		require.NoError(w, err)
	})
}

func TestOwnershipEndsWithClose(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		first, second := w.Bus(bus.Config{Service: "accounts"}), w.Bus(bus.Config{Service: "billing"})
		require.NoError(w, bus.Handle(w.Context(), first, world.Create))
		require.NoError(w, first.Close(w.Context()))
		require.NoError(w, bus.Handle(w.Context(), second, world.Create))
	})
}

func TestUnnamedServicesDoNotShare(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		open := func() *bus.Bus {
			b, err := bus.New(w.Open(), bus.Config{})
			require.NoError(w, err)
			w.Cleanup(func() { _ = b.Close(context.Background()) })
			return b
		}
		require.NoError(w, bus.Handle(w.Context(), open(), world.Create))
		err := bus.Handle(w.Context(), open(), world.Create)
		require.ErrorIs(w, err, bus.ErrOwned)
		require.ErrorContains(w, err, "Config.Service")
	})
}

func TestHandlersOfOneServiceCompete(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		caller := w.Bus(bus.Config{Service: "caller"})
		var runs atomic.Int64
		for range 3 {
			require.NoError(w, bus.Handle(w.Context(), w.Bus(bus.Config{}), func(_ context.Context, c world.CreateUser) (world.UserID, error) {
				runs.Add(1)
				return world.UserID(c.Name), nil
			}))
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				name := fmt.Sprint("u", i)
				id, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: name})
				if err != nil || id != world.UserID(name) {
					w.Errorf("%s: %q, %v", name, id, err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(w, 100, runs.Load(), "each command ran once")
	})
}

func TestHandlerErrorCrossesTheWire(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		cfg := bus.Config{Errors: map[string]error{"user.exists": world.ErrUserExists}}
		server := w.Bus(cfg)
		cfg.Service = "caller"
		caller, stranger := w.Bus(cfg), w.Bus(bus.Config{Service: "stranger"})
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
			if c.Name == "details" {
				return "", &bus.Error{Code: bus.CodeConflict, Message: "taken", Details: map[string]string{"by": "bob"}}
			}
			return "ignored", fmt.Errorf("create %s: %w", c.Name, world.ErrUserExists)
		}))
		for name, b := range map[string]*bus.Bus{"same process": server, "other process": caller} {
			id, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
			require.Empty(w, id, name)
			require.ErrorIs(w, err, world.ErrUserExists, name)
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), name)
			require.EqualError(w, err, "execute user.create: create ada: user exists", name)
			var e *bus.Error
			require.ErrorAs(w, err, &e, name)
			require.Equal(w, "user.exists", e.Wire, name)
			require.Equal(w, 1, e.Attempts, name)
			require.NotEmpty(w, e.ID, name)

			_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "details"})
			require.ErrorAs(w, err, &e, name)
			require.Equal(w, bus.CodeConflict, e.Code, name)
			require.Equal(w, map[string]string{"by": "bob"}, e.Details, name)
			require.EqualError(w, err, "execute user.create: taken", name)
		}
		_, err := bus.Execute(w.Context(), stranger, world.CreateUser{Name: "ada"})
		require.NotErrorIs(w, err, world.ErrUserExists, "not registered there")
		require.ErrorContains(w, err, "user exists")
	})
}

func TestHandlerPanics(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
			switch c.Name {
			case "panic":
				panic("boom")
			case "runtime error":
				_ = []int{}[len(c.Name)]
			case "goexit":
				runtime.Goexit()
			}
			return world.UserID(c.Name), nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			for _, name := range []string{"panic", "runtime error", "goexit"} {
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: name})
				require.Equal(w, bus.CodePanic, bus.CodeOf(err), name)
			}
			for range 100 { // no worker and no slot was lost
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "panic"})
				require.Error(w, err)
			}
			id, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
			require.NoError(w, err)
			require.Equal(w, world.UserID("ada"), id)
		}
	})
}

func TestDeadlineTravels(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		ended := world.NewRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			<-ctx.Done()
			ended.Add(ctx.Err())
			return "", ctx.Err()
		}))
		for _, b := range []*bus.Bus{server, caller} {
			ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
			began := time.Now()
			_, err := bus.Execute(ctx, b, world.CreateUser{Name: "ada"})
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
			require.Equal(w, 3*time.Second, time.Since(began).Round(100*time.Millisecond))
			cancel()
			require.ErrorIs(w, ended.Wait(w, 1)[0], context.DeadlineExceeded, "the handler sees the deadline")

			_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"}, bus.WithTimeout(time.Second))
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
			ended.Wait(w, 2)
			ended.Reset()
		}
	})
}

func TestDefaultDeadline(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server := w.Bus(bus.Config{ExecuteTimeout: 7 * time.Second})
		caller := w.Bus(bus.Config{Service: "caller", ExecuteTimeout: 7 * time.Second})
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			d, ok := ctx.Deadline()
			if !ok {
				return "", errors.New("no deadline")
			}
			if c.Name == "wait" {
				<-ctx.Done()
				time.Sleep(time.Millisecond)
			}
			return world.UserID(time.Until(d).Round(time.Second).String()), nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			id, err := bus.Execute(context.Background(), b, world.CreateUser{Name: "ada"})
			require.NoError(w, err)
			require.Equal(w, world.UserID("7s"), id)
			id, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
			require.NoError(w, err)
			require.Equal(w, world.UserID("7s"), id)
			ctx, cancel := context.WithCancel(w.Context())
			_, err = bus.Execute(ctx, b, world.CreateUser{Name: "wait"})
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
			cancel()
		}
	})
}

func TestCallerCancels(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		release := make(chan struct{})
		started, finished := world.NewRecord[string](), world.NewRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			started.Add(c.Name)
			<-release
			finished.Add(ctx.Err())
			return "", nil
		}))
		for i, b := range []*bus.Bus{server, caller} {
			ctx, cancel := context.WithCancel(w.Context())
			go func() {
				started.Wait(w, i+1)
				cancel()
			}()
			_, err := bus.Execute(ctx, b, world.CreateUser{Name: "ada"})
			require.Equal(w, bus.CodeCancelled, bus.CodeOf(err))
			require.ErrorIs(w, err, context.Canceled)
			release <- struct{}{}
			require.NoError(w, finished.Wait(w, i+1)[i], "the handler goes on")
		}
	})
}

func TestHandlerSeesNoneOfTheCallersValues(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		type key struct{}
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			if ctx.Value(key{}) != nil {
				return "", errors.New("value leaked")
			}
			return "", nil
		}))
		_, err := bus.Execute(context.WithValue(context.Background(), key{}, 1), b, world.CreateUser{Name: "a"})
		require.NoError(w, err)
		_, err = bus.Execute(context.WithValue(w.Context(), key{}, 1), b, world.CreateUser{Name: "a"})
		require.NoError(w, err)
	})
}

func TestCommandConcurrency(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		var now, most atomic.Int64
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			n := now.Add(1)
			defer now.Add(-1)
			for {
				if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			time.Sleep(10 * time.Millisecond)
			return "", nil
		}, bus.WithConcurrency(3)))
		var wg sync.WaitGroup
		for i := range 60 {
			b := server
			if i%2 == 0 {
				b = caller
			}
			wg.Go(func() {
				if _, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}); err != nil {
					w.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(w, 3, most.Load())
	})
}

func TestBusyUntilTheDeadline(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server := w.Bus(bus.Config{})
		started, release := world.NewRecord[int](), make(chan struct{})
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			started.Add(1)
			<-release
			return "", nil
		}, bus.WithConcurrency(1)))
		go func() { _, _ = bus.Execute(w.Context(), server, world.CreateUser{Name: "a"}) }()
		started.Wait(w, 1)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_, err := bus.Execute(ctx, server, world.CreateUser{Name: "b"})
		require.Contains(w, []bus.Code{bus.CodeBusy, bus.CodeTimeout}, bus.CodeOf(err))
		close(release)
		world.Settle(time.Second)
		require.Len(w, started.All(), 1, "the one that gave up never ran")
	})
}

func TestValidateRunsOnBothSides(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		var runs atomic.Int64
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
			runs.Add(1)
			return "", nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{})
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorContains(w, err, "name is empty")
			_, err = bus.Execute(w.Context(), b, world.CreateUser{}, bus.WithID("x"))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		}
		// A sender that does not validate: the same wire name, another type.
		unchecked := bus.Define[*world.User, world.UserID]("user.create")
		_, err := unchecked.Execute(w.Context(), caller, &world.User{Email: "x"})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		var e *bus.Error
		require.ErrorAs(w, err, &e)
		require.Zero(w, e.Attempts, "nothing ran")
		require.Zero(w, runs.Load())
	})
}

func TestCommandMetadata(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		metas := world.NewRecord[bus.Meta]()
		require.NoError(w, bus.HandleNone(w.Context(), server, func(ctx context.Context, c world.ResetAll) error {
			m, ok := bus.MetaFrom(ctx)
			require.True(w, ok)
			metas.Add(m)
			return nil
		}))
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			m, _ := bus.MetaFrom(ctx)
			metas.Add(m)
			return "", bus.Do(ctx, server, world.ResetAll{})
		}))
		for i, b := range []*bus.Bus{server, caller} {
			var r bus.Receipt
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithID("cmd-1"),
				bus.WithHeader("Tenant", "t1"), bus.WithHeader("X", "a"), bus.WithHeader("X", "b"), bus.WithReceipt(&r))
			require.NoError(w, err)
			require.Equal(w, "cmd-1", r.ID)
			require.Equal(w, "svc", r.Service)
			m := metas.Wait(w, 2*i+2)[2*i:]
			outer, inner := m[0], m[1]
			require.Equal(w, bus.KindCommand, outer.Kind)
			require.Equal(w, "user.create", outer.Name)
			require.Equal(w, "cmd-1", outer.ID)
			require.Equal(w, "cmd-1", outer.CorrelationID, "a first message begins its correlation")
			require.Empty(w, outer.CausationID)
			require.Equal(w, "t1", outer.Header("Tenant"))
			require.Equal(w, bus.Header{"Tenant": {"t1"}, "X": {"a", "b"}}, outer.Headers())
			require.Equal(w, 1, outer.Attempt)
			require.Equal(w, "cmd-1", inner.CausationID)
			require.Equal(w, "cmd-1", inner.CorrelationID)
			require.NotEqual(w, "cmd-1", inner.ID)
			require.Empty(w, inner.Headers(), "headers are not inherited")
		}
		_, ok := bus.MetaFrom(w.Context())
		require.False(w, ok)
	})
}

func TestMiddlewareOrder(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		trace := world.NewRecord[string]()
		step := func(name string) bus.Middleware {
			return func(next bus.Func) bus.Func {
				return func(ctx context.Context, m *bus.Message) (any, error) {
					trace.Add(name + " " + m.Kind.String() + " " + m.Name)
					if strings.HasPrefix(name, "send") {
						m.Header.Set("By", name)
					}
					v, err := next(ctx, m)
					trace.Add("/" + name)
					return v, err
				}
			}
		}
		b := w.Bus(bus.Config{
			Sending:   []bus.Middleware{step("send1"), step("send2")},
			Receiving: []bus.Middleware{step("recv1"), step("recv2")},
		})
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			m, _ := bus.MetaFrom(ctx)
			trace.Add("handler " + m.Header("By"))
			return "x", nil
		}, bus.WithMiddleware(step("own1"), step("own2"))))
		id, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("x"), id)
		require.Equal(w, []string{
			"send1 command user.create", "send2 command user.create",
			"recv1 command user.create", "recv2 command user.create",
			"own1 command user.create", "own2 command user.create",
			"handler send2", "/own2", "/own1", "/recv2", "/recv1", "/send2", "/send1",
		}, trace.All())
	})
}

func TestMiddlewareMayPanicOrReplaceTheOutcome(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Receiving: []bus.Middleware{func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				switch m.Value.(type) {
				case world.CreateUser, *world.CreateUser:
					return "not a user id", nil
				}
				panic("middleware")
			}
		}}})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		require.NoError(w, bus.HandleNone(w.Context(), b, func(context.Context, world.ResetAll) error { return nil }))
		if w.InProcess {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "a result of the wrong type")
		}
		require.Equal(w, bus.CodePanic, bus.CodeOf(bus.Do(w.Context(), b, world.ResetAll{})))
	})
}

func TestInvalidCommandsAndOptions(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		for what, err := range map[string]error{
			"nil handler":      bus.Handle[world.CreateUser](w.Context(), b, nil),
			"nil middleware":   bus.Handle(w.Context(), b, world.Create, bus.WithMiddleware(nil)),
			"concurrency 0":    bus.Handle(w.Context(), b, world.Create, bus.WithConcurrency(0)),
			"concurrency huge": bus.Handle(w.Context(), b, world.Create, bus.WithConcurrency(1<<30)),
			"nil command":      bus.Do(w.Context(), b, (*world.ResetAll)(nil)),
			"empty id":         bus.Do(w.Context(), b, world.ResetAll{}, bus.WithID("")),
			"long id":          bus.Do(w.Context(), b, world.ResetAll{}, bus.WithID(strings.Repeat("x", 129))),
			"id with space":    bus.Do(w.Context(), b, world.ResetAll{}, bus.WithID("a b")),
			"reserved header":  bus.Do(w.Context(), b, world.ResetAll{}, bus.WithHeader("nats-Msg-Id", "x")),
			"our header":       bus.Do(w.Context(), b, world.ResetAll{}, bus.WithHeader("JITNEY-Error", "x")),
			"status header":    bus.Do(w.Context(), b, world.ResetAll{}, bus.WithHeader("Status", "503")),
			"header injection": bus.Do(w.Context(), b, world.ResetAll{}, bus.WithHeader("A", "x\r\nB: y")),
			"header key":       bus.Do(w.Context(), b, world.ResetAll{}, bus.WithHeader("A:B", "x")),
			"header value":     bus.Do(w.Context(), b, world.ResetAll{}, bus.WithHeader("A", strings.Repeat("x", 5000))),
			"zero timeout":     bus.Do(w.Context(), b, world.ResetAll{}, bus.WithTimeout(0)),
			"nil receipt":      bus.Do(w.Context(), b, world.ResetAll{}, bus.WithReceipt(nil)),
		} {
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%s: %v", what, err)
		}
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err), "a refused registration leaves nothing behind")
	})
}

func TestExecuteAfterClose(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		require.NoError(w, b.Close(w.Context()))
		require.NoError(w, b.Close(w.Context()), "twice")
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.ErrorIs(w, err, bus.ErrClosed)
		_, err = bus.Execute(context.Background(), b, world.CreateUser{Name: "a"})
		require.ErrorIs(w, err, bus.ErrClosed)
		require.ErrorIs(w, bus.Handle(w.Context(), b, world.Create), bus.ErrClosed)
		require.Equal(w, bus.CodeClosed, bus.CodeOf(err))
	})
}
