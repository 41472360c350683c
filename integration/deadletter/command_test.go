package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// commandLetter is the record of a command that failed; key is its idempotency key.
func commandLetter(w *world.World, id, key string) *transport.DeadLetter {
	d := letter(w, id)
	d.Kind, d.Group, d.Handler, d.StreamSequence = "command", "", "svc", 0
	d.Message.To.Name, d.Message.ID, d.Message.SentAt = "user.create", "cmd-"+id, time.Time{}
	if key != "" {
		d.Message.Header.Set("Jitney-Idempotency-Key", key)
	}
	if w.InProcess {
		d.Message.Value = world.CreateUser{Name: id}
	} else {
		d.Message.Body = fmt.Appendf(nil, `{"Name":%q}`, id)
	}
	return d
}

// creator handles createUser as a test says, and remembers what it saw.
type creator struct {
	seen  *world.Record[string]
	metas *world.Record[bus.Meta]
	fail  atomic.Pointer[error]
}

func (c *creator) set(err error) { c.fail.Store(&err) }

func creates(w *world.World, s bus.Scope) *creator {
	w.Helper()
	c := &creator{seen: world.NewRecord[string](), metas: world.NewRecord[bus.Meta]()}
	require.NoError(w, bus.Handle(w.Context(), s, func(ctx context.Context, cmd world.CreateUser) (world.UserID, error) {
		m, _ := bus.MetaFrom(ctx)
		c.metas.Add(m)
		c.seen.Add(cmd.Name)
		if err := c.fail.Load(); err != nil && *err != nil {
			return "", *err
		}
		return world.UserID(cmd.Name), nil
	}))
	return c
}

func TestRedriveOfACommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, ops := w.BusOn(tr, bus.Config{}), w.Bus(bus.Config{Service: "ops"})
		c := creates(w, b)
		for i, from := range []*bus.Bus{b, ops} {
			id := fmt.Sprint("ada", i)
			add(w, tr, commandLetter(w, id, "key-"+id))
			dry, err := from.DeadLetters().Redrive(w.Context(), id, bus.WithDryRun())
			require.NoError(w, err)
			require.True(w, dry.DryRun)
			require.Len(w, c.seen.All(), i)
			res, err := from.DeadLetters().Redrive(w.Context(), id)
			require.NoError(w, err)
			require.Equal(w, bus.RedriveResult{ID: id, MessageID: "cmd-" + id, Name: "user.create", Handler: "svc", Generation: 1}, res)
			require.Len(w, c.seen.All(), i+1, "it has run when Redrive returns")
			m := c.metas.All()[i]
			require.Equal(w, []any{bus.KindCommand, "cmd-" + id, "evt-" + id, 1, 1}, []any{m.Kind, m.ID, m.CorrelationID, m.Attempt, m.Generation})
			require.Equal(w, transport.Header{"Tenant": {"t1"}}, m.Headers())
			w.DeadLetters(tr, 0)
			_, err = from.DeadLetters().Redrive(w.Context(), id)
			require.ErrorIs(w, err, bus.ErrNoDeadLetter)
		}
	})
}

// A command that may have taken effect is executed again only if that does no harm, or
// is meant.
func TestRedriveOfACommandWithoutAKey(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		c := creates(w, b)
		add(w, tr, commandLetter(w, "ada", ""), commandLetter(w, "bob", "k"))
		for _, opts := range [][]bus.RedriveOption{nil, {bus.WithDryRun()}} {
			_, err := b.DeadLetters().Redrive(w.Context(), "ada", opts...)
			require.ErrorIs(w, err, bus.ErrNotRedrivable)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorContains(w, err, "idempotency key")
			require.ErrorContains(w, err, "WithForce")
		}
		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, []int{1, 1, 0}, []int{report.Redriven, report.Refused, report.Failed})
		require.Equal(w, []string{"bob"}, c.seen.All())
		_, err = b.DeadLetters().Redrive(w.Context(), "ada", bus.WithForce())
		require.NoError(w, err)
		require.Equal(w, []string{"bob", "ada"}, c.seen.All())
		w.DeadLetters(tr, 0)
	})
}

// One that fails again is a dead letter again, with its history, whoever handles it.
func TestRedrivenCommandFailsAgain(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		errs := map[string]error{"user.exists": world.ErrUserExists}
		told := told(w, w.Bus(bus.Config{Service: "alarms"}))
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Errors: errs})
		c := creates(w, b)
		add(w, tr, commandLetter(w, "ada", "k"))
		id := "ada"
		for i, from := range []*bus.Bus{b, w.Bus(bus.Config{Service: "ops", Errors: errs})} {
			c.set(fmt.Errorf("try %d: %w", i+1, world.ErrUserExists))
			res, err := from.DeadLetters().Redrive(w.Context(), id)
			require.ErrorIs(w, err, world.ErrUserExists)
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Equal(w, []any{"user.exists", 1, "cmd-ada"}, []any{e.Wire, e.Attempts, e.ID})
			require.Equal(w, err, res.Err)
			d := only(w, b.DeadLetters())
			require.ErrorContains(w, err, d.ID)
			require.NotEqual(w, id, d.ID)
			require.Equal(w, []any{i + 1, i + 1, "cmd-ada", bus.KindCommand, "svc", 1, bus.CodeFailed},
				[]any{d.Generation, len(d.History), d.MessageID, d.Kind, d.Handler, d.Attempts, d.Code})
			require.Contains(w, d.Err, fmt.Sprintf("try %d", i+1))
			require.Equal(w, "oops", d.History[0].Err)
			require.Equal(w, bus.Header{"Tenant": {"t1"}}, d.Header())
			cmd, err := bus.DeadLetterValue[world.CreateUser](d)
			require.NoError(w, err)
			require.Equal(w, "ada", cmd.Name)
			e2 := told.Wait(w, i+1)[i]
			require.Equal(w, []any{d.ID, bus.KindCommand, i + 1, "cmd-ada"}, []any{e2.ID, e2.Kind, e2.Generation, e2.MessageID})
			id = d.ID
		}
		c.set(nil)
		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, 1, report.Redriven)
		require.Equal(w, []int{1, 2, 3}, []int{c.metas.All()[0].Generation, c.metas.All()[1].Generation, c.metas.All()[2].Generation})
		w.DeadLetters(tr, 0)
	})
}

// A panic is a failure as well.
func TestRedrivenCommandPanics(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) { panic("boom") }))
		add(w, tr, commandLetter(w, "ada", "k"))
		_, err := b.DeadLetters().Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodePanic, bus.CodeOf(err))
		require.Equal(w, bus.CodePanic, only(w, b.DeadLetters()).Code)
	})
}

// Where nothing ran, or nobody knows, the dead letter stays as it is, and others go on.
func TestRedriveOfACommandThatIsNotTaken(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, ops := w.BusOn(tr, bus.Config{}), w.Bus(bus.Config{Service: "ops", ExecuteTimeout: 5 * time.Second}).DeadLetters()
		add(w, tr, commandLetter(w, "ada", "k"), letter(w, "event"))
		report, err := ops.RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, []int{1, 0, 1}, []int{report.Redriven, report.Refused, report.Failed})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(report.Results[0].Err))
		require.Equal(w, "ada", only(w, ops).ID)

		hang := make(chan struct{})
		runs := world.NewRecord[int]()
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, _ world.CreateUser) (world.UserID, error) {
			runs.Add(1)
			select {
			case <-hang:
				return "1", nil
			case <-ctx.Done():
				<-hang // it does not mind
				return "2", nil
			}
		}))
		began := time.Now()
		_, err = ops.Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.Equal(w, 5*time.Second, time.Since(began).Round(time.Second), "Config.ExecuteTimeout")
		ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
		defer cancel()
		report, err = ops.RedriveAll(ctx, bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, 1, report.Failed)
		require.Equal(w, 10*time.Second, time.Since(began).Round(time.Second), "each has Config.ExecuteTimeout")
		_, err = ops.Redrive(ctx, "ada")
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.Equal(w, 25*time.Second, time.Since(began).Round(time.Second), "the deadline of ctx")
		require.Equal(w, "ada", only(w, ops).ID)
		close(hang)
		world.Settle(time.Second)
		_, err = ops.Redrive(w.Context(), "ada")
		require.NoError(w, err)
		w.DeadLetters(tr, 0)
	})
}

// It goes to the session's handler, and only while the session is there.
func TestRedriveOfACommandOfASession(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, ops := w.BusOn(tr, bus.Config{}), w.Bus(bus.Config{Service: "ops"}).DeadLetters()
		bare := creates(w, b)
		s, err := w.Bus(bus.Config{}).Session(w.Context(), "job 7")
		require.NoError(w, err)
		own := creates(w, s)
		add := func(id string) {
			d := commandLetter(w, id, "k-"+id)
			d.Message.Session, d.Message.To.Session = "job 7", "job 7"
			add(w, tr, d)
		}
		add("ada")
		add("bob")
		_, err = ops.Redrive(w.Context(), "ada")
		require.NoError(w, err)
		require.Equal(w, []string{"ada"}, own.seen.All())
		require.Equal(w, "job 7", own.metas.All()[0].Session)
		require.NoError(w, s.Close(w.Context()))
		world.Settle(10 * time.Second) // what a redriver knows of sessions is not older
		_, err = ops.Redrive(w.Context(), "bob")
		require.ErrorIs(w, err, bus.ErrNotRedrivable)
		require.ErrorIs(w, err, bus.ErrSessionClosed)
		require.Empty(w, bare.seen.All())
		_, err = ops.Redrive(w.Context(), "bob", bus.WithForce())
		require.NoError(w, err)
		require.Equal(w, []string{"bob"}, bare.seen.All())
		w.DeadLetters(tr, 0)
	})
}

// Whatever the transport does not do, there is a dead letter until the command has
// succeeded.
func TestRedriveOfACommandWhenTheDeadLettersFail(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		ops := w.BusOn(tr, bus.Config{Service: "ops", PublishTimeout: time.Second}).DeadLetters()
		c := creates(w, w.Bus(bus.Config{}))
		c.set(world.ErrOops)
		add(w, tr.Transport, commandLetter(w, "ada", "k"))
		tr.Set(world.Failing("bury", transport.ErrBacklog))
		_, err := ops.Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		require.ErrorContains(w, err, "oops")
		require.ErrorIs(w, err, transport.ErrBacklog)
		require.Equal(w, "ada", only(w, ops).ID, "it stays")

		tr.Set(world.Failing("unbury", transport.ErrUnavailable))
		_, err = ops.Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		w.DeadLetters(tr.Transport, 2)
		tr.Set(nil)
		_, err = ops.Redrive(w.Context(), "ada")
		require.Error(w, err)
		d := only(w, ops)
		require.Equal(w, 1, d.Generation, "the same one, not one more")

		c.set(nil)
		tr.Set(world.Times(1, world.Failing("unbury", transport.ErrUnavailable)))
		_, err = ops.Redrive(w.Context(), d.ID)
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err))
		require.ErrorContains(w, err, "has succeeded")
		only(w, ops)
		_, err = ops.Redrive(w.Context(), d.ID)
		require.NoError(w, err)
		w.DeadLetters(tr.Transport, 0)
	})
}

func TestRedriveOfAnEditedCommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, ops := w.BusOn(tr, bus.Config{}), w.Bus(bus.Config{Service: "ops"}).DeadLetters()
		c := creates(w, b)
		rename := func(name string) bus.RedriveOption {
			return bus.WithEdit(func(c world.CreateUser) (world.CreateUser, error) { c.Name = name; return c, nil })
		}
		add(w, tr, commandLetter(w, "ada", "k1"), commandLetter(w, "bob", "k2"))
		_, err := ops.Redrive(w.Context(), "ada", rename(""))
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(w, err, "name is empty")
		require.Empty(w, c.seen.All())
		c.set(world.ErrOops)
		_, err = ops.Redrive(w.Context(), "ada", rename("ada.lovelace"))
		require.Error(w, err)
		page, err := ops.List(w.Context(), bus.DeadLetterQuery{Newest: true, Limit: 1})
		require.NoError(w, err)
		d := page.Letters[0]
		require.True(w, d.Edited)
		require.True(w, d.History[0].Edited)
		c.set(nil)
		res, err := ops.Redrive(w.Context(), d.ID)
		require.NoError(w, err)
		require.False(w, res.Edited)
		for i, from := range []*bus.DeadLetters{ops, b.DeadLetters()} {
			if i == 1 {
				add(w, tr, commandLetter(w, "bob", "k3"))
			}
			_, err = from.Redrive(w.Context(), "bob", bus.WithBodyEdit(func(ct string, body []byte) (string, []byte, error) {
				require.Equal(w, `{"Name":"bob"}`, string(body))
				return ct, []byte(`{"Name":"robert"}`), nil
			}))
			require.NoError(w, err)
		}
		require.Equal(w, []string{"ada.lovelace", "ada.lovelace", "robert", "robert"}, c.seen.All())
		w.DeadLetters(tr, 0)
	})
}

// The process that handles it dies: nobody knows, and the dead letter stays.
func TestRedriveOfACommandWhoseHandlerDies(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		ops := w.BusOn(tr, bus.Config{Service: "ops"}).DeadLetters()
		dying := world.NewFaulty(w.Open())
		require.NoError(w, bus.Handle(w.Context(), w.BusOn(dying, bus.Config{}), func(ctx context.Context, _ world.CreateUser) (world.UserID, error) {
			dying.Kill()
			<-ctx.Done()
			time.Sleep(time.Minute)
			return "", errors.New("nobody hears this")
		}))
		add(w, tr, commandLetter(w, "ada", "k"))
		_, err := ops.Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		world.Settle(2 * time.Minute)
		require.Equal(w, "ada", only(w, ops).ID)
	})
}

// What has succeeded meanwhile, under its key, does not run again.
func TestRedriveOfACommandThatHasSucceeded(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, ops := w.BusOn(tr, bus.Config{}), w.Bus(bus.Config{Service: "ops"})
		c := creates(w, b)
		_, err := bus.Execute(w.Context(), ops, world.CreateUser{Name: "ada"}, bus.WithIdempotencyKey("k"))
		require.NoError(w, err)
		for _, from := range []*bus.Bus{b, ops} {
			add(w, tr, commandLetter(w, "ada", "k"))
			_, err := from.DeadLetters().Redrive(w.Context(), "ada")
			require.NoError(w, err)
			w.DeadLetters(tr, 0)
		}
		add(w, tr, commandLetter(w, "bob", "k"))
		_, err = ops.DeadLetters().Redrive(w.Context(), "bob")
		require.ErrorIs(w, err, bus.ErrIdempotencyConflict)
		require.Len(w, w.DeadLetters(tr, 1), 1)
		require.Equal(w, []string{"ada"}, c.seen.All())
	})
}

// What succeeded under its key before, though its caller never heard, does not run
// again; what failed does, and another body under the key is refused.
func TestRedriveOfACommandUnderItsKey(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		c := creates(w, b)
		for i, dl := range []*bus.DeadLetters{b.DeadLetters(), w.Bus(bus.Config{Service: "ops"}).DeadLetters()} {
			key := fmt.Sprint("key-", i)
			c.seen.Reset()
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"}, bus.WithIdempotencyKey(key))
			require.NoError(w, err)
			add(w, tr, commandLetter(w, "ada", key))
			_, err = dl.Redrive(w.Context(), "ada", bus.WithEdit(func(c world.CreateUser) (world.CreateUser, error) { c.Name = "bob"; return c, nil }))
			require.ErrorIs(w, err, bus.ErrIdempotencyConflict)
			require.Equal(w, "ada", only(w, dl).ID)
			res, err := dl.Redrive(w.Context(), "ada")
			require.NoError(w, err)
			require.True(w, res.Repeated)
			w.DeadLetters(tr, 0)
			require.Equal(w, []string{"ada"}, c.seen.All())

			c.set(world.ErrOops)
			failing := key + "-failing"
			_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "cleo"}, bus.WithIdempotencyKey(failing))
			require.Error(w, err)
			c.set(nil)
			add(w, tr, commandLetter(w, "cleo", failing))
			res, err = dl.Redrive(w.Context(), "cleo")
			require.NoError(w, err)
			require.False(w, res.Repeated)
			require.Equal(w, []string{"ada", "cleo", "cleo"}, c.seen.All())
		}
	})
}

// From the failure to the success: the caller is told of the dead letter, and so is
// whoever redrives it.
func TestFailedCommandIsRedriven(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		told := told(w, w.Bus(bus.Config{Service: "alarms"}))
		tr := w.Open()
		b, ops := w.BusOn(tr, bus.Config{CommandRetry: &resilience.Retry{MaxRetries: 2, Initial: time.Second}}), w.Bus(bus.Config{Service: "ops"})
		c := creates(w, b)
		for i, caller := range []*bus.Bus{b, ops} {
			c.seen.Reset()
			c.set(world.ErrOops)
			_, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "ada"}, bus.WithIdempotencyKey(fmt.Sprint("k", i)), bus.WithID(fmt.Sprint("cmd-", i)))
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Equal(w, 3, e.Attempts)
			d := only(w, ops.DeadLetters())
			require.Equal(w, d.ID, e.DeadLetter)
			require.Equal(w, d.ID, told.Wait(w, 2*i+1)[2*i].ID)

			_, err = caller.DeadLetters().Redrive(w.Context(), d.ID)
			require.ErrorAs(w, err, &e)
			require.Equal(w, 3, e.Attempts, "its policy is that of any command")
			again := only(w, ops.DeadLetters())
			require.Equal(w, again.ID, e.DeadLetter)
			require.Equal(w, []any{1, fmt.Sprint("cmd-", i)}, []any{again.Generation, again.MessageID})
			require.Equal(w, again.ID, told.Wait(w, 2*i+2)[2*i+1].ID)

			c.set(nil)
			res, err := caller.DeadLetters().Redrive(w.Context(), again.ID)
			require.NoError(w, err)
			require.False(w, res.Repeated)
			require.Len(w, c.seen.All(), 7)
			w.DeadLetters(tr, 0)
			_, err = bus.Execute(w.Context(), caller, world.CreateUser{Name: "ada"}, bus.WithIdempotencyKey(fmt.Sprint("k", i)))
			require.NoError(w, err, "its caller may have the result now")
			require.Len(w, c.seen.All(), 7)
		}
		world.Settle(time.Minute)
		require.Len(w, told.All(), 4)
	})
}
