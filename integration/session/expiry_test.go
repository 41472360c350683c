package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// leases is how long the sessions of a dead process may stay.
const leases = 20 * time.Second

func TestSessionsOfADeadProcessEnd(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		ctx := w.Context()
		var endeds []*world.Record[bus.SessionEnded]
		for range 3 { // survivors, which must not end anything twice
			_, ended := lives(w, w.Bus(bus.Config{}))
			endeds = append(endeds, ended)
		}
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(ctx, b, world.Answering("bus")))
		w.Session(b, "survivor")
		dead, tr := w.Process("svc")
		openings := map[string]bool{}
		for _, id := range []string{"a", "b", "c"} {
			s := w.Session(dead, id)
			require.NoError(w, bus.Handle(ctx, s, world.Answering("session")))
		}
		world.Settle(time.Minute)
		id, err := bus.Execute(bus.ContextWithSession(ctx, "a"), b, world.CreateUser{Name: "x"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("session"), id)

		tr.Kill()
		died := time.Now()
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err = bus.Execute(bus.ContextWithSession(short, "a"), b, world.CreateUser{Name: "x"})
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err), "its handler may live: %v", err)
		require.ErrorContains(w, err, `session "a"`)

		for {
			all, err := b.Sessions(ctx)
			require.NoError(w, err)
			if len(all) == 1 {
				require.Equal(w, "survivor", all[0].ID)
				break
			}
			require.Less(w, time.Since(died), leases)
			time.Sleep(100 * time.Millisecond)
		}
		world.Settle(leases - time.Since(died))
		var ends []bus.SessionEnded
		for _, ended := range endeds {
			ends = append(ends, ended.All()...) // one group
		}
		require.Len(w, ends, 3)
		for _, e := range ends {
			require.Equal(w, bus.EndExpired, e.Reason)
			require.Equal(w, "svc", e.Service)
			require.NotEmpty(w, e.Err)
			require.False(w, openings[e.Opening])
			openings[e.Opening] = true
		}
		id, err = bus.Execute(bus.ContextWithSession(ctx, "a"), b, world.CreateUser{Name: "x"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("bus"), id, "the session has no handler any more")
		noKeys(w, "session")
	})
}

// noKeys requires that nothing is left below a prefix of the store.
func noKeys(w *world.World, prefix string) {
	w.Helper()
	tr := w.Open()
	src, err := tr.Store().Watch(w.Context(), prefix)
	require.NoError(w, err)
	for {
		e, err := src.Next(w.Context())
		require.NoError(w, err)
		if e.Key == "" {
			break
		}
		require.True(w, e.Deleted, e.Key)
	}
	require.NoError(w, src.Close(w.Context()))
	require.NoError(w, tr.Close(w.Context()))
}

func TestSessionsOfTheLastProcessEndWithTheNextStart(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		dead, tr := w.Process("svc")
		w.Session(dead, "a")
		tr.Kill()
		world.Settle(time.Hour)
		next := w.Bus(bus.Config{})
		_, ended := lives(w, next)
		e := ended.Wait(w, 1)[0]
		require.Equal(w, bus.EndExpired, e.Reason)
		world.Settle(time.Minute)
		require.Len(w, ended.All(), 1)
		noKeys(w, "lease")
	})
}

// A process that stands still for less than the lease finds everything as it was.
func TestSessionSurvivesAPause(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		ctx := w.Context()
		_, ended := lives(w, w.Bus(bus.Config{}))
		b, tr := w.Process("svc")
		s := w.Session(b, "a")
		require.NoError(w, bus.Handle(ctx, s, world.Answering("session")))
		for range 5 {
			world.Settle(2900 * time.Millisecond) // a renewal is due just now
			tr.Set(world.Failing("update", transport.ErrUnavailable))
			world.Settle(9900 * time.Millisecond)
			tr.Set(nil)
			world.Settle(4 * time.Second)
			id, err := bus.Execute(ctx, s, world.CreateUser{Name: "x"})
			require.NoError(w, err)
			require.Equal(w, world.UserID("session"), id)
		}
		require.Empty(w, ended.All())
	})
}

// A renewal whose answer is lost is a renewal.
func TestSessionSurvivesALostAnswer(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		_, ended := lives(w, w.Bus(bus.Config{}))
		b, tr := w.Process("svc")
		s := w.Session(b, "a")
		for range 20 {
			tr.SetAfter(world.Times(1, world.Failing("update", transport.ErrUnknown)))
			world.Settle(5 * time.Second)
		}
		require.NoError(w, s.Close(w.Context()))
		require.Equal(w, bus.EndClosed, ended.Wait(w, 1)[0].Reason)
	})
}

// A process that stood still for longer runs nothing of its sessions any more.
func TestSessionsEndInAProcessThatLostItsLease(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		ctx := w.Context()
		_, ended := lives(w, w.Bus(bus.Config{}))
		b, tr := w.Process("svc")
		cause := world.NewRecord[error]()
		require.NoError(w, bus.Handle(ctx, b, world.Answering("bus")))
		failed := make(chan error, 1)
		go func() {
			failed <- bus.InSession(ctx, b, "a", func(ctx context.Context, s *bus.Session) error {
				require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, _ world.CreateUser) (world.UserID, error) {
					<-ctx.Done()
					cause.Add(context.Cause(ctx))
					return "", ctx.Err()
				}))
				go func() { _, _ = bus.Execute(ctx, s, world.CreateUser{Name: "x"}) }()
				<-ctx.Done()
				require.ErrorIs(w, context.Cause(ctx), bus.ErrSessionExpired)
				_, err := bus.Execute(context.WithoutCancel(ctx), s, world.CreateUser{Name: "x"})
				require.ErrorIs(w, err, bus.ErrSessionClosed)
				return nil
			})
		}()
		world.Settle(time.Second)
		tr.Set(world.Failing("update", transport.ErrUnavailable)) // it cannot renew
		began := time.Now()
		err := <-failed
		require.ErrorIs(w, err, bus.ErrSessionExpired)
		require.Less(w, time.Since(began), leases)
		require.ErrorIs(w, cause.Wait(w, 1)[0], bus.ErrSessionExpired)
		tr.Set(nil)
		world.Settle(time.Minute)
		require.Len(w, ended.All(), 1)
		require.Equal(w, bus.EndExpired, ended.All()[0].Reason)

		// The process goes on, also with the same session.
		require.NoError(w, bus.InSession(ctx, b, "a", func(ctx context.Context, s *bus.Session) error {
			id, err := bus.Execute(ctx, s, world.CreateUser{Name: "x"})
			require.Equal(w, world.UserID("bus"), id)
			return err
		}))
		require.Len(w, ended.Wait(w, 2), 2)
	})
}

// What the store does not take when a session ends is made up for, also while the
// process lives.
func TestSessionEndIsToldAfterAnOutage(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		ctx := w.Context()
		for what, f := range map[string]world.Fault{
			"publish": world.Failing("publish", transport.ErrUnavailable),
			"record":  world.FailingStore("lease.", transport.ErrUnavailable),
			"command": world.FailingStore("session.", transport.ErrUnavailable),
		} {
			b, tr := w.Process(what)
			_, ended := lives(w, b)
			s := w.Session(b, what)
			require.NoError(w, bus.Handle(ctx, s, world.Answering("session")))
			tr.Set(f)
			require.NoError(w, s.Close(ctx), what)
			tr.Set(nil)
			world.Settle(10 * time.Second)
			ends := ended.Wait(w, 1)
			require.Len(w, ends, 1, what)
			require.Equal(w, bus.EndClosed, ends[0].Reason, what)
			all, err := b.Sessions(ctx)
			require.NoError(w, err)
			require.Empty(w, all, what)
			noKeys(w, "session")
			require.NoError(w, b.Close(ctx))
			noKeys(w, "lease")
		}
	})
}

// Nothing tells the end twice, however long the process was away.
func TestSessionEndIsToldOnceAfterALongOutage(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		ctx := w.Context()
		for _, survivors := range []bool{false, true} {
			b, tr := w.Process("svc")
			by := b
			if survivors {
				by = w.Bus(bus.Config{})
			}
			_, ended := lives(w, by)
			s := w.Session(b, "a")
			tr.Set(func(_ context.Context, op, _ string) error {
				switch op {
				case "publish", "create", "get", "update", "delete":
					return transport.ErrUnavailable
				}
				return nil
			})
			<-s.Done()
			world.Settle(time.Hour)
			tr.Set(nil)
			world.Settle(time.Minute)
			ends := ended.Wait(w, 1)
			require.Len(w, ends, 1)
			require.Equal(w, bus.EndExpired, ends[0].Reason)
			all, err := b.Sessions(ctx)
			require.NoError(w, err)
			require.Empty(w, all)
			require.NoError(w, b.Close(ctx))
		}
	})
}

// A process that dies leaves nothing behind, also if the survivor has to try again.
func TestCommandsOfADeadProcessAreReleasedAfterAFailure(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		b, survivor := w.Process("svc")
		_, ended := lives(w, b)
		dead, tr := w.Process("svc")
		require.NoError(w, bus.Handle(w.Context(), w.Session(dead, "a"), world.Answering("session")))
		survivor.Set(world.Times(1, world.FailingStore("session.", transport.ErrUnavailable)))
		tr.Kill()
		world.Settle(time.Minute)
		require.Len(w, ended.All(), 1)
		noKeys(w, "session")
	})
}
