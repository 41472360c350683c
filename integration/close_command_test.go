package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// A command that finishes while the bus closes may execute others, also on the
// same bus.
func TestFinishingCommandExecutesAnother(t *testing.T) {
	everywhere(t, func(w *world) {
		for _, from := range []string{"the same bus", "another bus"} {
			b, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
			started, goOn := make(chan struct{}), make(chan struct{})
			require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
				close(started)
				<-goOn
				_, err := bus.Execute(ctx, b, pong{})
				return userID(c.Name), err
			}))
			require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c pong) (int, error) {
				m, ok := bus.MetaFrom(ctx)
				require.True(w, ok)
				require.NotEqual(w, m.ID, m.CausationID)
				return 1, bus.Publish(ctx, b, userCreated{})
			}, bus.WithConcurrency(1)))
			got := newRecord[error]()
			go func() {
				on := b
				if from == "another bus" {
					on = caller
				}
				_, err := bus.Execute(w.Context(), on, createUser{Name: "a"})
				got.add(err)
			}()
			<-started
			closed := newRecord[error]()
			go func() { closed.add(b.Close(w.Context())) }()
			settle(time.Second)
			_, err := bus.Execute(w.Context(), b, pong{})
			require.ErrorIs(w, err, bus.ErrClosed, "from outside")
			close(goOn)
			require.NoError(w, got.wait(w, 1)[0], from)
			require.NoError(w, closed.wait(w, 1)[0], from)
			require.NoError(w, caller.Close(w.Context()))
		}
	})
}

// Commands that call each other for ever end with Close's context.
func TestCloseEndsCommandsThatCallEachOther(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{CloseTimeout: 3 * time.Second})
		deep := newRecord[int]()
		call := func(ctx context.Context, next func() error) error {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			deep.add(1)
			return next()
		}
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
			return "", call(ctx, func() error { _, err := bus.Execute(ctx, b, pong{}); return err })
		}))
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c pong) (int, error) {
			return 0, call(ctx, func() error { _, err := bus.Execute(ctx, b, createUser{Name: "a"}); return err })
		}))
		got := newRecord[error]()
		go func() {
			_, err := bus.Execute(w.Context(), b, createUser{Name: "a"}, bus.WithTimeout(time.Minute))
			got.add(err)
		}()
		settle(time.Second)
		began := time.Now()
		require.NoError(w, b.Close(w.Context()), "they end when they are cancelled")
		require.Less(w, time.Since(began), 7*time.Second)
		require.Error(w, got.wait(w, 1)[0])
		ran := len(deep.all())
		settle(time.Minute)
		require.Len(w, deep.all(), ran, "nothing runs any more")
	})
}

// A finished bus refuses a handler that ignored its end.
func TestHandlerThatOutlivesItsBus(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{CloseTimeout: time.Second})
		started, goOn := make(chan struct{}), make(chan struct{})
		got := newRecord[error]()
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
			close(started)
			<-goOn
			_, err := bus.Execute(context.WithoutCancel(ctx), b, pong{})
			got.add(err)
			return "", nil
		}))
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, pong) (int, error) { return 1, nil }))
		go func() { _, _ = bus.Execute(context.Background(), b, createUser{Name: "a"}) }()
		<-started
		err := b.Close(w.Context())
		require.ErrorContains(w, err, "user.create")
		require.NotContains(w, err.Error(), "pong", "it does not run")
		close(goOn)
		require.Equal(w, bus.CodeClosed, bus.CodeOf(got.wait(w, 1)[0]), "nothing ran, and it says so")
	})
}

// Close names what is stuck and nothing else.
func TestCloseNamesNoIdleCommand(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{CloseTimeout: time.Second})
		require.NoError(w, bus.Handle(w.Context(), b, create))
		require.NoError(w, bus.HandleNone(w.Context(), b, func(context.Context, resetAll) error { return nil }))
		started, release := make(chan struct{}), make(chan struct{})
		defer close(release)
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
			close(started)
			<-release
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		<-started
		err = b.Close(w.Context())
		require.ErrorContains(w, err, "user.created/svc/default")
		require.NotRegexp(w, `user\.create\b[^d]|user\.create$|reset\.all`, err.Error())
	})
}

// A store that hangs does not keep the transport from closing.
func TestStoreThatHangsLeavesTheTransportItsTime(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		tr := &closesSlowly{faulty: newFaulty(w.open()), left: make(chan time.Duration, 1)}
		b := w.busOn(tr, bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, create))
		tr.set(hanging("get"))
		require.NoError(w, b.Close(w.Context()))
		require.Equal(w, time.Second, <-tr.left)
	})
}

// closesSlowly tells how much time it was given to close.
type closesSlowly struct {
	*faulty
	left chan time.Duration
}

func (t *closesSlowly) Close(ctx context.Context) error {
	d, _ := ctx.Deadline()
	t.left <- time.Until(d)
	return t.faulty.Close(ctx)
}

var _ transport.Transport = (*closesSlowly)(nil)
