package integration_test

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
)

func TestExecute(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		require.NoError(w, bus.Handle(w.Context(), server, create))
		for name, b := range map[string]*bus.Bus{"the same bus": server, "another bus": caller} {
			id, err := bus.Execute(w.Context(), b, createUser{Name: "ada"})
			require.NoError(w, err, name)
			require.Equal(w, userID("id-ada"), id, name)

			id, err = bus.Execute(context.Background(), b, createUser{Name: "bob"})
			require.NoError(w, err, name)
			require.Equal(w, userID("id-bob"), id, name)
		}
	})
}

func TestExecuteWithoutResult(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		got := newRecord[string]()
		require.NoError(w, bus.HandleNone(w.Context(), server, func(_ context.Context, c *resetAll) error {
			got.add(c.Reason)
			return nil
		}))
		require.NoError(w, bus.Do(w.Context(), server, &resetAll{Reason: "a"}))
		require.NoError(w, bus.Do(w.Context(), caller, &resetAll{Reason: "b"}))
		require.NoError(w, bus.Do(w.Context(), caller, resetAll{Reason: "c"}), "a handler of *T takes a T")
		require.NoError(w, bus.Do(w.Context(), server, resetAll{Reason: "d"}))
		require.Equal(w, []string{"a", "b", "c", "d"}, got.all())
	})
}

func TestExecutePointerResult(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, findUser) (*user, error) {
			return &user{"ada", "ada@example.com"}, nil
		}))
		u, err := bus.Execute(w.Context(), caller, findUser{})
		require.NoError(w, err)
		require.Equal(w, &user{"ada", "ada@example.com"}, u)
	})
}

func TestDefinedCommand(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		find := bus.Define[*user, []string]("user.find")
		require.NoError(w, find.Handle(w.Context(), server, func(_ context.Context, u *user) ([]string, error) {
			return []string{u.Name, u.Email}, nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			got, err := find.Execute(w.Context(), b, &user{"a", "b"})
			require.NoError(w, err)
			require.Equal(w, []string{"a", "b"}, got)
		}
		bad := bus.Define[*user, int]("User Find")
		_, err := bad.Execute(w.Context(), caller, &user{})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		_, err = find.Execute(w.Context(), caller, nil)
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
	})
}

func TestNoHandler(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		began := time.Now()
		_, err := bus.Execute(w.Context(), b, createUser{Name: "ada"})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.create")
		require.Less(w, time.Since(began), time.Second, "fake time: no waiting for the deadline")
	})
}

func TestSecondHandlerIsRefused(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, create))
		err := bus.Handle(w.Context(), b, create)
		require.ErrorIs(w, err, bus.ErrHandled)
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		_, err = bus.Execute(w.Context(), b, createUser{Name: "ada"})
		require.NoError(w, err, "the first handler stays")
	})
}

func TestAnotherServiceIsRefused(t *testing.T) {
	everywhere(t, func(w *world) {
		first, second := w.bus(bus.Config{Service: "accounts"}), w.bus(bus.Config{Service: "billing"})
		require.NoError(w, bus.Handle(w.Context(), first, create))
		err := bus.Handle(w.Context(), second, create)
		require.ErrorIs(w, err, bus.ErrOwned)
		require.ErrorContains(w, err, `"accounts"`, "the error names the owner")

		require.NoError(w, bus.Handle(w.Context(), w.bus(bus.Config{Service: "accounts"}), create),
			"processes of one service compete")

		_, err = bus.Execute(w.Context(), second, createUser{Name: "ada"})
		require.NoError(w, err)
	})
}

func TestOwnershipEndsWithClose(t *testing.T) {
	everywhere(t, func(w *world) {
		first, second := w.bus(bus.Config{Service: "accounts"}), w.bus(bus.Config{Service: "billing"})
		require.NoError(w, bus.Handle(w.Context(), first, create))
		require.NoError(w, first.Close(w.Context()))
		require.NoError(w, bus.Handle(w.Context(), second, create))
	})
}

func TestUnnamedServicesDoNotShare(t *testing.T) {
	everywhere(t, func(w *world) {
		open := func() *bus.Bus {
			b, err := bus.New(w.open(), bus.Config{})
			require.NoError(w, err)
			w.Cleanup(func() { _ = b.Close(context.Background()) })
			return b
		}
		require.NoError(w, bus.Handle(w.Context(), open(), create))
		err := bus.Handle(w.Context(), open(), create)
		require.ErrorIs(w, err, bus.ErrOwned)
		require.ErrorContains(w, err, "Config.Service")
	})
}

func TestHandlersOfOneServiceCompete(t *testing.T) {
	everywhere(t, func(w *world) {
		caller := w.bus(bus.Config{Service: "caller"})
		var runs atomic.Int64
		for range 3 {
			require.NoError(w, bus.Handle(w.Context(), w.bus(bus.Config{}), func(_ context.Context, c createUser) (userID, error) {
				runs.Add(1)
				return userID(c.Name), nil
			}))
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				name := fmt.Sprint("u", i)
				id, err := bus.Execute(w.Context(), caller, createUser{Name: name})
				if err != nil || id != userID(name) {
					w.Errorf("%s: %q, %v", name, id, err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(w, 100, runs.Load(), "each command ran once")
	})
}

func TestHandlerErrorCrossesTheWire(t *testing.T) {
	everywhere(t, func(w *world) {
		cfg := bus.Config{Errors: map[string]error{"user.exists": errUserExists}}
		server := w.bus(cfg)
		cfg.Service = "caller"
		caller, stranger := w.bus(cfg), w.bus(bus.Config{Service: "stranger"})
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c createUser) (userID, error) {
			if c.Name == "details" {
				return "", &bus.Error{Code: bus.CodeConflict, Message: "taken", Details: map[string]string{"by": "bob"}}
			}
			return "ignored", fmt.Errorf("create %s: %w", c.Name, errUserExists)
		}))
		for name, b := range map[string]*bus.Bus{"same process": server, "other process": caller} {
			id, err := bus.Execute(w.Context(), b, createUser{Name: "ada"})
			require.Empty(w, id, name)
			require.ErrorIs(w, err, errUserExists, name)
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), name)
			require.EqualError(w, err, "execute user.create: create ada: user exists", name)
			var e *bus.Error
			require.ErrorAs(w, err, &e, name)
			require.Equal(w, "user.exists", e.Wire, name)
			require.Equal(w, 1, e.Attempts, name)
			require.NotEmpty(w, e.ID, name)

			_, err = bus.Execute(w.Context(), b, createUser{Name: "details"})
			require.ErrorAs(w, err, &e, name)
			require.Equal(w, bus.CodeConflict, e.Code, name)
			require.Equal(w, map[string]string{"by": "bob"}, e.Details, name)
			require.EqualError(w, err, "execute user.create: taken", name)
		}
		_, err := bus.Execute(w.Context(), stranger, createUser{Name: "ada"})
		require.NotErrorIs(w, err, errUserExists, "not registered there")
		require.ErrorContains(w, err, "user exists")
	})
}

func TestHandlerPanics(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c createUser) (userID, error) {
			switch c.Name {
			case "panic":
				panic("boom")
			case "runtime error":
				_ = []int{}[len(c.Name)]
			case "goexit":
				runtime.Goexit()
			}
			return userID(c.Name), nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			for _, name := range []string{"panic", "runtime error", "goexit"} {
				_, err := bus.Execute(w.Context(), b, createUser{Name: name})
				require.Equal(w, bus.CodePanic, bus.CodeOf(err), name)
			}
			for range 100 { // no worker and no slot was lost
				_, err := bus.Execute(w.Context(), b, createUser{Name: "panic"})
				require.Error(w, err)
			}
			id, err := bus.Execute(w.Context(), b, createUser{Name: "ada"})
			require.NoError(w, err)
			require.Equal(w, userID("ada"), id)
		}
	})
}

func TestDeadlineTravels(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		ended := newRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c createUser) (userID, error) {
			<-ctx.Done()
			ended.add(ctx.Err())
			return "", ctx.Err()
		}))
		for _, b := range []*bus.Bus{server, caller} {
			ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
			began := time.Now()
			_, err := bus.Execute(ctx, b, createUser{Name: "ada"})
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
			require.Equal(w, 3*time.Second, time.Since(began).Round(100*time.Millisecond))
			cancel()
			require.ErrorIs(w, ended.wait(w, 1)[0], context.DeadlineExceeded, "the handler sees the deadline")

			_, err = bus.Execute(w.Context(), b, createUser{Name: "ada"}, bus.WithTimeout(time.Second))
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
			ended.wait(w, 2)
			ended.reset()
		}
	})
}

func TestDefaultDeadline(t *testing.T) {
	everywhere(t, func(w *world) {
		server := w.bus(bus.Config{ExecuteTimeout: 7 * time.Second})
		caller := w.bus(bus.Config{Service: "caller", ExecuteTimeout: 7 * time.Second})
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c createUser) (userID, error) {
			d, ok := ctx.Deadline()
			if !ok {
				return "", errors.New("no deadline")
			}
			if c.Name == "wait" {
				<-ctx.Done()
				time.Sleep(time.Millisecond)
			}
			return userID(time.Until(d).Round(time.Second).String()), nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			id, err := bus.Execute(context.Background(), b, createUser{Name: "ada"})
			require.NoError(w, err)
			require.Equal(w, userID("7s"), id)
			id, err = bus.Execute(w.Context(), b, createUser{Name: "ada"})
			require.NoError(w, err)
			require.Equal(w, userID("7s"), id)
			ctx, cancel := context.WithCancel(w.Context())
			_, err = bus.Execute(ctx, b, createUser{Name: "wait"})
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
			cancel()
		}
	})
}

func TestCallerCancels(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		release := make(chan struct{})
		started, finished := newRecord[string](), newRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c createUser) (userID, error) {
			started.add(c.Name)
			<-release
			finished.add(ctx.Err())
			return "", nil
		}))
		for i, b := range []*bus.Bus{server, caller} {
			ctx, cancel := context.WithCancel(w.Context())
			go func() {
				started.wait(w, i+1)
				cancel()
			}()
			_, err := bus.Execute(ctx, b, createUser{Name: "ada"})
			require.Equal(w, bus.CodeCancelled, bus.CodeOf(err))
			require.ErrorIs(w, err, context.Canceled)
			release <- struct{}{}
			require.NoError(w, finished.wait(w, i+1)[i], "the handler goes on")
		}
	})
}

func TestHandlerSeesNoneOfTheCallersValues(t *testing.T) {
	everywhere(t, func(w *world) {
		type key struct{}
		b := w.bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
			if ctx.Value(key{}) != nil {
				return "", errors.New("value leaked")
			}
			return "", nil
		}))
		_, err := bus.Execute(context.WithValue(context.Background(), key{}, 1), b, createUser{Name: "a"})
		require.NoError(w, err)
		_, err = bus.Execute(context.WithValue(w.Context(), key{}, 1), b, createUser{Name: "a"})
		require.NoError(w, err)
	})
}

func TestCommandConcurrency(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		var now, most atomic.Int64
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c createUser) (userID, error) {
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
				if _, err := bus.Execute(w.Context(), b, createUser{Name: "a"}); err != nil {
					w.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(w, 3, most.Load())
	})
}

func TestBusyUntilTheDeadline(t *testing.T) {
	everywhere(t, func(w *world) {
		server := w.bus(bus.Config{})
		started, release := newRecord[int](), make(chan struct{})
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c createUser) (userID, error) {
			started.add(1)
			<-release
			return "", nil
		}, bus.WithConcurrency(1)))
		go func() { _, _ = bus.Execute(w.Context(), server, createUser{Name: "a"}) }()
		started.wait(w, 1)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_, err := bus.Execute(ctx, server, createUser{Name: "b"})
		require.Contains(w, []bus.Code{bus.CodeBusy, bus.CodeTimeout}, bus.CodeOf(err))
		close(release)
		settle(time.Second)
		require.Len(w, started.all(), 1, "the one that gave up never ran")
	})
}

func TestValidateRunsOnBothSides(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		var runs atomic.Int64
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c createUser) (userID, error) {
			runs.Add(1)
			return "", nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			_, err := bus.Execute(w.Context(), b, createUser{})
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorContains(w, err, "name is empty")
			_, err = bus.Execute(w.Context(), b, createUser{}, bus.WithID("x"))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		}
		// A sender that does not validate: the same wire name, another type.
		unchecked := bus.Define[*user, userID]("user.create")
		_, err := unchecked.Execute(w.Context(), caller, &user{Email: "x"})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		var e *bus.Error
		require.ErrorAs(w, err, &e)
		require.Zero(w, e.Attempts, "nothing ran")
		require.Zero(w, runs.Load())
	})
}

func TestCommandMetadata(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		metas := newRecord[bus.Meta]()
		require.NoError(w, bus.HandleNone(w.Context(), server, func(ctx context.Context, c resetAll) error {
			m, ok := bus.MetaFrom(ctx)
			require.True(w, ok)
			metas.add(m)
			return nil
		}))
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c createUser) (userID, error) {
			m, _ := bus.MetaFrom(ctx)
			metas.add(m)
			return "", bus.Do(ctx, server, resetAll{})
		}))
		for i, b := range []*bus.Bus{server, caller} {
			var r bus.Receipt
			_, err := bus.Execute(w.Context(), b, createUser{Name: "a"}, bus.WithID("cmd-1"),
				bus.WithHeader("Tenant", "t1"), bus.WithHeader("X", "a"), bus.WithHeader("X", "b"), bus.WithReceipt(&r))
			require.NoError(w, err)
			require.Equal(w, "cmd-1", r.ID)
			require.Equal(w, "svc", r.Service)
			m := metas.wait(w, 2*i+2)[2*i:]
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
	everywhere(t, func(w *world) {
		trace := newRecord[string]()
		step := func(name string) bus.Middleware {
			return func(next bus.Func) bus.Func {
				return func(ctx context.Context, m *bus.Message) (any, error) {
					trace.add(name + " " + m.Kind.String() + " " + m.Name)
					if strings.HasPrefix(name, "send") {
						m.Header.Set("By", name)
					}
					v, err := next(ctx, m)
					trace.add("/" + name)
					return v, err
				}
			}
		}
		b := w.bus(bus.Config{
			Sending:   []bus.Middleware{step("send1"), step("send2")},
			Receiving: []bus.Middleware{step("recv1"), step("recv2")},
		})
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
			m, _ := bus.MetaFrom(ctx)
			trace.add("handler " + m.Header("By"))
			return "x", nil
		}, bus.WithMiddleware(step("own1"), step("own2"))))
		id, err := bus.Execute(w.Context(), b, createUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, userID("x"), id)
		require.Equal(w, []string{
			"send1 command user.create", "send2 command user.create",
			"recv1 command user.create", "recv2 command user.create",
			"own1 command user.create", "own2 command user.create",
			"handler send2", "/own2", "/own1", "/recv2", "/recv1", "/send2", "/send1",
		}, trace.all())
	})
}

func TestMiddlewareMayPanicOrReplaceTheOutcome(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{Receiving: []bus.Middleware{func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				switch m.Value.(type) {
				case createUser, *createUser:
					return "not a user id", nil
				}
				panic("middleware")
			}
		}}})
		require.NoError(w, bus.Handle(w.Context(), b, create))
		require.NoError(w, bus.HandleNone(w.Context(), b, func(context.Context, resetAll) error { return nil }))
		if w.inProcess {
			_, err := bus.Execute(w.Context(), b, createUser{Name: "a"})
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "a result of the wrong type")
		}
		require.Equal(w, bus.CodePanic, bus.CodeOf(bus.Do(w.Context(), b, resetAll{})))
	})
}

func TestInvalidCommandsAndOptions(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		for what, err := range map[string]error{
			"nil handler":      bus.Handle[createUser](w.Context(), b, nil),
			"nil middleware":   bus.Handle(w.Context(), b, create, bus.WithMiddleware(nil)),
			"concurrency 0":    bus.Handle(w.Context(), b, create, bus.WithConcurrency(0)),
			"concurrency huge": bus.Handle(w.Context(), b, create, bus.WithConcurrency(1<<30)),
			"nil command":      bus.Do(w.Context(), b, (*resetAll)(nil)),
			"empty id":         bus.Do(w.Context(), b, resetAll{}, bus.WithID("")),
			"long id":          bus.Do(w.Context(), b, resetAll{}, bus.WithID(strings.Repeat("x", 129))),
			"id with space":    bus.Do(w.Context(), b, resetAll{}, bus.WithID("a b")),
			"reserved header":  bus.Do(w.Context(), b, resetAll{}, bus.WithHeader("nats-Msg-Id", "x")),
			"our header":       bus.Do(w.Context(), b, resetAll{}, bus.WithHeader("JITNEY-Error", "x")),
			"status header":    bus.Do(w.Context(), b, resetAll{}, bus.WithHeader("Status", "503")),
			"header injection": bus.Do(w.Context(), b, resetAll{}, bus.WithHeader("A", "x\r\nB: y")),
			"header key":       bus.Do(w.Context(), b, resetAll{}, bus.WithHeader("A:B", "x")),
			"header value":     bus.Do(w.Context(), b, resetAll{}, bus.WithHeader("A", strings.Repeat("x", 5000))),
			"zero timeout":     bus.Do(w.Context(), b, resetAll{}, bus.WithTimeout(0)),
			"nil receipt":      bus.Do(w.Context(), b, resetAll{}, bus.WithReceipt(nil)),
		} {
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%s: %v", what, err)
		}
		_, err := bus.Execute(w.Context(), b, createUser{Name: "a"})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err), "a refused registration leaves nothing behind")
	})
}

func TestExecuteAfterClose(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, create))
		require.NoError(w, b.Close(w.Context()))
		require.NoError(w, b.Close(w.Context()), "twice")
		_, err := bus.Execute(w.Context(), b, createUser{Name: "a"})
		require.ErrorIs(w, err, bus.ErrClosed)
		_, err = bus.Execute(context.Background(), b, createUser{Name: "a"})
		require.ErrorIs(w, err, bus.ErrClosed)
		require.ErrorIs(w, bus.Handle(w.Context(), b, create), bus.ErrClosed)
		require.Equal(w, bus.CodeClosed, bus.CodeOf(err))
	})
}
