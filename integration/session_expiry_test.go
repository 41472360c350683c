package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// leases is how long the sessions of a dead process may stay.
const leases = 20 * time.Second

func TestSessionsOfADeadProcessEnd(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		ctx := w.Context()
		var endeds []*record[bus.SessionEnded]
		for range 3 { // survivors, which must not end anything twice
			_, ended := w.lives(w.bus(bus.Config{}))
			endeds = append(endeds, ended)
		}
		b := w.bus(bus.Config{})
		require.NoError(w, bus.Handle(ctx, b, answering("bus")))
		w.session(b, "survivor")
		dead, tr := w.process("svc")
		openings := map[string]bool{}
		for _, id := range []string{"a", "b", "c"} {
			s := w.session(dead, id)
			require.NoError(w, bus.Handle(ctx, s, answering("session")))
		}
		settle(time.Minute)
		id, err := bus.Execute(bus.ContextWithSession(ctx, "a"), b, createUser{Name: "x"})
		require.NoError(w, err)
		require.Equal(w, userID("session"), id)

		tr.kill()
		died := time.Now()
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err = bus.Execute(bus.ContextWithSession(short, "a"), b, createUser{Name: "x"})
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
		settle(leases - time.Since(died))
		var ends []bus.SessionEnded
		for _, ended := range endeds {
			ends = append(ends, ended.all()...) // one group
		}
		require.Len(w, ends, 3)
		for _, e := range ends {
			require.Equal(w, bus.EndExpired, e.Reason)
			require.Equal(w, "svc", e.Service)
			require.NotEmpty(w, e.Err)
			require.False(w, openings[e.Opening])
			openings[e.Opening] = true
		}
		id, err = bus.Execute(bus.ContextWithSession(ctx, "a"), b, createUser{Name: "x"})
		require.NoError(w, err)
		require.Equal(w, userID("bus"), id, "the session has no handler any more")
		w.noKeys("session")
	})
}

// noKeys requires that nothing is left below a prefix of the store.
func (w *world) noKeys(prefix string) {
	w.Helper()
	tr := w.open()
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
	acrossProcesses(t, func(w *world) {
		dead, tr := w.process("svc")
		w.session(dead, "a")
		tr.kill()
		settle(time.Hour)
		next := w.bus(bus.Config{})
		_, ended := w.lives(next)
		e := ended.wait(w, 1)[0]
		require.Equal(w, bus.EndExpired, e.Reason)
		settle(time.Minute)
		require.Len(w, ended.all(), 1)
		w.noKeys("lease")
	})
}

// A process that stands still for less than the lease finds everything as it was.
func TestSessionSurvivesAPause(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		ctx := w.Context()
		_, ended := w.lives(w.bus(bus.Config{}))
		b, tr := w.process("svc")
		s := w.session(b, "a")
		require.NoError(w, bus.Handle(ctx, s, answering("session")))
		for range 5 {
			settle(2900 * time.Millisecond) // a renewal is due just now
			tr.set(failing("update", transport.ErrUnavailable))
			settle(9900 * time.Millisecond)
			tr.set(nil)
			settle(4 * time.Second)
			id, err := bus.Execute(ctx, s, createUser{Name: "x"})
			require.NoError(w, err)
			require.Equal(w, userID("session"), id)
		}
		require.Empty(w, ended.all())
	})
}

// A renewal whose answer is lost is a renewal.
func TestSessionSurvivesALostAnswer(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		_, ended := w.lives(w.bus(bus.Config{}))
		b, tr := w.process("svc")
		s := w.session(b, "a")
		for range 20 {
			tr.setAfter(times(1, failing("update", transport.ErrUnknown)))
			settle(5 * time.Second)
		}
		require.NoError(w, s.Close(w.Context()))
		require.Equal(w, bus.EndClosed, ended.wait(w, 1)[0].Reason)
	})
}

// A process that stood still for longer runs nothing of its sessions any more.
func TestSessionsEndInAProcessThatLostItsLease(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		ctx := w.Context()
		_, ended := w.lives(w.bus(bus.Config{}))
		b, tr := w.process("svc")
		cause := newRecord[error]()
		require.NoError(w, bus.Handle(ctx, b, answering("bus")))
		failed := make(chan error, 1)
		go func() {
			failed <- bus.InSession(ctx, b, "a", func(ctx context.Context, s *bus.Session) error {
				require.NoError(w, bus.Handle(ctx, s, func(ctx context.Context, _ createUser) (userID, error) {
					<-ctx.Done()
					cause.add(context.Cause(ctx))
					return "", ctx.Err()
				}))
				go func() { _, _ = bus.Execute(ctx, s, createUser{Name: "x"}) }()
				<-ctx.Done()
				require.ErrorIs(w, context.Cause(ctx), bus.ErrSessionExpired)
				_, err := bus.Execute(context.WithoutCancel(ctx), s, createUser{Name: "x"})
				require.ErrorIs(w, err, bus.ErrSessionClosed)
				return nil
			})
		}()
		settle(time.Second)
		tr.set(failing("update", transport.ErrUnavailable)) // it cannot renew
		began := time.Now()
		err := <-failed
		require.ErrorIs(w, err, bus.ErrSessionExpired)
		require.Less(w, time.Since(began), leases)
		require.ErrorIs(w, cause.wait(w, 1)[0], bus.ErrSessionExpired)
		tr.set(nil)
		settle(time.Minute)
		require.Len(w, ended.all(), 1)
		require.Equal(w, bus.EndExpired, ended.all()[0].Reason)

		// The process goes on, also with the same session.
		require.NoError(w, bus.InSession(ctx, b, "a", func(ctx context.Context, s *bus.Session) error {
			id, err := bus.Execute(ctx, s, createUser{Name: "x"})
			require.Equal(w, userID("bus"), id)
			return err
		}))
		require.Len(w, ended.wait(w, 2), 2)
	})
}

// What the store does not take when a session ends is made up for, also while the
// process lives.
func TestSessionEndIsToldAfterAnOutage(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		ctx := w.Context()
		for what, f := range map[string]fault{
			"publish": failing("publish", transport.ErrUnavailable),
			"record":  failingStore("lease.", transport.ErrUnavailable),
			"command": failingStore("session.", transport.ErrUnavailable),
		} {
			b, tr := w.process(what)
			_, ended := w.lives(b)
			s := w.session(b, what)
			require.NoError(w, bus.Handle(ctx, s, answering("session")))
			tr.set(f)
			require.NoError(w, s.Close(ctx), what)
			tr.set(nil)
			settle(10 * time.Second)
			ends := ended.wait(w, 1)
			require.Len(w, ends, 1, what)
			require.Equal(w, bus.EndClosed, ends[0].Reason, what)
			all, err := b.Sessions(ctx)
			require.NoError(w, err)
			require.Empty(w, all, what)
			w.noKeys("session")
			require.NoError(w, b.Close(ctx))
			w.noKeys("lease")
		}
	})
}

// Nothing tells the end twice, however long the process was away.
func TestSessionEndIsToldOnceAfterALongOutage(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		ctx := w.Context()
		for _, survivors := range []bool{false, true} {
			b, tr := w.process("svc")
			by := b
			if survivors {
				by = w.bus(bus.Config{})
			}
			_, ended := w.lives(by)
			s := w.session(b, "a")
			tr.set(func(_ context.Context, op, _ string) error {
				switch op {
				case "publish", "create", "get", "update", "delete":
					return transport.ErrUnavailable
				}
				return nil
			})
			<-s.Done()
			settle(time.Hour)
			tr.set(nil)
			settle(time.Minute)
			ends := ended.wait(w, 1)
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
	acrossProcesses(t, func(w *world) {
		b, survivor := w.process("svc")
		_, ended := w.lives(b)
		dead, tr := w.process("svc")
		require.NoError(w, bus.Handle(w.Context(), w.session(dead, "a"), answering("session")))
		survivor.set(times(1, failingStore("session.", transport.ErrUnavailable)))
		tr.kill()
		settle(time.Minute)
		require.Len(w, ended.all(), 1)
		w.noKeys("session")
	})
}
