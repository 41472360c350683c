package deadletter_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// told collects the DeadLettered that a group of their own gets on b.
func told(w *world.World, b *bus.Bus) *world.Record[bus.DeadLettered] {
	w.Helper()
	told := world.NewRecord[bus.DeadLettered]()
	_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e bus.DeadLettered) error {
		m, _ := bus.MetaFrom(ctx)
		if m.Session != "" || m.CausationID != e.MessageID || m.CorrelationID != e.MessageID && e.Kind == bus.KindEvent {
			return bus.Permanent(fmt.Errorf("in session %q, caused by %q in %q", m.Session, m.CausationID, m.CorrelationID))
		}
		told.Add(e)
		return nil
	}, bus.WithGroup("alarms"), bus.WithConcurrency(1))
	require.NoError(w, err)
	return told
}

// failingOn is a fault of the publishes of one name.
func failingOn(name string, fail world.Fault) world.Fault {
	return func(ctx context.Context, op, what string) error {
		if op == "publish" && what == name {
			return fail(ctx, op, what)
		}
		return nil
	}
}

func TestDeadLetteredTellsOfADeadLetter(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		told := told(w, w.Bus(bus.Config{Service: "ops"}))
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		long := strings.Repeat("é", 300)
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
			if e.ID == "panics" {
				panic(long)
			}
			return bus.Permanent(world.ErrOops)
		}, bus.WithName("mail"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, *world.UserDeleted) error { return nil })
		require.NoError(w, err)
		s, err := b.Session(w.Context(), "job 7")
		require.NoError(w, err)
		defer s.Close(w.Context())
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{ID: "ada"}, bus.WithID("e-1")))
		d := w.DeadLetters(tr, 1)[0]
		e := told.Wait(w, 1)[0]
		require.WithinDuration(w, time.Now(), e.Time, time.Second)
		e.Time = time.Time{}
		require.Equal(w, bus.DeadLettered{
			ID: d.ID, Kind: bus.KindEvent, Name: "user.created", MessageID: "e-1", Session: "job 7", Group: "svc", Handler: "mail",
			Code: bus.CodeFailed, Err: "oops", Attempts: 1, Service: "svc", Host: d.Host,
		}, e)
		_, err = b.DeadLetters().Get(w.Context(), e.ID)
		require.NoError(w, err, "it can be looked at")

		// Once for each, also for what never ran, and for what fails again.
		_, err = b.DeadLetters().Redrive(w.Context(), d.ID)
		require.NoError(w, err)
		again := told.Wait(w, 2)[1]
		require.Equal(w, []any{1, "e-1"}, []any{again.Generation, again.MessageID})
		m := &transport.Message{To: transport.Address{Name: "user.deleted"}, ID: "e-2"}
		if w.InProcess {
			m.Value = &world.UserDeleted{} // it does not validate
		} else {
			m.Body = []byte(`{"ID":`)
		}
		require.NoError(w, tr.Publish(w.Context(), m))
		never := told.Wait(w, 3)[2]
		require.Equal(w, []any{"e-2", "", 0, bus.CodeInvalid}, []any{never.MessageID, never.Handler, never.Attempts, never.Code})
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "panics"}))
		panics := told.Wait(w, 4)[3]
		require.Equal(w, bus.CodePanic, panics.Code)
		require.LessOrEqual(w, len(panics.Err), 256)
		require.Contains(w, panics.Err, "éééé")
		world.Settle(time.Hour)
		require.Len(w, told.All(), 4)
	})
}

// A dead letter that is stored twice, because its event could not be settled, is
// told once.
func TestDeadLetteredOncePerDeadLetter(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		told := told(w, w.Bus(bus.Config{Service: "ops"}))
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		f := newUnsteady()
		listen(w, b, f)
		tr.Set(world.Times(1, world.Failing("term", transport.ErrUnavailable)))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Hour)
		require.Len(w, f.seen.All(), 2)
		require.Equal(w, 2, tr.Count("bury"))
		require.Len(w, told.All(), 1)
	})
}

// An alarm that fails sets off none.
func TestDeadLetteredThatFailsIsNotTold(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		told := told(w, w.Bus(bus.Config{Service: "ops"}))
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		runs := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e bus.DeadLettered) error {
			runs.Add(e.Name)
			return bus.Permanent(world.ErrOops)
		}, bus.WithGroup("broken"))
		require.NoError(w, err)
		f := newUnsteady()
		listen(w, b, f)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Hour)
		require.Equal(w, []string{"user.created"}, runs.All())
		require.Len(w, told.All(), 1)
		all := w.DeadLetters(tr, 2)
		require.Equal(w, world.DeadLettered, all[1].Message.To.Name)
		_, err = b.DeadLetters().Redrive(w.Context(), all[1].ID)
		require.NoError(w, err)
		world.Settle(time.Hour)
		require.Len(w, runs.All(), 2, "it can be redriven as any other")
		require.Len(w, told.All(), 1)
	})
}

// Telling holds nothing up and fails nothing.
func TestDeadLetteredThatCannotBePublished(t *testing.T) {
	for name, fault := range map[string]world.Fault{"fails": world.Failing("", transport.ErrUnavailable), "hangs": world.Hanging("publish")} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				told := told(w, w.Bus(bus.Config{Service: "ops"}))
				var log world.SyncBuffer
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, bus.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				f := newUnsteady()
				listen(w, b, f, bus.WithConcurrency(1))
				tr.Set(failingOn(world.DeadLettered, fault))
				const many = 1400 // more than may wait
				for i := range many {
					if i == many/2 { // the memory driver keeps 1,000
						f.seen.Wait(w, i)
						world.Settle(time.Second)
						_, err := b.DeadLetters().Purge(w.Context(), bus.DeadLetterFilter{})
						require.NoError(w, err)
					}
					require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
				}
				f.seen.Wait(w, many)
				world.Settle(time.Second)
				require.Equal(w, many, tr.Count("term"), "all are settled")
				world.Settle(5 * time.Minute)
				require.Equal(w, many, strings.Count(log.String(), "dead letter stored but not told"))
				require.Empty(w, told.All())

				tr.Set(nil)
				_, err := b.DeadLetters().Purge(w.Context(), bus.DeadLetterFilter{})
				require.NoError(w, err)
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
				world.Settle(time.Second)
				require.Len(w, told.All(), 1, "it goes on")
			})
		})
	}
}

// Close publishes what waits, and gives up after a second.
func TestCloseTellsOfDeadLetters(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		told := told(w, w.Bus(bus.Config{Service: "ops"}))
		for _, hangs := range []bool{false, true} {
			var log world.SyncBuffer
			tr := world.NewFaulty(w.Open())
			b := w.BusOn(tr, bus.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			started := world.NewRecord[int]()
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
				started.Add(1)
				time.Sleep(time.Second)
				return bus.Permanent(world.ErrOops)
			})
			require.NoError(w, err)
			if hangs {
				tr.Set(failingOn(world.DeadLettered, world.Hanging("publish")))
			}
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
			started.Wait(w, 1)
			began := time.Now()
			require.NoError(w, b.Close(w.Context()))
			require.Less(w, time.Since(began), 4*time.Second)
			require.Equal(w, hangs, strings.Contains(log.String(), "dead letter stored but not told"))
			world.Settle(time.Minute)
			require.Len(w, told.All(), 1)
		}
	})
}
