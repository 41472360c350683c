package session_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/session"
)

// lives records what is published about sessions.
func lives(w *world.World, b *bus.Bus) (started *world.Record[bus.SessionStarted], ended *world.Record[bus.SessionEnded]) {
	w.Helper()
	started, ended = world.NewRecord[bus.SessionStarted](), world.NewRecord[bus.SessionEnded]()
	_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e bus.SessionStarted) error {
		require.Equal(w, e.ID, bus.SessionFrom(ctx))
		started.Add(e)
		return nil
	}, bus.WithGroup("lives"))
	require.NoError(w, err)
	_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e bus.SessionEnded) error {
		require.Equal(w, e.ID, bus.SessionFrom(ctx))
		ended.Add(e)
		return nil
	}, bus.WithGroup("lives"))
	require.NoError(w, err)
	return started, ended
}

func TestSessionLifeIsPublished(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Service: "worker"})
		started, ended := lives(w, w.Bus(bus.Config{}))
		ctx := w.Context()
		opened := time.Now()
		s := w.Session(b, "a")
		time.Sleep(time.Second)
		require.NoError(w, s.Close(ctx))
		require.NoError(w, bus.InSession(ctx, b, "b", func(context.Context, *bus.Session) error { return nil }))
		boom := errors.New("boom")
		require.ErrorIs(w, bus.InSession(ctx, b, "c", func(context.Context, *bus.Session) error { return boom }), boom)
		require.PanicsWithValue(w, "bang", func() {
			_ = bus.InSession(ctx, b, "d", func(context.Context, *bus.Session) error { panic("bang") })
		})
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_ = bus.InSession(ctx, b, "e", func(context.Context, *bus.Session) error { runtime.Goexit(); return nil })
		}()
		<-gone
		w.Session(b, "f")
		require.NoError(w, b.Close(ctx))

		var reasons, openings []string
		for _, e := range ended.Wait(w, 6) {
			require.Equal(w, "worker", e.Service)
			reasons = append(reasons, fmt.Sprintf("%s %s %s", e.ID, e.Reason, e.Err))
			openings = append(openings, e.Opening)
		}
		slices.Sort(reasons)
		require.Equal(w, []string{
			"a closed ", "b closed ", "c failed boom", "d panicked panic: bang",
			"e panicked the function did not return", "f stopped ",
		}, reasons)
		for _, e := range started.Wait(w, 6) {
			require.Contains(w, openings, e.Opening)
		}
		for _, e := range ended.All() {
			if e.ID == "a" { // they are handled in any order
				require.True(w, e.Started.Equal(opened), "%v", e.Started)
				require.Equal(w, time.Second, e.Time.Sub(e.Started).Round(time.Millisecond))
			}
		}
		world.Settle(time.Minute)
		require.Len(w, ended.All(), 6)
		require.Len(w, started.All(), 6)
	})
}

func TestSessionIsOpenOnceInAProcess(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, far := w.Bus(bus.Config{}), w.Bus(bus.Config{})
		ctx := w.Context()
		s := w.Session(b, "a")
		_, err := b.Session(ctx, "a")
		require.ErrorIs(w, err, bus.ErrSessionOpen)
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		require.ErrorContains(w, err, `"a"`)
		require.ErrorIs(w, bus.InSession(ctx, b, "a", func(context.Context, *bus.Session) error { panic("not reached") }), bus.ErrSessionOpen)
		w.Session(far, "a")
		require.NoError(w, s.Close(ctx))
		again := w.Session(b, "a")
		require.NotSame(w, s, again)
	})
}

func TestSessionIDs(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ctx := w.Context()
		for _, bad := range []string{"", "\xff", strings.Repeat("x", session.MaxLen+1)} {
			_, err := b.Session(ctx, bad)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%q", bad)
			require.ErrorIs(w, err, session.ErrInvalid)
			if bad != "" {
				err = bus.Publish(bus.ContextWithSession(ctx, bad), b, world.UserCreated{})
				require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%q", bad)
				_, err = bus.Execute(bus.ContextWithSession(ctx, bad), b, world.CreateUser{Name: "x"})
				require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%q", bad)
			}
		}
		// Ids that a subject or a key would take for something else never meet.
		ids := []string{"a", "A", "a.b", "a.*", "*", ">", "_", "a b", "a/b", "ä", "~61", "a\x00", strings.Repeat("x", session.MaxLen)}
		heard := world.NewRecord[string]()
		for _, id := range ids {
			s := w.Session(b, id)
			_, err := bus.Subscribe(ctx, s, func(ctx context.Context, e world.UserCreated) error {
				heard.Add(fmt.Sprintf("%q hears %s of %q", id, e.ID, bus.SessionFrom(ctx)))
				return nil
			})
			require.NoError(w, err)
			require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, _ world.CreateUser) (world.UserID, error) { return world.UserID(id), nil }))
		}
		var want []string
		far := w.Bus(bus.Config{})
		for _, id := range ids {
			ctx := bus.ContextWithSession(ctx, id)
			require.NoError(w, bus.Publish(ctx, far, world.UserCreated{ID: "it"}))
			want = append(want, fmt.Sprintf("%q hears it of %q", id, id))
			got, err := bus.Execute(ctx, far, world.CreateUser{Name: "x"})
			require.NoError(w, err)
			require.Equal(w, world.UserID(id), got)
		}
		world.Settle(time.Minute)
		require.ElementsMatch(w, want, heard.All())
	})
}

func TestSessionAfterClose(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ctx := w.Context()
		s := w.Session(b, "a")
		require.NoError(w, bus.Handle(ctx, s, world.Answering("session")))
		_, err := bus.Subscribe(ctx, s, func(context.Context, world.UserCreated) error { return nil })
		require.NoError(w, err)
		require.NoError(w, s.Close(ctx))
		<-s.Done()
		require.NoError(w, s.Close(ctx), "a second Close")

		_, subErr := bus.Subscribe(ctx, s, func(context.Context, world.UserCreated) error { return nil })
		_, exErr := bus.Execute(ctx, s, world.CreateUser{Name: "x"})
		for what, err := range map[string]error{
			"handle": bus.Handle(ctx, s, world.Answering("late")), "subscribe": subErr, "execute": exErr,
			"publish": bus.Publish(ctx, s, world.UserCreated{}), "publish all": bus.PublishAll(ctx, s, world.UserCreated{}),
		} {
			require.ErrorIs(w, err, bus.ErrSessionClosed, what)
			require.Equal(w, bus.CodeClosed, bus.CodeOf(err), what)
			require.ErrorContains(w, err, `"a"`, what)
		}
		_, err = bus.Execute(bus.ContextWithSession(ctx, "a"), b, world.CreateUser{Name: "x"})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err), "its handler is gone")
	})
}

func TestSessionHasOneHandlerOfACommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ctx := w.Context()
		s := w.Session(b, "a")
		require.NoError(w, bus.Handle(ctx, b, world.Answering("bus")))
		require.NoError(w, bus.Handle(ctx, s, world.Answering("session")))
		require.ErrorIs(w, bus.Handle(ctx, s, world.Answering("second")), bus.ErrHandled)
		require.NoError(w, bus.Handle(ctx, w.Session(b, "b"), world.Answering("other session")))
		// A process of the same service shares it, one of another may not.
		same := w.Session(w.Bus(bus.Config{}), "a")
		require.NoError(w, bus.Handle(ctx, same, world.Answering("same service")))
		foreign := w.Session(w.Bus(bus.Config{Service: "foreign"}), "a")
		require.ErrorIs(w, bus.Handle(ctx, foreign, world.Answering("foreign")), bus.ErrOwned)
		require.NoError(w, s.Close(ctx))
		id, err := bus.Execute(bus.ContextWithSession(ctx, "a"), b, world.CreateUser{Name: "x"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("same service"), id)
		require.NoError(w, same.Close(ctx))
		require.NoError(w, bus.Handle(ctx, foreign, world.Answering("foreign")))
	})
}

func TestSessionListenerOptions(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ctx := w.Context()
		s := w.Session(b, "a")
		nothing := func(context.Context, world.UserCreated) error { return nil }
		for _, opt := range []bus.SubscribeOption{bus.WithGroup("g"), bus.WithStart(bus.All())} {
			_, err := bus.Subscribe(ctx, s, nothing, opt)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		}
		_, err := bus.Subscribe(ctx, s, nothing, bus.WithName("twice"))
		require.NoError(w, err)
		_, err = bus.Subscribe(ctx, s, nothing, bus.WithName("twice"))
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		require.ErrorContains(w, err, `session "a" has a handler "twice"`)

		// By priority, without names, and one that leaves before the others.
		order := world.NewRecord[string]()
		var subs []*bus.Subscription
		for _, who := range []struct {
			name     string
			priority int
		}{{"low", 10}, {"high", 100}, {"leaves", 500}} {
			sub, err := bus.Subscribe(ctx, s, func(context.Context, world.UserDeleted) error { order.Add(who.name); return nil }, bus.WithPriority(who.priority))
			require.NoError(w, err)
			subs = append(subs, sub)
		}
		require.NoError(w, subs[2].Close(ctx))
		require.NoError(w, bus.Publish(ctx, s, world.UserDeleted{ID: "x"}))
		require.Equal(w, []string{"high", "low"}, order.Wait(w, 2))
	})
}

// Close waits for the handlers that run, and they may still send in the session.
func TestSessionCloseWaitsForItsHandlers(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ctx := w.Context()
		s := w.Session(b, "a")
		begun, heard := make(chan struct{}), world.NewRecord[string]()
		require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			close(begun)
			time.Sleep(2 * time.Second)
			return "done", errors.Join(ctx.Err(), bus.Publish(ctx, s, world.UserCreated{ID: "last words"}))
		}))
		_, err := bus.Subscribe(ctx, b, func(ctx context.Context, e world.UserCreated) error {
			heard.Add(bus.SessionFrom(ctx) + " " + string(e.ID))
			return nil
		})
		require.NoError(w, err)
		answer := make(chan error, 1)
		go func() {
			id, err := bus.Execute(bus.ContextWithSession(ctx, "a"), b, world.CreateUser{Name: "x"})
			if err == nil && id != "done" {
				err = errors.New(string(id))
			}
			answer <- err
		}()
		<-begun
		began := time.Now()
		other := make(chan error, 1)
		go func() { other <- s.Close(ctx) }()
		require.NoError(w, s.Close(ctx))
		require.NoError(w, <-other, "both calls wait")
		require.Equal(w, 2*time.Second, time.Since(began).Round(100*time.Millisecond))
		require.NoError(w, <-answer)
		require.Equal(w, []string{"a last words"}, heard.Wait(w, 1))
	})
}

func TestSessionClosedByItsOwnHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		_, ended := lives(w, w.Bus(bus.Config{}))
		ctx := w.Context()
		for what, register := range map[string]func(*bus.Session, func(context.Context) error){
			"listener": func(s *bus.Session, closes func(context.Context) error) {
				_, err := bus.Subscribe(ctx, s, func(ctx context.Context, _ world.UserCreated) error { return closes(ctx) })
				require.NoError(w, err)
				require.NoError(w, bus.PublishAll(ctx, s, world.UserCreated{}, world.UserCreated{}))
			},
			"command": func(s *bus.Session, closes func(context.Context) error) {
				require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, _ world.CreateUser) (world.UserID, error) { return "", closes(ctx) }))
				_, err := bus.Execute(ctx, s, world.CreateUser{Name: "x"})
				require.NoError(w, err)
			},
		} {
			s := w.Session(b, what)
			began := time.Now()
			register(s, func(ctx context.Context) error {
				if err := s.Close(ctx); err != nil {
					return err
				}
				time.Sleep(time.Second)
				return ctx.Err() // it is not waited for, and not cancelled
			})
			<-s.Done()
			require.Less(w, time.Since(began), 5*time.Second, what)
			require.NoError(w, s.Close(ctx))
		}
		for _, e := range ended.Wait(w, 2) {
			require.Equal(w, bus.EndClosed, e.Reason)
			require.Empty(w, e.Err)
		}
	})
}

func TestSessionsAreListed(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		one, two := w.Bus(bus.Config{Service: "one"}), w.Bus(bus.Config{Service: "two"})
		ctx := w.Context()
		none, err := one.Sessions(ctx)
		require.NoError(w, err)
		require.Empty(w, none)
		w.Session(one, "a")
		time.Sleep(time.Minute)
		b := w.Session(two, "b.*")
		time.Sleep(time.Minute)
		w.Session(two, "a")
		time.Sleep(time.Second)
		all, err := one.Sessions(ctx)
		require.NoError(w, err)
		require.Len(w, all, 3)
		var got []string
		for _, i := range all {
			require.NotEmpty(w, i.Opening)
			require.Equal(w, i.Age, time.Since(i.Opened))
			got = append(got, fmt.Sprintf("%s of %s, %v", i.ID, i.Service, i.Age))
		}
		require.Equal(w, []string{"a of one, 2m1s", "b.* of two, 1m1s", "a of two, 1s"}, got)
		require.NotEqual(w, all[0].Process, all[1].Process)
		require.Equal(w, all[1].Process, all[2].Process)
		require.NoError(w, b.Close(ctx))
		require.NoError(w, one.Close(ctx))
		all, err = two.Sessions(ctx)
		require.NoError(w, err)
		require.Len(w, all, 1)
		_, err = one.Sessions(ctx)
		require.ErrorIs(w, err, bus.ErrClosed)
	})
}
func TestSessionCloseGivesUpOnAStuckHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CloseTimeout: 3 * time.Second})
		_, ended := lives(w, w.Bus(bus.Config{}))
		ctx := w.Context()
		s := w.Session(b, "a")
		cause := world.NewRecord[error]()
		_, err := bus.Subscribe(ctx, s, func(ctx context.Context, _ world.UserCreated) error {
			<-ctx.Done()
			cause.Add(context.Cause(ctx))
			return ctx.Err()
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(ctx, s, world.UserCreated{}))
		began := time.Now()
		err = s.Close(ctx)
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.created")
		require.Less(w, time.Since(began), 5*time.Second)
		require.ErrorIs(w, cause.Wait(w, 1)[0], bus.ErrStopped)
		e := ended.Wait(w, 1)[0]
		require.Equal(w, bus.EndClosed, e.Reason)
		require.Contains(w, e.Err, "user.created")
	})
}

func TestSessionThatClosesRunsTheCommandsOfItsHandlers(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ctx := w.Context()
		require.NoError(w, bus.Handle(ctx, b, world.Answering("bus")))
		s := w.Session(b, "a")
		entered, closing := make(chan struct{}), make(chan struct{})
		require.NoError(w, bus.Handle(ctx, s, world.Answering("session")))
		require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, _ world.Pong) (int, error) {
			close(entered)
			<-closing
			time.Sleep(time.Second) // by now it takes nothing from others
			id, err := bus.Execute(ctx, b, world.CreateUser{Name: "x"})
			if err == nil && id != world.UserID("session") {
				err = fmt.Errorf("%q answered", id)
			}
			return 1, err
		}))
		answer := make(chan error, 1)
		go func() {
			_, err := bus.Execute(ctx, s, world.Pong{})
			answer <- err
		}()
		<-entered
		began := time.Now()
		close(closing)
		require.NoError(w, s.Close(ctx))
		require.Less(w, time.Since(began), 5*time.Second)
		require.NoError(w, <-answer)
	})
}

// A handler cannot wait for itself: the bus gives up on it, and its session ends
// with the bus, not later.
func TestBusClosedByAHandlerOfASession(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		_, ended := lives(w, w.Bus(bus.Config{}))
		b := w.Bus(bus.Config{CloseTimeout: 3 * time.Second})
		ctx := w.Context()
		s := w.Session(b, "a")
		closed := world.NewRecord[error]()
		_, err := bus.Subscribe(ctx, s, func(ctx context.Context, _ world.UserCreated) error {
			closed.Add(b.Close(ctx))
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(ctx, s, world.UserCreated{}))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(closed.Wait(w, 1)[0]))
		<-s.Done()
		require.Equal(w, bus.EndStopped, ended.Wait(w, 1)[0].Reason)
		world.Settle(time.Minute)
		require.Len(w, ended.All(), 1)
	})
}
