package integration_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

type generated struct{ A int }

func TestDefinedCommandIsNoEvent(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		def := bus.Define[*generated, int]("generated.run")
		require.NoError(w, def.Handle(w.Context(), b, func(_ context.Context, g *generated) (int, error) { return g.A, nil }))
		for _, v := range []any{&generated{}, generated{}} {
			err := bus.Publish(w.Context(), b, v)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%T", v)
			require.ErrorContains(w, err, "is a command")
		}
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, generated) error { return nil })
		require.ErrorContains(w, err, "is a command")
		byValue := bus.Define[generated, int]("generated.other")
		err = byValue.Handle(w.Context(), b, func(context.Context, generated) (int, error) { return 0, nil })
		require.ErrorContains(w, err, "one type has one name")
		same := bus.Define[generated, int]("generated.run")
		a, err := same.Execute(w.Context(), b, generated{A: 7})
		require.NoError(w, err, "T and *T share a name")
		require.Equal(w, 7, a)

		events := w.Bus(bus.Config{Service: "events"})
		require.NoError(w, bus.Publish(w.Context(), events, generated{}))
		_, err = bus.Define[*generated, int]("integration_test.generated").Execute(w.Context(), events, &generated{})
		require.ErrorContains(w, err, "used as an event")
	})
}

// A method of that name does not make a type a command.
type taxFiled struct{ Year int }

func (taxFiled) Returns() []int { return nil }

type chained struct{ A int }

func (c chained) Returns(a int) chained { c.A = a; return c }

func TestEventWithAMethodReturns(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Publish(w.Context(), b, taxFiled{}))
		require.NoError(w, bus.Publish(w.Context(), b, chained{}))
	})
}

func TestHeadersAreCounted(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		var opts []bus.PublishOption
		for range 64 {
			opts = append(opts, bus.WithHeader("Tag", "x"))
		}
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, opts...))
		err := bus.Publish(w.Context(), b, world.UserCreated{}, append(opts, bus.WithHeader("Tag", "x"))...)
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(w, err, "64")
	})
}

// What a middleware sets is checked like what WithHeader does.
func TestHeadersOfASendingMiddleware(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var set func(h bus.Header)
		sent := world.NewRecord[error]()
		b := w.Bus(bus.Config{Sending: []bus.Middleware{func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				set(m.Header)
				v, err := next(ctx, m)
				sent.Add(err)
				return v, err
			}
		}}})
		got := world.NewRecord[bus.Header]()
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			m, _ := bus.MetaFrom(ctx)
			got.Add(m.Headers())
			return "", nil
		}))
		for what, bad := range map[string]func(h bus.Header){
			"line break":  func(h bus.Header) { h.Set("A", "x\r\nB: y") },
			"of the bus":  func(h bus.Header) { h.Set("Jitney-Handler", "x") },
			"of NATS":     func(h bus.Header) { h.Set("nats-msg-id", "x") },
			"key":         func(h bus.Header) { h.Set("A B", "x") },
			"one of many": func(h bus.Header) { h["A"] = []string{"x", "\x00"} },
			"too long":    func(h bus.Header) { h.Set("A", strings.Repeat("x", 5000)) },
			"too many":    func(h bus.Header) { h["A"] = make([]string, 65) },
		} {
			set = bad
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%s: %v", what, err)
			err = bus.Publish(w.Context(), b, world.UserCreated{})
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%s: %v", what, err)
			err = bus.PublishAll(w.Context(), b, world.UserCreated{})
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%s: %v", what, err)
		}
		require.Empty(w, got.All(), "nothing was sent")
		set = func(h bus.Header) { delete(h, "Secret"); h.Add("Tenant", "t") }
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithHeader("Secret", "s"))
		require.NoError(w, err)
		require.Equal(w, []bus.Header{{"Tenant": {"t"}}}, got.All(), "it may take away, too")
		set = func(h bus.Header) { delete(h, "Secret") }
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithHeader("Secret", "s"))
		require.NoError(w, err)
		require.Empty(w, got.All()[1])
	})
}

// The bus's own headers are its own affair.
func TestHeadersOfTheBusAreHidden(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		chain, meta := world.NewRecord[bus.Header](), world.NewRecord[string]()
		b := w.Bus(bus.Config{Receiving: []bus.Middleware{func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				chain.Add(m.Header)
				return next(ctx, m)
			}
		}}})
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			meta.Add(m.Header("Tenant") + m.Header("Jitney-Handler") + m.Header("Jitney-Attempt"))
			if m.Attempt == 1 {
				return bus.RetryAfter(10*time.Minute, world.ErrOops)
			}
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithHeader("Tenant", "t")))
		meta.Wait(w, 1)
		world.Settle(20 * time.Minute)
		require.Equal(w, []string{"t", "t"}, meta.Wait(w, 2), "the second is a copy with headers of ours")
		for _, h := range chain.All() {
			require.Equal(w, bus.Header{"Tenant": {"t"}}, h)
		}
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			m, _ := bus.MetaFrom(ctx)
			return world.UserID(m.Header("Jitney-Receipt")), nil
		}))
		for _, from := range []*bus.Bus{b, w.Bus(bus.Config{Service: "caller"})} {
			var r bus.Receipt
			id, err := bus.Execute(w.Context(), from, world.CreateUser{Name: "a"}, bus.WithReceipt(&r))
			require.NoError(w, err)
			require.Empty(w, id)
		}
	})
}

func TestDeliveryBeyondWhatDriversCarry(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		got := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil })
		require.NoError(w, err)
		for _, opt := range []bus.PublishOption{
			bus.WithAt(time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)),
			bus.WithAt(time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)),
			bus.WithDelay(math.MaxInt64),
		} {
			err := bus.Publish(w.Context(), b, world.UserCreated{ID: "never"}, opt)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%v", err)
			require.ErrorContains(w, err, "2261")
		}
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "far"}, bus.WithAt(time.Date(2261, 12, 31, 0, 0, 0, 0, time.UTC))))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "past"}, bus.WithAt(time.Unix(-1<<40, 0))))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "negative"}, bus.WithDelay(math.MinInt64)))
		require.ElementsMatch(w, []world.UserID{"past", "negative"}, got.Wait(w, 2))
	})
}

// checked has a Validate that chooses a code, and that a nil pointer does not
// survive.
type checked struct {
	bus.Command[int]
	Code string
}

func (c *checked) Validate() error {
	if c.Code == "" {
		return nil
	}
	return &bus.Error{Code: bus.Code(c.Code), Message: "no", Details: map[string]string{"field": "code"}}
}

func TestValidateIsAlwaysInvalid(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, *checked) (int, error) { return 1, nil }))
		for _, from := range []*bus.Bus{b, w.Bus(bus.Config{Service: "caller"})} {
			_, err := bus.Execute(w.Context(), from, &checked{Code: string(bus.CodeUnknown)})
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Equal(w, bus.CodeInvalid, e.Code)
			require.Equal(w, map[string]string{"field": "code"}, e.Details)
			_, err = bus.Execute(w.Context(), from, (*checked)(nil))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorContains(w, err, "command is nil")
		}
	})
}

// An event of a PublishAll that a middleware drops or repeats does not shift the
// others.
func TestPublishAllInAChain(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{Sending: []bus.Middleware{func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				switch m.Value.(world.UserCreated).ID {
				case "dropped":
					return nil, nil
				case "twice":
					_, _ = next(ctx, m)
				}
				return next(ctx, m)
			}
		}}})
		got := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil })
		require.NoError(w, err)
		require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "dropped"}, world.UserCreated{ID: "twice"}, world.UserCreated{ID: "once"}))
		require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "dropped"}))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "twice"}))
		world.Settle(time.Minute)
		require.ElementsMatch(w, []world.UserID{"twice", "once", "twice"}, got.All(), "sent twice, stored once")

		refused := transport.Outcome{Status: transport.Refused, Err: transport.ErrBacklog}
		tr.Set(world.Failing("publish", &transport.PublishError{Outcomes: []transport.Outcome{{}, refused}}))
		err = bus.PublishAll(w.Context(), b, world.UserCreated{ID: "twice"}, world.UserCreated{ID: "dropped"}, world.UserCreated{ID: "last"})
		var pe *bus.PublishError
		require.True(w, errors.As(err, &pe))
		require.Len(w, pe.Errors, 3)
		require.NoError(w, pe.Errors[0])
		require.NoError(w, pe.Errors[1])
		require.Equal(w, bus.CodeBacklog, bus.CodeOf(pe.Errors[2]))
	})
}

// A timeout does not outlast the deadline that was there.
func TestTimeoutIsWithinTheDeadline(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		seen := world.NewRecord[time.Duration]()
		tr.Set(func(ctx context.Context, op, _ string) error {
			if op == "publish" || op == "request" {
				d, ok := ctx.Deadline()
				require.True(w, ok)
				seen.Add(time.Until(d))
			}
			return nil
		})
		for _, timeout := range []time.Duration{time.Hour, time.Millisecond} {
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			seen.Reset()
			_ = bus.Publish(ctx, b, world.UserCreated{}, bus.WithTimeout(timeout))
			_, _ = bus.Execute(ctx, b, world.CreateUser{Name: "a"}, bus.WithTimeout(timeout))
			cancel()
			want := min(timeout, time.Second)
			require.Equal(w, []time.Duration{want, want}, seen.All())
		}
	})
}
