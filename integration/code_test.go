package integration_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/codec/cbor"
	"github.com/jitney-bus/jitney/codec/msgpack"
	"github.com/jitney-bus/jitney/codec/protobuf"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// A code that says "nothing ran" or "not stored" is true, whatever else the
// driver's error is.
func TestCodesPromiseNoMoreThanIsKnown(t *testing.T) {
	for what, c := range map[string]struct {
		err              error
		execute, publish bus.Code
	}{
		"unknown, for it closed":       {fmt.Errorf("%w: %w", transport.ErrUnknown, transport.ErrClosed), bus.CodeUnknown, bus.CodeUnknown},
		"unknown, for it was refused":  {fmt.Errorf("%w: %w", transport.ErrUnknown, transport.ErrUnavailable), bus.CodeUnknown, bus.CodeUnknown},
		"closed":                       {fmt.Errorf("driver: %w", transport.ErrClosed), bus.CodeUnknown, bus.CodeClosed},
		"unmapped":                     {errors.New("unheard of"), bus.CodeUnknown, bus.CodeUnknown},
		"not sent before the deadline": {fmt.Errorf("%w: %w", transport.ErrPermission, context.DeadlineExceeded), bus.CodePermission, bus.CodePermission},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b, tr := w.Process("caller")
				tr.Set(world.Failing("", c.err))
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
				require.Equal(w, c.execute, bus.CodeOf(err), "%v", err)
				require.ErrorIs(w, err, c.err)
				require.Equal(w, errors.Is(c.err, transport.ErrClosed), errors.Is(err, bus.ErrClosed))
				err = bus.Publish(w.Context(), b, world.UserCreated{})
				require.Equal(w, c.publish, bus.CodeOf(err), "%v", err)
				err = bus.PublishAll(w.Context(), b, world.UserCreated{})
				require.Equal(w, c.publish, bus.CodeOf(err), "%v", err)
			})
		})
	}
}

func TestCodeOfAPublishFollowsItsStatus(t *testing.T) {
	for what, c := range map[string]struct {
		out  transport.Outcome
		code bus.Code
	}{
		"unknown, unavailable": {transport.Outcome{Status: transport.Unknown, Err: transport.ErrUnavailable}, bus.CodeUnknown},
		"unknown, closed":      {transport.Outcome{Status: transport.Unknown, Err: transport.ErrClosed}, bus.CodeUnknown},
		"unknown, deadline":    {transport.Outcome{Status: transport.Unknown, Err: context.DeadlineExceeded}, bus.CodeTimeout},
		"unknown, cancelled":   {transport.Outcome{Status: transport.Unknown, Err: context.Canceled}, bus.CodeCancelled},
		"unknown, unmapped":    {transport.Outcome{Status: transport.Unknown, Err: world.ErrOops}, bus.CodeUnknown},
		"refused, unmapped":    {transport.Outcome{Status: transport.Refused, Err: world.ErrOops}, bus.CodeUnavailable},
		"refused, backlog":     {transport.Outcome{Status: transport.Refused, Err: transport.ErrBacklog}, bus.CodeBacklog},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b, tr := w.Process("caller")
				tr.Set(world.Failing("publish", &transport.PublishError{Outcomes: []transport.Outcome{c.out}}))
				err := bus.Publish(w.Context(), b, world.UserCreated{})
				require.Equal(w, c.code, bus.CodeOf(err), "%v", err)
				require.ErrorIs(w, err, c.out.Err)
				var pe *bus.PublishError
				require.ErrorAs(w, bus.PublishAll(w.Context(), b, world.UserCreated{}), &pe)
				require.Equal(w, c.code, bus.CodeOf(pe.Errors[0]))
			})
		})
	}
}

// An Execute that is under way when its own bus closes must not tell its caller
// that nothing ran.
func TestExecuteUnderWayWhenItsBusCloses(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		started := world.NewRecord[int]()
		require.NoError(w, bus.Handle(w.Context(), w.Bus(bus.Config{}), func(context.Context, world.CreateUser) (world.UserID, error) {
			started.Add(1)
			time.Sleep(5 * time.Second)
			return "", nil
		}))
		caller, tr := w.Process("caller")
		tr.SetAfter(world.Failing("request", transport.ErrClosed)) // as a driver answers what was in progress
		got := world.NewRecord[error]()
		go func() {
			_, err := bus.Execute(context.Background(), caller, world.CreateUser{Name: "a"})
			got.Add(err)
		}()
		started.Wait(w, 1)
		require.NoError(w, caller.Close(w.Context()))
		err := got.Wait(w, 1)[0]
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(err), "%v", err)
		require.ErrorIs(w, err, bus.ErrClosed)
		_, err = bus.Execute(w.Context(), caller, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeClosed, bus.CodeOf(err), "what was not sent says so")
		world.Settle(10 * time.Second)
	})
}

// What a sending middleware does after next tells nothing of the message.
func TestCodesOfASendingMiddleware(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var fail func() error
		b := w.Bus(bus.Config{Sending: []bus.Middleware{func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				if _, err := next(ctx, m); err != nil {
					return nil, fmt.Errorf("sent: %w", err)
				}
				return nil, fail()
			}
		}}})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		for what, c := range map[string]struct {
			fail func() error
			code bus.Code
		}{
			"plain":            {func() error { return world.ErrOops }, bus.CodeFailed},
			"panic":            {func() error { panic(world.ErrOops) }, bus.CodePanic},
			"panic with a lie": {func() error { panic(&bus.Error{Code: bus.CodeNoHandler}) }, bus.CodePanic},
			"its own timeout":  {func() error { return context.DeadlineExceeded }, bus.CodeTimeout},
			"its own code":     {func() error { return &bus.Error{Code: "quota", Message: "used up"} }, "quota"},
		} {
			fail = c.fail
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithID("id-1"))
			require.Equal(w, c.code, bus.CodeOf(err), "%s: %v", what, err)
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			err = bus.Publish(w.Context(), b, world.UserCreated{})
			require.Equal(w, c.code, bus.CodeOf(err), "%s: %v", what, err)
			err = bus.PublishAll(w.Context(), b, world.UserCreated{})
			require.Equal(w, c.code, bus.CodeOf(err), "%s: %v", what, err)
		}
		_, err := bus.Execute(w.Context(), b, world.FindUser{})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err), "the bus's own is kept through a wrap: %v", err)
		require.ErrorContains(w, err, "sent: ")
	})
}

// The handler ran; that its caller cannot have the result does not change that.
func TestResultThatDoesNotReachTheCaller(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server := w.Bus(bus.Config{})
		var result any
		replace := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				_, err := next(ctx, m)
				return result, err
			}
		}
		require.NoError(w, bus.Handle(w.Context(), server, world.Create, bus.WithMiddleware(replace)))
		results := map[string]any{"another type": map[string]int{"a": 1}}
		if !w.InProcess {
			results["cannot be encoded"] = make(chan int)
		}
		for _, b := range []*bus.Bus{server, w.Bus(bus.Config{Service: "caller"})} {
			for what, v := range results {
				result = v
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithID("id-1"))
				var e *bus.Error
				require.ErrorAs(w, err, &e, what)
				require.Equal(w, bus.CodeFailed, e.Code, "%s: %v", what, err)
				require.Equal(w, 1, e.Attempts, "%s: %v", what, err)
				require.Equal(w, "user.create", e.Name)
				require.Equal(w, "id-1", e.ID)
			}
		}
	})
}

func TestResultOverTheLimit(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		huge := string(make([]byte, 8<<20))
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
			if c.Name == "result" {
				return world.UserID(huge), nil
			}
			return "", &bus.Error{Code: "quota", Message: "used up", Details: map[string]string{"by": huge}}
		}))
		_, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "result"})
		var e *bus.Error
		if err != nil { // a transport in this process may have no limit
			require.ErrorAs(w, err, &e)
			require.Equal(w, bus.CodeFailed, e.Code, "%v", err)
			require.Equal(w, 1, e.Attempts)
			require.Regexp(w, `\d{7} bytes .* limit of \d+`, e.Message)
		}
		_, err = bus.Execute(w.Context(), caller, world.CreateUser{Name: "details"})
		require.ErrorAs(w, err, &e)
		require.Equal(w, bus.Code("quota"), e.Code, "%v", err)
		require.Equal(w, "used up", e.Message)
	})
}

type sliceResult struct{ bus.Command[[]string] }
type mapResult struct{ bus.Command[map[string]int] }
type anyResult struct{ bus.Command[any] }

// A result that is nil is nil at the caller's, however it travelled, and one that
// is not is not.
func TestNilResults(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		for _, c := range []codec.Codec{codec.JSON, msgpack.Codec, cbor.Codec} {
			cfg := bus.Config{Codec: c, Codecs: []codec.Codec{}}
			server := w.Bus(cfg)
			cfg.Service = "caller"
			caller := w.Bus(cfg)
			empty := false
			require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, world.FindUser) (*world.User, error) {
				if empty {
					return &world.User{}, nil
				}
				return nil, nil
			}))
			require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, sliceResult) ([]string, error) {
				if empty {
					return []string{}, nil
				}
				return nil, nil
			}))
			require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, mapResult) (map[string]int, error) {
				if empty {
					return map[string]int{}, nil
				}
				return nil, nil
			}))
			require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, anyResult) (any, error) {
				if empty {
					return "", nil
				}
				return nil, nil
			}))
			for _, empty = range []bool{false, true} {
				for _, b := range []*bus.Bus{server, caller} {
					var r bus.Receipt
					u, err := bus.Execute(w.Context(), b, world.FindUser{}, bus.WithReceipt(&r))
					require.NoError(w, err)
					require.Equal(w, empty, u != nil)
					require.Equal(w, "svc", r.Service)
					s, err := bus.Execute(w.Context(), b, sliceResult{})
					require.NoError(w, err)
					require.Equal(w, empty, s != nil)
					m, err := bus.Execute(w.Context(), b, mapResult{})
					require.NoError(w, err)
					require.Equal(w, empty, m != nil)
					v, err := bus.Execute(w.Context(), b, anyResult{})
					require.NoError(w, err)
					require.Equal(w, empty, v != nil)
				}
			}
			require.NoError(w, server.Close(w.Context()))
			require.NoError(w, caller.Close(w.Context()))
		}
	})
}

// A message without a set field has an empty body, and is no nil.
func TestEmptyAndNilProtobufResults(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		def := bus.Define[*wrapperspb.StringValue, *wrapperspb.StringValue]("echo")
		server := w.Bus(bus.Config{Codec: protobuf.Codec})
		caller := w.Bus(bus.Config{Codec: protobuf.Codec, Service: "caller"})
		require.NoError(w, def.Handle(w.Context(), server, func(_ context.Context, v *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
			if v.GetValue() == "nil" {
				return nil, nil
			}
			return v, nil
		}))
		for _, b := range []*bus.Bus{server, caller} {
			r, err := def.Execute(w.Context(), b, wrapperspb.String(""))
			require.NoError(w, err)
			require.NotNil(w, r)
			r, err = def.Execute(w.Context(), b, wrapperspb.String("nil"))
			require.NoError(w, err)
			require.Nil(w, r)
		}
	})
}

// An empty reply from a server of another make is no result.
func TestReplyWithoutABody(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		tr := w.Open()
		for _, name := range []string{"user.create", "reset.all"} {
			src, err := tr.Serve(w.Context(), transport.Endpoint{Address: transport.Address{Name: name}})
			require.NoError(w, err)
			go func() {
				for {
					req, err := src.Next(context.Background())
					if err != nil {
						return
					}
					_ = req.Reply(context.Background(), &transport.Message{})
				}
			}()
			defer func() { _ = src.Close(context.Background()) }()
		}
		caller := w.Bus(bus.Config{Service: "caller"})
		_, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "%v", err)
		require.NoError(w, bus.Do(w.Context(), caller, world.ResetAll{}))
		require.NoError(w, tr.Close(w.Context()))
	})
}

// Whoever cancels while every handler is full knows that nothing ran.
func TestCancelledBeforeAHandlerWasFree(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		release := make(chan struct{})
		started := world.NewRecord[int]()
		require.NoError(w, bus.Handle(w.Context(), server, func(context.Context, world.CreateUser) (world.UserID, error) {
			started.Add(1)
			<-release
			return "", nil
		}, bus.WithConcurrency(1)))
		for range 20 { // also the backlog of the transport
			go func() {
				_, _ = bus.Execute(context.Background(), caller, world.CreateUser{Name: "a"}, bus.WithTimeout(time.Minute))
			}()
		}
		started.Wait(w, 1)
		world.Settle(time.Second)
		for _, b := range []*bus.Bus{server, caller} {
			if b == caller && !w.InProcess {
				// It waits in the transport, which cannot tell.
				tr := world.NewFaulty(w.Open())
				tr.Set(world.Failing("request", transport.ErrBusy))
				b = w.BusOn(tr, bus.Config{Service: "refused"})
			} else if b == caller || !w.InProcess {
				continue
			}
			ctx, cancel := context.WithCancel(w.Context())
			time.AfterFunc(time.Second, cancel)
			_, err := bus.Execute(ctx, b, world.CreateUser{Name: "a"})
			require.Equal(w, bus.CodeCancelled, bus.CodeOf(err), "%v", err)
			require.ErrorIs(w, err, context.Canceled)
			require.ErrorContains(w, err, "nothing ran")
			_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithTimeout(time.Second))
			require.Equal(w, bus.CodeBusy, bus.CodeOf(err), "%v", err)
		}
		require.Len(w, started.All(), 1)
		close(release)
		world.Settle(2 * time.Minute)
	})
}
