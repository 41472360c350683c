package integration_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// told collects the DeadLettered that a group of their own gets on b.
func (w *world) told(b *bus.Bus) *record[bus.DeadLettered] {
	w.Helper()
	told := newRecord[bus.DeadLettered]()
	_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e bus.DeadLettered) error {
		m, _ := bus.MetaFrom(ctx)
		if m.Session != "" || m.CausationID != e.MessageID || m.CorrelationID != e.MessageID && e.Kind == bus.KindEvent {
			return bus.Permanent(fmt.Errorf("in session %q, caused by %q in %q", m.Session, m.CausationID, m.CorrelationID))
		}
		told.add(e)
		return nil
	}, bus.WithGroup("alarms"), bus.WithConcurrency(1))
	require.NoError(w, err)
	return told
}

// failingOn is a fault of the publishes of one name.
func failingOn(name string, fail fault) fault {
	return func(ctx context.Context, op, what string) error {
		if op == "publish" && what == name {
			return fail(ctx, op, what)
		}
		return nil
	}
}

func TestDeadLetteredTellsOfADeadLetter(t *testing.T) {
	everywhere(t, func(w *world) {
		told := w.told(w.bus(bus.Config{Service: "ops"}))
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		long := strings.Repeat("é", 300)
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error {
			if e.ID == "panics" {
				panic(long)
			}
			return bus.Permanent(errOops)
		}, bus.WithName("mail"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, *userDeleted) error { return nil })
		require.NoError(w, err)
		s, err := b.Session(w.Context(), "job 7")
		require.NoError(w, err)
		defer s.Close(w.Context())
		require.NoError(w, bus.Publish(w.Context(), s, userCreated{ID: "ada"}, bus.WithID("e-1")))
		d := w.deadLetters(tr, 1)[0]
		e := told.wait(w, 1)[0]
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
		again := told.wait(w, 2)[1]
		require.Equal(w, []any{1, "e-1"}, []any{again.Generation, again.MessageID})
		m := &transport.Message{To: transport.Address{Name: "user.deleted"}, ID: "e-2"}
		if w.inProcess {
			m.Value = &userDeleted{} // it does not validate
		} else {
			m.Body = []byte(`{"ID":`)
		}
		require.NoError(w, tr.Publish(w.Context(), m))
		never := told.wait(w, 3)[2]
		require.Equal(w, []any{"e-2", "", 0, bus.CodeInvalid}, []any{never.MessageID, never.Handler, never.Attempts, never.Code})
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "panics"}))
		panics := told.wait(w, 4)[3]
		require.Equal(w, bus.CodePanic, panics.Code)
		require.LessOrEqual(w, len(panics.Err), 256)
		require.Contains(w, panics.Err, "éééé")
		settle(time.Hour)
		require.Len(w, told.all(), 4)
	})
}

// A dead letter that is stored twice, because its event could not be settled, is
// told once.
func TestDeadLetteredOncePerDeadLetter(t *testing.T) {
	everywhere(t, func(w *world) {
		told := w.told(w.bus(bus.Config{Service: "ops"}))
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		f := newUnsteady()
		w.listen(b, f)
		tr.set(times(1, failing("term", transport.ErrUnavailable)))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Hour)
		require.Len(w, f.seen.all(), 2)
		require.Equal(w, 2, tr.count("bury"))
		require.Len(w, told.all(), 1)
	})
}

// An alarm that fails sets off none.
func TestDeadLetteredThatFailsIsNotTold(t *testing.T) {
	everywhere(t, func(w *world) {
		told := w.told(w.bus(bus.Config{Service: "ops"}))
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		runs := newRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e bus.DeadLettered) error {
			runs.add(e.Name)
			return bus.Permanent(errOops)
		}, bus.WithGroup("broken"))
		require.NoError(w, err)
		f := newUnsteady()
		w.listen(b, f)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Hour)
		require.Equal(w, []string{"user.created"}, runs.all())
		require.Len(w, told.all(), 1)
		all := w.deadLetters(tr, 2)
		require.Equal(w, deadLettered, all[1].Message.To.Name)
		_, err = b.DeadLetters().Redrive(w.Context(), all[1].ID)
		require.NoError(w, err)
		settle(time.Hour)
		require.Len(w, runs.all(), 2, "it can be redriven as any other")
		require.Len(w, told.all(), 1)
	})
}

// Telling holds nothing up and fails nothing.
func TestDeadLetteredThatCannotBePublished(t *testing.T) {
	for name, fault := range map[string]fault{"fails": failing("", transport.ErrUnavailable), "hangs": hanging("publish")} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(w *world) {
				told := w.told(w.bus(bus.Config{Service: "ops"}))
				var log syncBuffer
				tr := newFaulty(w.open())
				b := w.busOn(tr, bus.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				f := newUnsteady()
				w.listen(b, f, bus.WithConcurrency(1))
				tr.set(failingOn(deadLettered, fault))
				const many = 1400 // more than may wait
				for i := range many {
					if i == many/2 { // the memory driver keeps 1,000
						f.seen.wait(w, i)
						settle(time.Second)
						_, err := b.DeadLetters().Purge(w.Context(), bus.DeadLetterFilter{})
						require.NoError(w, err)
					}
					require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
				}
				f.seen.wait(w, many)
				settle(time.Second)
				require.Equal(w, many, tr.count("term"), "all are settled")
				settle(5 * time.Minute)
				require.Equal(w, many, strings.Count(log.String(), "dead letter stored but not told"))
				require.Empty(w, told.all())

				tr.set(nil)
				_, err := b.DeadLetters().Purge(w.Context(), bus.DeadLetterFilter{})
				require.NoError(w, err)
				require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
				settle(time.Second)
				require.Len(w, told.all(), 1, "it goes on")
			})
		})
	}
}

// Close publishes what waits, and gives up after a second.
func TestCloseTellsOfDeadLetters(t *testing.T) {
	everywhere(t, func(w *world) {
		told := w.told(w.bus(bus.Config{Service: "ops"}))
		for _, hangs := range []bool{false, true} {
			var log syncBuffer
			tr := newFaulty(w.open())
			b := w.busOn(tr, bus.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			started := newRecord[int]()
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
				started.add(1)
				time.Sleep(time.Second)
				return bus.Permanent(errOops)
			})
			require.NoError(w, err)
			if hangs {
				tr.set(failingOn(deadLettered, hanging("publish")))
			}
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
			started.wait(w, 1)
			began := time.Now()
			require.NoError(w, b.Close(w.Context()))
			require.Less(w, time.Since(began), 4*time.Second)
			require.Equal(w, hangs, strings.Contains(log.String(), "dead letter stored but not told"))
			settle(time.Minute)
			require.Len(w, told.all(), 1)
		}
	})
}
