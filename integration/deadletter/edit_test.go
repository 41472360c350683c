package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/codec/cbor"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// noted is an edit.
func noted(note string) bus.RedriveOption {
	return bus.WithEdit(func(e world.UserCreated) (world.UserCreated, error) { e.Note = note; return e, nil })
}

func TestRedriveEdited(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, ops := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "ops"}).DeadLetters()
		type got struct {
			world.UserCreated
			bus.Meta
		}
		runs := world.NewRecord[got]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			runs.Add(got{e, m})
			if e.Note == "fine" {
				return nil
			}
			return bus.Permanent(world.ErrOops)
		}, bus.WithName("mail"))
		require.NoError(w, err)
		published := world.UserCreated{ID: "ada", Note: "broken"}
		require.NoError(w, bus.Publish(w.Context(), b, published, bus.WithID("e"), bus.WithHeader("Tenant", "t1"), bus.WithKey("k")))
		runs.Wait(w, 1)
		world.Settle(time.Second)
		d := only(w, ops)

		dry, err := ops.Redrive(w.Context(), d.ID, noted("better"), bus.WithDryRun())
		require.NoError(w, err)
		require.True(w, dry.Edited)
		world.Settle(time.Minute)
		require.Len(w, runs.All(), 1)

		res, err := ops.Redrive(w.Context(), d.ID, noted("better"))
		require.NoError(w, err)
		require.Equal(w, bus.RedriveResult{ID: d.ID, MessageID: "e", Name: "user.created", Group: "svc", Handler: "mail", Generation: 1, Edited: true}, res)
		second := runs.Wait(w, 2)[1]
		require.Equal(w, world.UserCreated{ID: "ada", Note: "better"}, second.UserCreated)
		require.Equal(w, []any{"e", "k", 1, 1}, []any{second.Meta.ID, second.Key, second.Attempt, second.Generation})
		require.Equal(w, bus.Header{"Tenant": {"t1"}}, second.Headers())

		// It fails again, edited, and once more, as it is.
		world.Settle(time.Second)
		d = only(w, ops)
		require.True(w, d.Edited)
		require.True(w, d.History[0].Edited)
		e, err := bus.DeadLetterValue[world.UserCreated](d)
		require.NoError(w, err)
		require.Equal(w, "better", e.Note)
		res, err = ops.Redrive(w.Context(), d.ID, noted("better"))
		require.NoError(w, err)
		require.False(w, res.Edited, "it was that before")
		runs.Wait(w, 3)
		world.Settle(time.Second)
		d = only(w, ops)
		require.True(w, d.Edited, "some time")
		require.Equal(w, []bool{true, false}, []bool{d.History[0].Edited, d.History[1].Edited})

		// Several edits, one after the other; and one with a pointer.
		_, err = ops.Redrive(w.Context(), d.ID, noted("fin"), bus.WithEdit(func(e *world.UserCreated) (*world.UserCreated, error) {
			e.Note += "e"
			return e, nil
		}))
		require.NoError(w, err)
		require.Equal(w, "fine", runs.Wait(w, 4)[3].Note)
		world.Settle(time.Hour)
		require.Len(w, runs.All(), 4)
		require.Equal(w, "broken", published.Note)
	})
}

// What was edited is all that changes: the dead letter stays as it was.
func TestEditLeavesTheDeadLetterAlone(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		add(w, tr.Transport, letter(w, "d"))
		edit := bus.WithEdit(func(e *world.UserCreated) (*world.UserCreated, error) { e.Note = "other"; return e, nil })
		_, err := dl.Redrive(w.Context(), "d", edit, bus.WithDryRun())
		require.NoError(w, err)
		tr.Set(world.Failing("publish", transport.ErrInvalid))
		_, err = dl.Redrive(w.Context(), "d", edit)
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		e, err := bus.DeadLetterValue[world.UserCreated](only(w, dl))
		require.NoError(w, err)
		require.Equal(w, world.UserCreated{ID: "d"}, e)
		require.Empty(w, mark(w, tr.Transport, "d"), "nothing was stored")
	})
}

func TestEditMendsWhatCannotBeDecoded(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if w.InProcess {
			return // values are not decoded
		}
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		ops := w.Bus(bus.Config{Service: "ops"}).DeadLetters() // knows no type
		seen := world.NewRecord[world.UserCreated]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { seen.Add(e); return nil })
		require.NoError(w, err)
		to := transport.Address{Name: "user.created"}
		require.NoError(w, tr.Publish(w.Context(), &transport.Message{To: to, ID: "cut", Body: []byte(`{"ID":"ada"`)},
			&transport.Message{To: to, ID: "foreign", ContentType: "application/x-unknown", Body: []byte(`{"ID":"bob"}`)}))
		w.DeadLetters(tr, 2)
		find := func(id string) string {
			page, err := ops.List(w.Context(), bus.DeadLetterQuery{DeadLetterFilter: bus.DeadLetterFilter{MessageID: id}})
			require.NoError(w, err)
			require.Len(w, page.Letters, 1)
			return page.Letters[0].ID
		}
		_, err = ops.Redrive(w.Context(), find("cut"), noted("x"))
		require.ErrorIs(w, err, bus.ErrNotRedrivable)
		require.ErrorContains(w, err, "WithBodyEdit")

		_, err = ops.Redrive(w.Context(), find("cut"), bus.WithBodyEdit(func(ct string, body []byte) (string, []byte, error) {
			require.Equal(w, "application/json", ct)
			return ct, append(body, '}'), nil
		}))
		require.NoError(w, err)
		require.Equal(w, []world.UserCreated{{ID: "ada"}}, seen.Wait(w, 1))
		_, err = ops.Redrive(w.Context(), find("foreign"), bus.WithBodyEdit(func(ct string, body []byte) (string, []byte, error) {
			require.Equal(w, "application/x-unknown", ct)
			return "application/json", body, nil
		}))
		require.NoError(w, err)
		require.Equal(w, []world.UserCreated{{ID: "ada"}, {ID: "bob"}}, seen.Wait(w, 2))
		world.Settle(time.Hour)
		w.DeadLetters(tr, 0)
	})
}

// Who knows the type checks what comes of an edit before it goes.
func TestEditIsChecked(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		f := newUnsteady()
		f.ok.Store(true)
		listen(w, b, f)
		add(w, tr, letter(w, "d"))
		deleted := letter(w, "deleted")
		deleted.Message.To.Name, deleted.Message.Value = "user.deleted", nil
		if w.InProcess {
			deleted.Message.Value = &world.UserDeleted{ID: "ada"}
		} else {
			deleted.Message.Body = []byte(`{"ID":"ada"}`)
		}
		add(w, tr, deleted)
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, *world.UserDeleted) error { return nil })
		require.NoError(w, err)
		body := func(ct, body string) bus.RedriveOption {
			return bus.WithBodyEdit(func(string, []byte) (string, []byte, error) { return ct, []byte(body), nil })
		}
		errEdit := errors.New("not this one")
		for name, c := range map[string]struct {
			id     string
			edit   bus.RedriveOption
			code   bus.Code
			is     error
			refuse bool
			text   string
		}{
			"does not validate":      {"deleted", bus.WithEdit(func(e *world.UserDeleted) (*world.UserDeleted, error) { e.ID = ""; return e, nil }), bus.CodeInvalid, nil, false, "invalid"},
			"body does not validate": {"deleted", body("application/json", `{"ID":""}`), bus.CodeInvalid, nil, false, "invalid"},
			"body cannot be decoded": {"d", body("application/json", `{"ID":`), bus.CodeInvalid, nil, false, "decode user.created"},
			"unknown codec":          {"d", body("application/x-unknown", `{}`), bus.CodeInvalid, nil, false, "application/x-unknown"},
			"bad content type":       {"d", body("a\nb", `{}`), bus.CodeInvalid, nil, false, "content type"},
			"nothing":                {"d", bus.WithBodyEdit(func(string, []byte) (string, []byte, error) { return "", nil, nil }), bus.CodeInvalid, nil, false, "nothing"},
			"nil":                    {"d", bus.WithEdit(func(*world.UserCreated) (*world.UserCreated, error) { return nil, nil }), bus.CodeInvalid, nil, false, "nil"},
			"another type":           {"deleted", noted("x"), bus.CodeInvalid, nil, true, "another type"},
			"error":                  {"d", bus.WithEdit(func(e world.UserCreated) (world.UserCreated, error) { return e, errEdit }), bus.CodeFailed, errEdit, false, "not this one"},
			"error of a transport": {"d", bus.WithEdit(func(e world.UserCreated) (world.UserCreated, error) {
				return e, &bus.Error{Code: bus.CodeUnavailable, Message: "asked a command", Op: "execute"}
			}), bus.CodeFailed, nil, false, "asked a command"},
			"panic":      {"d", bus.WithEdit(func(world.UserCreated) (world.UserCreated, error) { panic("oh") }), bus.CodePanic, nil, false, "oh"},
			"body panic": {"d", bus.WithBodyEdit(func(string, []byte) (string, []byte, error) { panic("oh") }), bus.CodePanic, nil, false, "oh"},
		} {
			for _, dry := range []bool{true, false} {
				opts := []bus.RedriveOption{c.edit}
				if dry {
					opts = append(opts, bus.WithDryRun())
				}
				res, err := b.DeadLetters().Redrive(w.Context(), c.id, opts...)
				require.Equal(w, c.code, bus.CodeOf(err), "%s: %v", name, err)
				require.ErrorContains(w, err, c.text, name)
				require.ErrorContains(w, err, c.id, name)
				require.Equal(w, c.refuse, errors.Is(err, bus.ErrNotRedrivable), name)
				require.Equal(w, err, res.Err, name)
				if c.is != nil {
					require.ErrorIs(w, err, c.is, name)
				}
			}
			require.Empty(w, mark(w, tr, c.id), name)
		}
		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{}, bus.WithEdit(func(e world.UserCreated) (world.UserCreated, error) {
			return e, &bus.Error{Code: bus.CodeUnavailable, Op: "execute"}
		}))
		require.NoError(w, err, "it goes on")
		require.Equal(w, []int{0, 1, 1}, []int{report.Redriven, report.Refused, report.Failed})
		for _, bad := range []bus.RedriveOption{bus.WithEdit[world.UserCreated](nil), bus.WithBodyEdit(nil)} {
			_, err := b.DeadLetters().Redrive(w.Context(), "d", bad)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		}
		world.Settle(time.Minute)
		require.Empty(w, f.seen.All())
		w.DeadLetters(tr, 2)
	})
}

func TestEditThatIsTooLarge(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if w.InProcess {
			return // values have no size
		}
		tr := world.NewFaulty(w.Open())
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		add(w, tr.Transport, letter(w, "d"))
		res, err := dl.Redrive(w.Context(), "d", noted(strings.Repeat("x", 2<<20)))
		require.Equal(w, bus.CodeTooLarge, bus.CodeOf(err))
		require.True(w, res.Edited)
		require.ErrorContains(w, err, "limit")
		require.Empty(w, mark(w, tr.Transport, "d"))
		_, err = dl.Redrive(w.Context(), "d", noted("smaller"))
		require.NoError(w, err, "the one that was too large is not in the way")
		w.DeadLetters(tr.Transport, 0)
	})
}

// Of two edits one wins, and the other one hears of it.
func TestEditsThatConflict(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		seen := world.NewRecord[string]()
		listen := func() {
			_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{}), func(_ context.Context, e world.UserCreated) error { seen.Add(e.Note); return nil })
			require.NoError(w, err)
		}
		interrupted := func(id string, f world.Fault, opts ...bus.RedriveOption) {
			add(w, tr.Transport, letter(w, id))
			tr.Set(world.Times(1, f))
			_, err := dl.Redrive(w.Context(), id, opts...)
			require.Error(w, err)
			tr.Set(nil)
		}
		// Perhaps stored: the same edit goes on, any other one is refused.
		lost := world.Failing("publish", transport.ErrUnknown)
		interrupted("perhaps", lost, noted("one"))
		for _, other := range [][]bus.RedriveOption{{noted("two")}, nil} {
			_, err := dl.Redrive(w.Context(), "perhaps", other...)
			require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
			require.ErrorContains(w, err, "WithForce")
		}
		_, err := dl.Redrive(w.Context(), "perhaps", noted("one"))
		require.NoError(w, err)
		// Surely stored: it can only be discarded, or taken as it is.
		interrupted("stored", world.Failing("unbury", transport.ErrUnavailable), noted("one"))
		_, err = dl.Redrive(w.Context(), "stored", noted("two"))
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		require.ErrorContains(w, err, "discard")
		res, err := dl.Redrive(w.Context(), "stored", noted("one"))
		require.NoError(w, err)
		require.True(w, res.Repeated)
		// Perhaps stored, and meant otherwise now.
		interrupted("forced", lost, noted("three"))
		_, err = dl.Redrive(w.Context(), "forced", noted("four"), bus.WithForce())
		require.NoError(w, err)
		listen()
		world.Settle(time.Hour)
		require.ElementsMatch(w, []string{"one", "one", "four"}, seen.All())
		w.DeadLetters(tr.Transport, 0)
	})
}

// An edited message stays in the codec that its handlers read, where that is known.
func TestEditKeepsTheCodec(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if w.InProcess {
			return
		}
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Codec: cbor.Codec})
		ops := w.Bus(bus.Config{Service: "ops", Codecs: []codec.Codec{cbor.Codec}}).DeadLetters()
		seen := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
			seen.Add(e.Note)
			return bus.Permanent(world.ErrOops)
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"}))
		w.DeadLetters(tr, 1)
		_, err = ops.Redrive(w.Context(), only(w, ops).ID, noted("edited"))
		require.NoError(w, err)
		require.Equal(w, []string{"", "edited"}, seen.Wait(w, 2))
		world.Settle(time.Second)
		require.Equal(w, cbor.Codec.ContentType(), only(w, ops).ContentType)
		// Where it is not known, it becomes the bus's own.
		unknowing := w.Bus(bus.Config{Service: "other"}).DeadLetters()
		_, err = unknowing.Redrive(w.Context(), only(w, ops).ID, bus.WithBodyEdit(func(string, []byte) (string, []byte, error) {
			return "", []byte(`{"Note":"by hand"}`), nil
		}))
		require.NoError(w, err)
		require.Equal(w, "by hand", seen.Wait(w, 3)[2])
		world.Settle(time.Second)
		require.Equal(w, "application/json", only(w, ops).ContentType)
	})
}

// Many at once, and some of them not.
func TestRedriveAllEdited(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		addNumbered(w, tr, 0, 40)
		seen := world.NewRecord[world.UserCreated]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { seen.Add(e); return nil })
		require.NoError(w, err)
		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{}, bus.WithEdit(func(e world.UserCreated) (world.UserCreated, error) {
			if len(e.ID) == 1 {
				return e, fmt.Errorf("%s: %w", e.ID, bus.ErrNotRedrivable)
			}
			if e.ID[0] == '1' {
				e.Note = "edited " + string(e.ID)
			}
			return e, nil
		}))
		require.NoError(w, err)
		require.Equal(w, []int{30, 10, 0}, []int{report.Redriven, report.Refused, report.Failed}, "an edit may refuse")
		edited := 0
		for _, e := range seen.Wait(w, 30) {
			if e.Note != "" {
				require.Equal(w, "edited "+string(e.ID), e.Note)
				edited++
			}
		}
		require.Equal(w, 10, edited)
		for _, r := range report.Results {
			require.Equal(w, strings.HasPrefix(r.MessageID, "evt-1") && len(r.MessageID) == 6, r.Edited, r.MessageID)
		}
		w.DeadLetters(tr, 10)
	})
}
