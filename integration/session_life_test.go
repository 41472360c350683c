package integration_test

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
	"github.com/jitney-bus/jitney/session"
)

// lives records what is published about sessions.
func (w *world) lives(b *bus.Bus) (started *record[bus.SessionStarted], ended *record[bus.SessionEnded]) {
	w.Helper()
	started, ended = newRecord[bus.SessionStarted](), newRecord[bus.SessionEnded]()
	_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e bus.SessionStarted) error {
		require.Equal(w, e.ID, bus.SessionFrom(ctx))
		started.add(e)
		return nil
	}, bus.WithGroup("lives"))
	require.NoError(w, err)
	_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e bus.SessionEnded) error {
		require.Equal(w, e.ID, bus.SessionFrom(ctx))
		ended.add(e)
		return nil
	}, bus.WithGroup("lives"))
	require.NoError(w, err)
	return started, ended
}

func TestSessionLifeIsPublished(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{Service: "worker"})
		started, ended := w.lives(w.bus(bus.Config{}))
		ctx := w.Context()
		opened := time.Now()
		s := w.session(b, "a")
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
		w.session(b, "f")
		require.NoError(w, b.Close(ctx))

		var reasons, openings []string
		for _, e := range ended.wait(w, 6) {
			require.Equal(w, "worker", e.Service)
			reasons = append(reasons, fmt.Sprintf("%s %s %s", e.ID, e.Reason, e.Err))
			openings = append(openings, e.Opening)
		}
		slices.Sort(reasons)
		require.Equal(w, []string{
			"a closed ", "b closed ", "c failed boom", "d panicked panic: bang",
			"e panicked the function did not return", "f stopped ",
		}, reasons)
		for _, e := range started.wait(w, 6) {
			require.Contains(w, openings, e.Opening)
		}
		first := ended.all()[0]
		require.True(w, first.Started.Equal(opened), "%v", first.Started)
		require.Equal(w, time.Second, first.Time.Sub(first.Started).Round(time.Millisecond))
		settle(time.Minute)
		require.Len(w, ended.all(), 6)
		require.Len(w, started.all(), 6)
	})
}

func TestSessionIsOpenOnceInAProcess(t *testing.T) {
	everywhere(t, func(w *world) {
		b, far := w.bus(bus.Config{}), w.bus(bus.Config{})
		ctx := w.Context()
		s := w.session(b, "a")
		_, err := b.Session(ctx, "a")
		require.ErrorIs(w, err, bus.ErrSessionOpen)
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		require.ErrorContains(w, err, `"a"`)
		require.ErrorIs(w, bus.InSession(ctx, b, "a", func(context.Context, *bus.Session) error { panic("not reached") }), bus.ErrSessionOpen)
		w.session(far, "a")
		require.NoError(w, s.Close(ctx))
		again := w.session(b, "a")
		require.NotSame(w, s, again)
	})
}

func TestSessionIDs(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ctx := w.Context()
		for _, bad := range []string{"", "\xff", strings.Repeat("x", session.MaxLen+1)} {
			_, err := b.Session(ctx, bad)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%q", bad)
			require.ErrorIs(w, err, session.ErrInvalid)
			if bad != "" {
				err = bus.Publish(bus.ContextWithSession(ctx, bad), b, userCreated{})
				require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%q", bad)
				_, err = bus.Execute(bus.ContextWithSession(ctx, bad), b, createUser{Name: "x"})
				require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%q", bad)
			}
		}
		// Ids that a subject or a key would take for something else never meet.
		ids := []string{"a", "A", "a.b", "a.*", "*", ">", "_", "a b", "a/b", "ä", "~61", "a\x00", strings.Repeat("x", session.MaxLen)}
		heard := newRecord[string]()
		for _, id := range ids {
			s := w.session(b, id)
			_, err := bus.Subscribe(ctx, s, func(ctx context.Context, e userCreated) error {
				heard.add(fmt.Sprintf("%q hears %s of %q", id, e.ID, bus.SessionFrom(ctx)))
				return nil
			})
			require.NoError(w, err)
			require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, _ createUser) (userID, error) { return userID(id), nil }))
		}
		var want []string
		far := w.bus(bus.Config{})
		for _, id := range ids {
			ctx := bus.ContextWithSession(ctx, id)
			require.NoError(w, bus.Publish(ctx, far, userCreated{ID: "it"}))
			want = append(want, fmt.Sprintf("%q hears it of %q", id, id))
			got, err := bus.Execute(ctx, far, createUser{Name: "x"})
			require.NoError(w, err)
			require.Equal(w, userID(id), got)
		}
		settle(time.Minute)
		require.ElementsMatch(w, want, heard.all())
	})
}

func TestSessionAfterClose(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ctx := w.Context()
		s := w.session(b, "a")
		require.NoError(w, bus.Handle(ctx, s, answering("session")))
		_, err := bus.Subscribe(ctx, s, func(context.Context, userCreated) error { return nil })
		require.NoError(w, err)
		require.NoError(w, s.Close(ctx))
		<-s.Done()
		require.NoError(w, s.Close(ctx), "a second Close")

		_, subErr := bus.Subscribe(ctx, s, func(context.Context, userCreated) error { return nil })
		_, exErr := bus.Execute(ctx, s, createUser{Name: "x"})
		for what, err := range map[string]error{
			"handle": bus.Handle(ctx, s, answering("late")), "subscribe": subErr, "execute": exErr,
			"publish": bus.Publish(ctx, s, userCreated{}), "publish all": bus.PublishAll(ctx, s, userCreated{}),
		} {
			require.ErrorIs(w, err, bus.ErrSessionClosed, what)
			require.Equal(w, bus.CodeClosed, bus.CodeOf(err), what)
			require.ErrorContains(w, err, `"a"`, what)
		}
		_, err = bus.Execute(bus.ContextWithSession(ctx, "a"), b, createUser{Name: "x"})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err), "its handler is gone")
	})
}

func TestSessionHasOneHandlerOfACommand(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ctx := w.Context()
		s := w.session(b, "a")
		require.NoError(w, bus.Handle(ctx, b, answering("bus")))
		require.NoError(w, bus.Handle(ctx, s, answering("session")))
		require.ErrorIs(w, bus.Handle(ctx, s, answering("second")), bus.ErrHandled)
		require.NoError(w, bus.Handle(ctx, w.session(b, "b"), answering("other session")))
		// A process of the same service shares it, one of another may not.
		same := w.session(w.bus(bus.Config{}), "a")
		require.NoError(w, bus.Handle(ctx, same, answering("same service")))
		foreign := w.session(w.bus(bus.Config{Service: "foreign"}), "a")
		require.ErrorIs(w, bus.Handle(ctx, foreign, answering("foreign")), bus.ErrOwned)
		require.NoError(w, s.Close(ctx))
		id, err := bus.Execute(bus.ContextWithSession(ctx, "a"), b, createUser{Name: "x"})
		require.NoError(w, err)
		require.Equal(w, userID("same service"), id)
		require.NoError(w, same.Close(ctx))
		require.NoError(w, bus.Handle(ctx, foreign, answering("foreign")))
	})
}

func TestSessionListenerOptions(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ctx := w.Context()
		s := w.session(b, "a")
		nothing := func(context.Context, userCreated) error { return nil }
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
		order := newRecord[string]()
		var subs []*bus.Subscription
		for _, who := range []struct {
			name     string
			priority int
		}{{"low", 10}, {"high", 100}, {"leaves", 500}} {
			sub, err := bus.Subscribe(ctx, s, func(context.Context, userDeleted) error { order.add(who.name); return nil }, bus.WithPriority(who.priority))
			require.NoError(w, err)
			subs = append(subs, sub)
		}
		require.NoError(w, subs[2].Close(ctx))
		require.NoError(w, bus.Publish(ctx, s, userDeleted{ID: "x"}))
		require.Equal(w, []string{"high", "low"}, order.wait(w, 2))
	})
}

// Close waits for the handlers that run, and they may still send in the session.
func TestSessionCloseWaitsForItsHandlers(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ctx := w.Context()
		s := w.session(b, "a")
		begun, heard := make(chan struct{}), newRecord[string]()
		require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, c createUser) (userID, error) {
			close(begun)
			time.Sleep(2 * time.Second)
			return "done", errors.Join(ctx.Err(), bus.Publish(ctx, s, userCreated{ID: "last words"}))
		}))
		_, err := bus.Subscribe(ctx, b, func(ctx context.Context, e userCreated) error {
			heard.add(bus.SessionFrom(ctx) + " " + string(e.ID))
			return nil
		})
		require.NoError(w, err)
		answer := make(chan error, 1)
		go func() {
			id, err := bus.Execute(bus.ContextWithSession(ctx, "a"), b, createUser{Name: "x"})
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
		require.Equal(w, []string{"a last words"}, heard.wait(w, 1))
	})
}

func TestSessionClosedByItsOwnHandler(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		_, ended := w.lives(w.bus(bus.Config{}))
		ctx := w.Context()
		for what, register := range map[string]func(*bus.Session, func(context.Context) error){
			"listener": func(s *bus.Session, closes func(context.Context) error) {
				_, err := bus.Subscribe(ctx, s, func(ctx context.Context, _ userCreated) error { return closes(ctx) })
				require.NoError(w, err)
				require.NoError(w, bus.PublishAll(ctx, s, userCreated{}, userCreated{}))
			},
			"command": func(s *bus.Session, closes func(context.Context) error) {
				require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, _ createUser) (userID, error) { return "", closes(ctx) }))
				_, err := bus.Execute(ctx, s, createUser{Name: "x"})
				require.NoError(w, err)
			},
		} {
			s := w.session(b, what)
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
		for _, e := range ended.wait(w, 2) {
			require.Equal(w, bus.EndClosed, e.Reason)
			require.Empty(w, e.Err)
		}
	})
}

func TestSessionsAreListed(t *testing.T) {
	everywhere(t, func(w *world) {
		one, two := w.bus(bus.Config{Service: "one"}), w.bus(bus.Config{Service: "two"})
		ctx := w.Context()
		none, err := one.Sessions(ctx)
		require.NoError(w, err)
		require.Empty(w, none)
		w.session(one, "a")
		time.Sleep(time.Minute)
		b := w.session(two, "b.*")
		time.Sleep(time.Minute)
		w.session(two, "a")
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
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{CloseTimeout: 3 * time.Second})
		_, ended := w.lives(w.bus(bus.Config{}))
		ctx := w.Context()
		s := w.session(b, "a")
		cause := newRecord[error]()
		_, err := bus.Subscribe(ctx, s, func(ctx context.Context, _ userCreated) error {
			<-ctx.Done()
			cause.add(context.Cause(ctx))
			return ctx.Err()
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(ctx, s, userCreated{}))
		began := time.Now()
		err = s.Close(ctx)
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.created")
		require.Less(w, time.Since(began), 5*time.Second)
		require.ErrorIs(w, cause.wait(w, 1)[0], bus.ErrStopped)
		e := ended.wait(w, 1)[0]
		require.Equal(w, bus.EndClosed, e.Reason)
		require.Contains(w, e.Err, "user.created")
	})
}

func TestSessionThatClosesRunsTheCommandsOfItsHandlers(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ctx := w.Context()
		require.NoError(w, bus.Handle(ctx, b, answering("bus")))
		s := w.session(b, "a")
		entered, closing := make(chan struct{}), make(chan struct{})
		require.NoError(w, bus.Handle(ctx, s, answering("session")))
		require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, _ pong) (int, error) {
			close(entered)
			<-closing
			time.Sleep(time.Second) // by now it takes nothing from others
			id, err := bus.Execute(ctx, b, createUser{Name: "x"})
			if err == nil && id != userID("session") {
				err = fmt.Errorf("%q answered", id)
			}
			return 1, err
		}))
		answer := make(chan error, 1)
		go func() {
			_, err := bus.Execute(ctx, s, pong{})
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
	everywhere(t, func(w *world) {
		_, ended := w.lives(w.bus(bus.Config{}))
		b := w.bus(bus.Config{CloseTimeout: 3 * time.Second})
		ctx := w.Context()
		s := w.session(b, "a")
		closed := newRecord[error]()
		_, err := bus.Subscribe(ctx, s, func(ctx context.Context, _ userCreated) error {
			closed.add(b.Close(ctx))
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(ctx, s, userCreated{}))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(closed.wait(w, 1)[0]))
		<-s.Done()
		require.Equal(w, bus.EndStopped, ended.wait(w, 1)[0].Reason)
		settle(time.Minute)
		require.Len(w, ended.all(), 1)
	})
}
