package integration_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// commandLetter is the record of a command that failed; key is its idempotency key.
func (w *world) commandLetter(id, key string) *transport.DeadLetter {
	d := w.letter(id)
	d.Kind, d.Group, d.Handler, d.StreamSequence = "command", "", "svc", 0
	d.Message.To.Name, d.Message.ID, d.Message.SentAt = "user.create", "cmd-"+id, time.Time{}
	if key != "" {
		d.Message.Header.Set("Jitney-Idempotency-Key", key)
	}
	if w.inProcess {
		d.Message.Value = createUser{Name: id}
	} else {
		d.Message.Body = fmt.Appendf(nil, `{"Name":%q}`, id)
	}
	return d
}

// creator handles createUser as a test says, and remembers what it saw.
type creator struct {
	seen  *record[string]
	metas *record[bus.Meta]
	fail  atomic.Pointer[error]
}

func (c *creator) set(err error) { c.fail.Store(&err) }

func (w *world) creates(s bus.Scope) *creator {
	w.Helper()
	c := &creator{seen: newRecord[string](), metas: newRecord[bus.Meta]()}
	require.NoError(w, bus.Handle(w.Context(), s, func(ctx context.Context, cmd createUser) (userID, error) {
		m, _ := bus.MetaFrom(ctx)
		c.metas.add(m)
		c.seen.add(cmd.Name)
		if err := c.fail.Load(); err != nil && *err != nil {
			return "", *err
		}
		return userID(cmd.Name), nil
	}))
	return c
}

func TestRedriveOfACommand(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b, ops := w.busOn(tr, bus.Config{}), w.bus(bus.Config{Service: "ops"})
		c := w.creates(b)
		for i, from := range []*bus.Bus{b, ops} {
			id := fmt.Sprint("ada", i)
			w.add(tr, w.commandLetter(id, "key-"+id))
			dry, err := from.DeadLetters().Redrive(w.Context(), id, bus.WithDryRun())
			require.NoError(w, err)
			require.True(w, dry.DryRun)
			require.Len(w, c.seen.all(), i)
			res, err := from.DeadLetters().Redrive(w.Context(), id)
			require.NoError(w, err)
			require.Equal(w, bus.RedriveResult{ID: id, MessageID: "cmd-" + id, Name: "user.create", Handler: "svc", Generation: 1}, res)
			require.Len(w, c.seen.all(), i+1, "it has run when Redrive returns")
			m := c.metas.all()[i]
			require.Equal(w, []any{bus.KindCommand, "cmd-" + id, "evt-" + id, 1, 1}, []any{m.Kind, m.ID, m.CorrelationID, m.Attempt, m.Generation})
			require.Equal(w, transport.Header{"Tenant": {"t1"}}, m.Headers())
			w.deadLetters(tr, 0)
			_, err = from.DeadLetters().Redrive(w.Context(), id)
			require.ErrorIs(w, err, bus.ErrNoDeadLetter)
		}
	})
}

// A command that may have taken effect is executed again only if that does no harm, or
// is meant.
func TestRedriveOfACommandWithoutAKey(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		c := w.creates(b)
		w.add(tr, w.commandLetter("ada", ""), w.commandLetter("bob", "k"))
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
		require.Equal(w, []string{"bob"}, c.seen.all())
		_, err = b.DeadLetters().Redrive(w.Context(), "ada", bus.WithForce())
		require.NoError(w, err)
		require.Equal(w, []string{"bob", "ada"}, c.seen.all())
		w.deadLetters(tr, 0)
	})
}

// One that fails again is a dead letter again, with its history, whoever handles it.
func TestRedrivenCommandFailsAgain(t *testing.T) {
	everywhere(t, func(w *world) {
		errs := map[string]error{"user.exists": errUserExists}
		told := w.told(w.bus(bus.Config{Service: "alarms"}))
		tr := w.open()
		b := w.busOn(tr, bus.Config{Errors: errs})
		c := w.creates(b)
		w.add(tr, w.commandLetter("ada", "k"))
		id := "ada"
		for i, from := range []*bus.Bus{b, w.bus(bus.Config{Service: "ops", Errors: errs})} {
			c.set(fmt.Errorf("try %d: %w", i+1, errUserExists))
			res, err := from.DeadLetters().Redrive(w.Context(), id)
			require.ErrorIs(w, err, errUserExists)
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Equal(w, []any{"user.exists", 1, "cmd-ada"}, []any{e.Wire, e.Attempts, e.ID})
			require.Equal(w, err, res.Err)
			d := w.only(b.DeadLetters())
			require.ErrorContains(w, err, d.ID)
			require.NotEqual(w, id, d.ID)
			require.Equal(w, []any{i + 1, i + 1, "cmd-ada", bus.KindCommand, "svc", 1, bus.CodeFailed},
				[]any{d.Generation, len(d.History), d.MessageID, d.Kind, d.Handler, d.Attempts, d.Code})
			require.Contains(w, d.Err, fmt.Sprintf("try %d", i+1))
			require.Equal(w, "oops", d.History[0].Err)
			require.Equal(w, bus.Header{"Tenant": {"t1"}}, d.Header())
			cmd, err := bus.DeadLetterValue[createUser](d)
			require.NoError(w, err)
			require.Equal(w, "ada", cmd.Name)
			e2 := told.wait(w, i+1)[i]
			require.Equal(w, []any{d.ID, bus.KindCommand, i + 1, "cmd-ada"}, []any{e2.ID, e2.Kind, e2.Generation, e2.MessageID})
			id = d.ID
		}
		c.set(nil)
		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, 1, report.Redriven)
		require.Equal(w, []int{1, 2, 3}, []int{c.metas.all()[0].Generation, c.metas.all()[1].Generation, c.metas.all()[2].Generation})
		w.deadLetters(tr, 0)
	})
}

// A panic is a failure as well.
func TestRedrivenCommandPanics(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, createUser) (userID, error) { panic("boom") }))
		w.add(tr, w.commandLetter("ada", "k"))
		_, err := b.DeadLetters().Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodePanic, bus.CodeOf(err))
		require.Equal(w, bus.CodePanic, w.only(b.DeadLetters()).Code)
	})
}

// Where nothing ran, or nobody knows, the dead letter stays as it is, and others go on.
func TestRedriveOfACommandThatIsNotTaken(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b, ops := w.busOn(tr, bus.Config{}), w.bus(bus.Config{Service: "ops", ExecuteTimeout: 5 * time.Second}).DeadLetters()
		w.add(tr, w.commandLetter("ada", "k"), w.letter("event"))
		report, err := ops.RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, []int{1, 0, 1}, []int{report.Redriven, report.Refused, report.Failed})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(report.Results[0].Err))
		require.Equal(w, "ada", w.only(ops).ID)

		hang := make(chan struct{})
		runs := newRecord[int]()
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, _ createUser) (userID, error) {
			runs.add(1)
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
		require.Equal(w, "ada", w.only(ops).ID)
		close(hang)
		settle(time.Second)
		_, err = ops.Redrive(w.Context(), "ada")
		require.NoError(w, err)
		w.deadLetters(tr, 0)
	})
}

// It goes to the session's handler, and only while the session is there.
func TestRedriveOfACommandOfASession(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b, ops := w.busOn(tr, bus.Config{}), w.bus(bus.Config{Service: "ops"}).DeadLetters()
		bare := w.creates(b)
		s, err := w.bus(bus.Config{}).Session(w.Context(), "job 7")
		require.NoError(w, err)
		own := w.creates(s)
		add := func(id string) {
			d := w.commandLetter(id, "k-"+id)
			d.Message.Session, d.Message.To.Session = "job 7", "job 7"
			w.add(tr, d)
		}
		add("ada")
		add("bob")
		_, err = ops.Redrive(w.Context(), "ada")
		require.NoError(w, err)
		require.Equal(w, []string{"ada"}, own.seen.all())
		require.Equal(w, "job 7", own.metas.all()[0].Session)
		require.NoError(w, s.Close(w.Context()))
		settle(10 * time.Second) // what a redriver knows of sessions is not older
		_, err = ops.Redrive(w.Context(), "bob")
		require.ErrorIs(w, err, bus.ErrNotRedrivable)
		require.ErrorIs(w, err, bus.ErrSessionClosed)
		require.Empty(w, bare.seen.all())
		_, err = ops.Redrive(w.Context(), "bob", bus.WithForce())
		require.NoError(w, err)
		require.Equal(w, []string{"bob"}, bare.seen.all())
		w.deadLetters(tr, 0)
	})
}

// Whatever the transport does not do, there is a dead letter until the command has
// succeeded.
func TestRedriveOfACommandWhenTheDeadLettersFail(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		ops := w.busOn(tr, bus.Config{Service: "ops", PublishTimeout: time.Second}).DeadLetters()
		c := w.creates(w.bus(bus.Config{}))
		c.set(errOops)
		w.add(tr.Transport, w.commandLetter("ada", "k"))
		tr.set(failing("bury", transport.ErrBacklog))
		_, err := ops.Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		require.ErrorContains(w, err, "oops")
		require.ErrorIs(w, err, transport.ErrBacklog)
		require.Equal(w, "ada", w.only(ops).ID, "it stays")

		tr.set(failing("unbury", transport.ErrUnavailable))
		_, err = ops.Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		w.deadLetters(tr.Transport, 2)
		tr.set(nil)
		_, err = ops.Redrive(w.Context(), "ada")
		require.Error(w, err)
		d := w.only(ops)
		require.Equal(w, 1, d.Generation, "the same one, not one more")

		c.set(nil)
		tr.set(times(1, failing("unbury", transport.ErrUnavailable)))
		_, err = ops.Redrive(w.Context(), d.ID)
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err))
		require.ErrorContains(w, err, "has succeeded")
		w.only(ops)
		_, err = ops.Redrive(w.Context(), d.ID)
		require.NoError(w, err)
		w.deadLetters(tr.Transport, 0)
	})
}

func TestRedriveOfAnEditedCommand(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b, ops := w.busOn(tr, bus.Config{}), w.bus(bus.Config{Service: "ops"}).DeadLetters()
		c := w.creates(b)
		rename := func(name string) bus.RedriveOption {
			return bus.WithEdit(func(c createUser) (createUser, error) { c.Name = name; return c, nil })
		}
		w.add(tr, w.commandLetter("ada", "k1"), w.commandLetter("bob", "k2"))
		_, err := ops.Redrive(w.Context(), "ada", rename(""))
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(w, err, "name is empty")
		require.Empty(w, c.seen.all())
		c.set(errOops)
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
				w.add(tr, w.commandLetter("bob", "k3"))
			}
			_, err = from.Redrive(w.Context(), "bob", bus.WithBodyEdit(func(ct string, body []byte) (string, []byte, error) {
				require.Equal(w, `{"Name":"bob"}`, string(body))
				return ct, []byte(`{"Name":"robert"}`), nil
			}))
			require.NoError(w, err)
		}
		require.Equal(w, []string{"ada.lovelace", "ada.lovelace", "robert", "robert"}, c.seen.all())
		w.deadLetters(tr, 0)
	})
}

// The process that handles it dies: nobody knows, and the dead letter stays.
func TestRedriveOfACommandWhoseHandlerDies(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		ops := w.busOn(tr, bus.Config{Service: "ops"}).DeadLetters()
		dying := newFaulty(w.open())
		require.NoError(w, bus.Handle(w.Context(), w.busOn(dying, bus.Config{}), func(ctx context.Context, _ createUser) (userID, error) {
			dying.kill()
			<-ctx.Done()
			time.Sleep(time.Minute)
			return "", errors.New("nobody hears this")
		}))
		w.add(tr, w.commandLetter("ada", "k"))
		_, err := ops.Redrive(w.Context(), "ada")
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		settle(2 * time.Minute)
		require.Equal(w, "ada", w.only(ops).ID)
	})
}

// What has succeeded meanwhile, under its key, does not run again.
func TestRedriveOfACommandThatHasSucceeded(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b, ops := w.busOn(tr, bus.Config{}), w.bus(bus.Config{Service: "ops"})
		c := w.creates(b)
		_, err := bus.Execute(w.Context(), ops, createUser{Name: "ada"}, bus.WithIdempotencyKey("k"))
		require.NoError(w, err)
		for _, from := range []*bus.Bus{b, ops} {
			w.add(tr, w.commandLetter("ada", "k"))
			_, err := from.DeadLetters().Redrive(w.Context(), "ada")
			require.NoError(w, err)
			w.deadLetters(tr, 0)
		}
		w.add(tr, w.commandLetter("bob", "k"))
		_, err = ops.DeadLetters().Redrive(w.Context(), "bob")
		require.ErrorIs(w, err, bus.ErrIdempotencyConflict)
		require.Len(w, w.deadLetters(tr, 1), 1)
		require.Equal(w, []string{"ada"}, c.seen.all())
	})
}

// What succeeded under its key before, though its caller never heard, does not run
// again; what failed does, and another body under the key is refused.
func TestRedriveOfACommandUnderItsKey(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		c := w.creates(b)
		for i, dl := range []*bus.DeadLetters{b.DeadLetters(), w.bus(bus.Config{Service: "ops"}).DeadLetters()} {
			key := fmt.Sprint("key-", i)
			c.seen.reset()
			_, err := bus.Execute(w.Context(), b, createUser{Name: "ada"}, bus.WithIdempotencyKey(key))
			require.NoError(w, err)
			w.add(tr, w.commandLetter("ada", key))
			_, err = dl.Redrive(w.Context(), "ada", bus.WithEdit(func(c createUser) (createUser, error) { c.Name = "bob"; return c, nil }))
			require.ErrorIs(w, err, bus.ErrIdempotencyConflict)
			require.Equal(w, "ada", w.only(dl).ID)
			res, err := dl.Redrive(w.Context(), "ada")
			require.NoError(w, err)
			require.True(w, res.Repeated)
			w.deadLetters(tr, 0)
			require.Equal(w, []string{"ada"}, c.seen.all())

			c.set(errOops)
			failing := key + "-failing"
			_, err = bus.Execute(w.Context(), b, createUser{Name: "cleo"}, bus.WithIdempotencyKey(failing))
			require.Error(w, err)
			c.set(nil)
			w.add(tr, w.commandLetter("cleo", failing))
			res, err = dl.Redrive(w.Context(), "cleo")
			require.NoError(w, err)
			require.False(w, res.Repeated)
			require.Equal(w, []string{"ada", "cleo", "cleo"}, c.seen.all())
		}
	})
}

// From the failure to the success: the caller is told of the dead letter, and so is
// whoever redrives it.
func TestFailedCommandIsRedriven(t *testing.T) {
	everywhere(t, func(w *world) {
		told := w.told(w.bus(bus.Config{Service: "alarms"}))
		tr := w.open()
		b, ops := w.busOn(tr, bus.Config{CommandRetry: &resilience.Retry{MaxRetries: 2, Initial: time.Second}}), w.bus(bus.Config{Service: "ops"})
		c := w.creates(b)
		for i, caller := range []*bus.Bus{b, ops} {
			c.seen.reset()
			c.set(errOops)
			_, err := bus.Execute(w.Context(), caller, createUser{Name: "ada"}, bus.WithIdempotencyKey(fmt.Sprint("k", i)), bus.WithID(fmt.Sprint("cmd-", i)))
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Equal(w, 3, e.Attempts)
			d := w.only(ops.DeadLetters())
			require.Equal(w, d.ID, e.DeadLetter)
			require.Equal(w, d.ID, told.wait(w, 2*i+1)[2*i].ID)

			_, err = caller.DeadLetters().Redrive(w.Context(), d.ID)
			require.ErrorAs(w, err, &e)
			require.Equal(w, 3, e.Attempts, "its policy is that of any command")
			again := w.only(ops.DeadLetters())
			require.Equal(w, again.ID, e.DeadLetter)
			require.Equal(w, []any{1, fmt.Sprint("cmd-", i)}, []any{again.Generation, again.MessageID})
			require.Equal(w, again.ID, told.wait(w, 2*i+2)[2*i+1].ID)

			c.set(nil)
			res, err := caller.DeadLetters().Redrive(w.Context(), again.ID)
			require.NoError(w, err)
			require.False(w, res.Repeated)
			require.Len(w, c.seen.all(), 7)
			w.deadLetters(tr, 0)
			_, err = bus.Execute(w.Context(), caller, createUser{Name: "ada"}, bus.WithIdempotencyKey(fmt.Sprint("k", i)))
			require.NoError(w, err, "its caller may have the result now")
			require.Len(w, c.seen.all(), 7)
		}
		settle(time.Minute)
		require.Len(w, told.all(), 4)
	})
}
