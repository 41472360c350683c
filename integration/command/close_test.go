package command_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// A command that finishes while the bus closes may execute others, also on the
// same bus.
func TestFinishingCommandExecutesAnother(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		for _, from := range []string{"the same bus", "another bus"} {
			b, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
			started, goOn := make(chan struct{}), make(chan struct{})
			require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
				close(started)
				<-goOn
				_, err := bus.Execute(ctx, b, world.Pong{})
				return world.UserID(c.Name), err
			}))
			require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.Pong) (int, error) {
				m, ok := bus.MetaFrom(ctx)
				require.True(w, ok)
				require.NotEqual(w, m.ID, m.CausationID)
				return 1, bus.Publish(ctx, b, world.UserCreated{})
			}, bus.WithConcurrency(1)))
			got := world.NewRecord[error]()
			go func() {
				on := b
				if from == "another bus" {
					on = caller
				}
				_, err := bus.Execute(w.Context(), on, world.CreateUser{Name: "a"})
				got.Add(err)
			}()
			<-started
			closed := world.NewRecord[error]()
			go func() { closed.Add(b.Close(w.Context())) }()
			world.Settle(time.Second)
			_, err := bus.Execute(w.Context(), b, world.Pong{})
			require.ErrorIs(w, err, bus.ErrClosed, "from outside")
			close(goOn)
			require.NoError(w, got.Wait(w, 1)[0], from)
			require.NoError(w, closed.Wait(w, 1)[0], from)
			require.NoError(w, caller.Close(w.Context()))
		}
	})
}

// Commands that call each other for ever end with Close's context.
func TestCloseEndsCommandsThatCallEachOther(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CloseTimeout: 3 * time.Second})
		deep := world.NewRecord[int]()
		call := func(ctx context.Context, next func() error) error {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			deep.Add(1)
			return next()
		}
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			return "", call(ctx, func() error { _, err := bus.Execute(ctx, b, world.Pong{}); return err })
		}))
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.Pong) (int, error) {
			return 0, call(ctx, func() error { _, err := bus.Execute(ctx, b, world.CreateUser{Name: "a"}); return err })
		}))
		got := world.NewRecord[error]()
		go func() {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"}, bus.WithTimeout(time.Minute))
			got.Add(err)
		}()
		world.Settle(time.Second)
		began := time.Now()
		require.NoError(w, b.Close(w.Context()), "they end when they are cancelled")
		require.Less(w, time.Since(began), 7*time.Second)
		require.Error(w, got.Wait(w, 1)[0])
		ran := len(deep.All())
		world.Settle(time.Minute)
		require.Len(w, deep.All(), ran, "nothing runs any more")
	})
}

// A finished bus refuses a handler that ignored its end.
func TestHandlerThatOutlivesItsBus(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CloseTimeout: time.Second})
		started, goOn := make(chan struct{}), make(chan struct{})
		got := world.NewRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			close(started)
			<-goOn
			_, err := bus.Execute(context.WithoutCancel(ctx), b, world.Pong{})
			got.Add(err)
			return "", nil
		}))
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.Pong) (int, error) { return 1, nil }))
		go func() { _, _ = bus.Execute(context.Background(), b, world.CreateUser{Name: "a"}) }()
		<-started
		err := b.Close(w.Context())
		require.ErrorContains(w, err, "user.create")
		require.NotContains(w, err.Error(), "pong", "it does not run")
		close(goOn)
		require.Equal(w, bus.CodeClosed, bus.CodeOf(got.Wait(w, 1)[0]), "nothing ran, and it says so")
	})
}

// Close names what is stuck and nothing else.
func TestCloseNamesNoIdleCommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CloseTimeout: time.Second})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		require.NoError(w, bus.HandleNone(w.Context(), b, func(context.Context, world.ResetAll) error { return nil }))
		started, release := make(chan struct{}), make(chan struct{})
		defer close(release)
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			close(started)
			<-release
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		<-started
		err = b.Close(w.Context())
		require.ErrorContains(w, err, "user.created/svc/default")
		require.NotRegexp(w, `user\.create\b[^d]|user\.create$|reset\.all`, err.Error())
	})
}

// A store that hangs does not keep the transport from closing.
func TestStoreThatHangsLeavesTheTransportItsTime(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		tr := &closesSlowly{Faulty: world.NewFaulty(w.Open()), left: make(chan time.Duration, 1)}
		b := w.BusOn(tr, bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		tr.Set(world.Hanging("get"))
		require.NoError(w, b.Close(w.Context()))
		require.Equal(w, time.Second, <-tr.left)
	})
}

// closesSlowly tells how much time it was given to close.
type closesSlowly struct {
	*world.Faulty
	left chan time.Duration
}

func (t *closesSlowly) Close(ctx context.Context) error {
	d, _ := ctx.Deadline()
	t.left <- time.Until(d)
	return t.Faulty.Close(ctx)
}

var _ transport.Transport = (*closesSlowly)(nil)
