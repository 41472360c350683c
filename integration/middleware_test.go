package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

// A middleware that cannot be built is an error of the registration, which says
// which it is and why.
func TestMiddlewareThatCannotBeBuilt(t *testing.T) {
	bad := errors.New("limit is -1")
	world.Everywhere(t, func(w *world.World) {
		b, tr := w.Bus(bus.Config{}), w.Open()
		w.Cleanup(func() { _ = tr.Close(context.Background()) })
		fine := func(next bus.Func) bus.Func { return next }
		for what, m := range map[string]bus.Middleware{
			"limit is -1":                   func(bus.Func) bus.Func { panic(bad) },
			"panic: no luck":                func(bus.Func) bus.Func { panic("no luck") },
			"nil instead":                   func(bus.Func) bus.Func { return nil },
			"is nil":                        nil,
			"nil *integration_test.brittle": func(bus.Func) bus.Func { var e *brittle; panic(e) },
			"nil pointer dereference":       func(next bus.Func) bus.Func { m := (*bus.Message)(nil); m.Name = ""; return next },
		} {
			_, err := bus.New(tr, bus.Config{Sending: []bus.Middleware{fine, m}, Receiving: []bus.Middleware{m}})
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), what)
			require.ErrorContains(w, err, "Config.Sending[1]")
			require.ErrorContains(w, err, "Config.Receiving[0]")
			require.ErrorContains(w, err, what)

			err = bus.Handle(w.Context(), b, world.Create, bus.WithMiddleware(fine, m))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), what)
			require.ErrorContains(w, err, "handle user.create: middleware 1")
			require.ErrorContains(w, err, what)
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithMiddleware(m))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), what)
			require.ErrorContains(w, err, "middleware 0")
			require.Equal(w, what == bad.Error(), errors.Is(err, bad), what)
		}
		require.NoError(w, bus.Handle(w.Context(), b, world.Create, bus.WithMiddleware(fine)), "the name is free")
	})
}

// A middleware that does not call the handler may tell the caller that nothing ran.
// One that does may not.
func TestMiddlewareThatRefusesACommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var answer error
		var calls int
		before := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) { return nil, answer }
		}
		after := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				again := *m
				_, _ = next(ctx, &again)
				return nil, answer
			}
		}
		server := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), server, world.Create, bus.WithMiddleware(before)))
		require.NoError(w, bus.HandleNone(w.Context(), server, func(context.Context, world.ResetAll) error { calls++; return nil }, bus.WithMiddleware(after)))
		for _, from := range []*bus.Bus{server, w.Bus(bus.Config{Service: "caller"}), w.Bus(bus.Config{Service: "chained", Sending: []bus.Middleware{func(next bus.Func) bus.Func { return next }}})} {
			for _, c := range []struct {
				answer          error
				refused, failed bus.Code
			}{
				{&bus.Error{Code: bus.CodeBusy, Message: "full", Details: map[string]string{"a": "b"}}, bus.CodeBusy, bus.CodeFailed},
				{&bus.Error{Code: bus.CodeUnavailable, Message: "full"}, bus.CodeUnavailable, bus.CodeFailed},
				{&bus.Error{Code: bus.CodePermission, Message: "full"}, bus.CodePermission, bus.CodePermission},
				{&bus.Error{Code: bus.CodeUnknown, Message: "full"}, bus.CodeFailed, bus.CodeFailed},
				{&bus.Error{Code: bus.CodeBusy, Op: "execute", Name: "another", Message: "full"}, bus.CodeFailed, bus.CodeFailed},
				{errors.New("full"), bus.CodeFailed, bus.CodeFailed},
			} {
				answer = c.answer
				_, err := bus.Execute(w.Context(), from, world.CreateUser{Name: "a"})
				var e *bus.Error
				require.ErrorAs(w, err, &e)
				require.Equal(w, c.refused, e.Code, "%v", c.answer)
				require.Zero(w, e.Attempts, "no handler ran")
				require.ErrorContains(w, err, "full")
				if own := c.answer; bus.CodeOf(own) == bus.CodeBusy && c.refused == bus.CodeBusy {
					require.Equal(w, "b", e.Details["a"])
				}
				calls = 0
				err = bus.Do(w.Context(), from, world.ResetAll{})
				require.ErrorAs(w, err, &e)
				require.Equal(w, c.failed, e.Code, "%v", c.answer)
				require.Equal(w, 1, e.Attempts)
				require.Equal(w, 1, calls)
			}
		}
	})
}

// Stock middleware runs in the order of the list, on both chains, for both kinds.
func TestStockMiddlewareOrder(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		trace := world.NewRecord[string]()
		// check is a stock middleware that tells when it is asked.
		check := func(name string) bus.Middleware {
			return middleware.Validate(func(_ context.Context, m *bus.Message) error {
				trace.Add(name + " " + m.Name)
				return nil
			})
		}
		b := w.Bus(bus.Config{
			Sending:   []bus.Middleware{check("send1"), middleware.Commands(check("send commands")), middleware.Events(check("send events")), check("send2")},
			Receiving: []bus.Middleware{check("recv1"), middleware.Events(check("recv events")), check("recv2")},
		})
		own := bus.WithMiddleware(check("own1"), middleware.Commands(check("own commands")), check("own2"))
		require.NoError(w, bus.Handle(w.Context(), b, world.Create, own))
		heard := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { heard.Add("handled"); return nil }, own)
		require.NoError(w, err)

		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, []string{
			"send1 user.create", "send commands user.create", "send2 user.create",
			"recv1 user.create", "recv2 user.create", "own1 user.create", "own commands user.create", "own2 user.create",
		}, trace.All())
		trace.Reset()
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "a"}))
		heard.Wait(w, 1)
		require.Equal(w, []string{
			"send1 user.created", "send events user.created", "send2 user.created",
			"recv1 user.created", "recv events user.created", "recv2 user.created", "own1 user.created", "own2 user.created",
		}, trace.All())
	})
}

func TestRequiredSession(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		server := w.BusOn(tr, bus.Config{Receiving: []bus.Middleware{middleware.RequireSession()}})
		strict := w.Bus(bus.Config{Service: "strict", Sending: []bus.Middleware{middleware.RequireSession()}})
		lax := w.Bus(bus.Config{Service: "lax"})
		heard := world.NewRecord[world.UserID]()
		require.NoError(w, bus.Handle(w.Context(), server, world.Create))
		_, err := bus.Subscribe(w.Context(), server, func(_ context.Context, e world.UserCreated) error { heard.Add(e.ID); return nil })
		require.NoError(w, err)
		s := w.Session(strict, "import-42")
		for what, c := range map[string]struct {
			ctx  context.Context
			from bus.Scope
			fine bool
		}{
			"without, sent with the middleware": {w.Context(), strict, false},
			"without, sent without it":          {w.Context(), lax, false},
			"without, in the same process":      {w.Context(), server, false},
			"on the session":                    {w.Context(), s, true},
			"with the session's context":        {bus.ContextWithSession(w.Context(), "import-42"), strict, true},
			"sent without it, in a session":     {bus.ContextWithSession(w.Context(), "another"), lax, true},
		} {
			_, err := bus.Execute(c.ctx, c.from, world.CreateUser{Name: "a"})
			if c.fine {
				require.NoError(w, err, what)
				continue
			}
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), what)
			require.ErrorContains(w, err, "execute user.create: it belongs to no session", what)
		}
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(bus.Publish(w.Context(), strict, world.UserCreated{ID: "never"})))
		require.NoError(w, bus.Publish(w.Context(), lax, world.UserCreated{ID: "refused"}))
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{ID: "fine"}))
		require.Equal(w, []world.UserID{"fine"}, heard.Wait(w, 1))
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, "invalid", d.Code)
		require.Equal(w, 1, d.Attempts, "no retries")
	})
}

// One event that is refused takes no other of its batch with it.
func TestValidationOfABatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Receiving: []bus.Middleware{
			middleware.RequireSession(),
			middleware.ValidateType(func(ctx context.Context, e world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				if m.Session != e.Note {
					return fmt.Errorf("session %q for %q", m.Session, e.Note)
				}
				return nil
			}),
		}})
		handled := world.NewRecord[world.UserID]()
		_, err := bus.SubscribeBatch(w.Context(), b, func(_ context.Context, events []world.UserCreated) error {
			for _, e := range events {
				handled.Add(e.ID)
			}
			return nil
		}, bus.WithBatchSize(10), bus.WithLinger(time.Second))
		require.NoError(w, err)
		for i := range 10 {
			ctx, e := bus.ContextWithSession(w.Context(), fmt.Sprint("s", i%2)), world.UserCreated{ID: world.UserID(fmt.Sprint(i)), Note: fmt.Sprint("s", i%2)}
			switch i {
			case 3:
				ctx = w.Context()
			case 7:
				e.Note = "another"
			}
			require.NoError(w, bus.Publish(ctx, b, e, bus.WithID(fmt.Sprint(i))))
		}
		attempts := map[string]int{}
		for _, d := range w.DeadLetters(tr, 2) {
			require.Equal(w, "invalid", d.Code)
			attempts[d.Message.ID] = d.Attempts
		}
		require.Equal(w, map[string]int{"3": 1, "7": 1}, attempts)
		require.ElementsMatch(w, []world.UserID{"0", "1", "2", "4", "5", "6", "8", "9"}, handled.Wait(w, 8))
	})
}

func TestValidateTypeOnEverySide(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		short := middleware.ValidateType(func(_ context.Context, c *world.CreateUser) error {
			if len(c.Name) > 3 {
				return &bus.Error{Message: "name is too long", Wire: "too-long", Details: map[string]string{"max": "3"}}
			}
			return nil
		})
		tooLong := errors.New("too long")
		errs := map[string]error{"too-long": tooLong}
		server := w.Bus(bus.Config{Receiving: []bus.Middleware{short}, Errors: errs})
		require.NoError(w, bus.Handle(w.Context(), server, world.Create))
		for _, from := range []*bus.Bus{
			server, w.Bus(bus.Config{Service: "caller", Errors: errs}),
			w.Bus(bus.Config{Service: "sending", Errors: errs, Sending: []bus.Middleware{short}}),
		} {
			_, err := bus.Execute(w.Context(), from, world.CreateUser{Name: "ada"})
			require.NoError(w, err)
			_, err = bus.Execute(w.Context(), from, world.CreateUser{Name: "augusta"})
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorContains(w, err, "execute user.create: name is too long")
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Equal(w, "3", e.Details["max"])
			require.Equal(w, "too-long", e.Wire)
			require.Zero(w, e.Attempts, "nothing ran")
		}
	})
}

type requestID struct{}

// A value of the sender's context reaches every handler down the line.
func TestCorrelationAcrossProcesses(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		get := func(ctx context.Context) string { id, _ := ctx.Value(requestID{}).(string); return id }
		set := func(ctx context.Context, id string) context.Context { return context.WithValue(ctx, requestID{}, id) }
		m := []bus.Middleware{middleware.Correlation("Request-Id", get, set)}
		front := w.Bus(bus.Config{Service: "front", Sending: m, Receiving: m})
		middle := w.Bus(bus.Config{Service: "middle", Sending: m, Receiving: m})
		deaf := w.Bus(bus.Config{Service: "deaf"})
		require.NoError(w, bus.Handle(w.Context(), middle, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			if err := bus.Publish(ctx, middle, world.UserCreated{}); err != nil {
				return "", err
			}
			return world.UserID(get(ctx)), nil
		}))
		heard := world.NewRecord[string]()
		for _, b := range []*bus.Bus{front, deaf} {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
				meta, _ := bus.MetaFrom(ctx)
				heard.Add(meta.Group + ": " + get(ctx) + " " + meta.Header("Request-Id"))
				return nil
			})
			require.NoError(w, err)
		}
		for _, from := range []*bus.Bus{front, middle} {
			id, err := bus.Execute(set(w.Context(), "r-7"), from, world.CreateUser{Name: "a"})
			require.NoError(w, err)
			require.Equal(w, world.UserID("r-7"), id)
		}
		require.ElementsMatch(w, []string{"front: r-7 r-7", "front: r-7 r-7", "deaf:  r-7", "deaf:  r-7"}, heard.Wait(w, 4))
		_, err := bus.Execute(set(w.Context(), "line\nbreak"), front, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "what cannot travel is not sent")
	})
}

// OnPanic hears of the panics of handlers, of both kinds, and the outcome is what it
// would be without it.
func TestOnPanic(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		told := world.NewRecord[string]()
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Capture: bus.CaptureNone, Receiving: []bus.Middleware{
			middleware.Recover(middleware.OnPanic(func(_ context.Context, m *bus.Message, value any, stack string) {
				told.Add(fmt.Sprint(m.Name, " ", m.Attempt, " ", value, " ", strings.Contains(stack, "middleware_test.go")))
			})),
			middleware.Commands(func(next bus.Func) bus.Func {
				return func(ctx context.Context, m *bus.Message) (any, error) {
					if _, err := next(ctx, m); err != nil {
						return nil, err
					}
					panic("inner")
				}
			}),
		}})
		require.NoError(w, bus.HandleNone(w.Context(), b, func(context.Context, world.ResetAll) error { return nil }))
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) { panic("handler") }))
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { panic("listener") })
		require.NoError(w, err)
		for _, from := range []*bus.Bus{b, w.Bus(bus.Config{Service: "caller"})} {
			_, err = bus.Execute(w.Context(), from, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodePanic, bus.CodeOf(err))
			require.Equal(w, bus.CodePanic, bus.CodeOf(bus.Do(w.Context(), from, world.ResetAll{})))
		}
		require.Equal(w, []string{
			"user.create 1 handler true", "reset.all 1 inner true", "user.create 1 handler true", "reset.all 1 inner true",
		}, told.All())
		told.Reset()
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, "panic", d.Code)
		require.Contains(w, d.Stack, "middleware_test.go")
		require.Equal(w, 4, d.Attempts)
		require.Equal(w, "user.created 4 listener true", told.All()[3])
	})
}

// buffer is a log that handlers write to concurrently.
type buffer struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

// lines returns what was logged, sorted.
func (b *buffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := strings.Split(strings.TrimSpace(b.out.String()), "\n")
	slices.Sort(all)
	return all
}

func TestLoggingAndTimings(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		out := new(buffer)
		log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "elapsed" {
				return slog.Attr{}
			}
			return a
		}}))
		var sent, handled middleware.Timings
		b := w.Bus(bus.Config{
			Sending:   []bus.Middleware{middleware.Logging(log), sent.Middleware},
			Receiving: []bus.Middleware{middleware.Logging(log), handled.Middleware},
		})
		require.NoError(w, bus.Handle(w.Context(), b, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
			time.Sleep(time.Second)
			if c.Name == "fails" {
				return "", world.ErrOops
			}
			return "x", nil
		}))
		heard := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			defer heard.Add(m.Attempt)
			if m.Attempt == 1 {
				return world.ErrOops
			}
			return nil
		})
		require.NoError(w, err)
		ctx := bus.ContextWithSession(w.Context(), "s")
		_, err = bus.Execute(ctx, b, world.CreateUser{Name: "secret"}, bus.WithID("c1"))
		require.NoError(w, err)
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "fails"}, bus.WithID("c2"))
		require.Error(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{Note: "secret"}, bus.WithID("e1")))
		heard.Wait(w, 2)
		world.Settle(time.Second)
		require.Equal(w, []string{
			`level=DEBUG msg="message handled" name=user.create kind=command id=c1 session=s handler=svc attempt=1`,
			`level=DEBUG msg="message handled" name=user.created kind=event id=e1 group=svc handler=default attempt=2`,
			`level=DEBUG msg="message sent" name=user.create kind=command id=c1 session=s`,
			`level=DEBUG msg="message sent" name=user.created kind=event id=e1`,
			`level=WARN msg="message failed" name=user.create kind=command id=c2 err="execute user.create: oops"`,
			`level=WARN msg="message failed" name=user.create kind=command id=c2 handler=svc attempt=1 err=oops`,
			`level=WARN msg="message failed" name=user.created kind=event id=e1 group=svc handler=default attempt=1 err=oops`,
		}, out.lines())
		for _, times := range []*middleware.Timings{&sent, &handled} {
			all := times.Snapshot()
			require.Len(w, all, 2)
			require.Equal(w, "user.create", all[0].Name)
			require.Equal(w, uint64(2), all[0].Count)
			require.Equal(w, uint64(1), all[0].Failures)
			require.GreaterOrEqual(w, all[0].Min, time.Second)
			require.Less(w, all[0].Max, 2*time.Second)
		}
	})
}
