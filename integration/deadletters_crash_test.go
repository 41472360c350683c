package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// mark returns the mark of a redrive, "" if there is none.
func (w *world) mark(tr transport.Transport, id string) string {
	w.Helper()
	e, err := tr.Store().Get(w.Context(), "redrive."+id)
	if err != nil {
		require.ErrorIs(w, err, transport.ErrNotFound)
		return ""
	}
	return string(e.Value)
}

// dying makes a process die after an operation, or before it.
func dying(tr *faulty, op string, after bool) {
	die := func(_ context.Context, o, _ string) error {
		if o != op {
			return nil
		}
		tr.kill()
		return transport.ErrUnavailable
	}
	if after {
		tr.setAfter(die)
	} else {
		tr.set(die)
	}
}

// Whenever a redrive dies and whenever it is repeated, the handler has the event
// once.
func TestRedriveThatDiesIsRepeated(t *testing.T) {
	for _, c := range []struct {
		op    string
		after bool
	}{
		{"create", false}, {"create", true}, {"publish", false}, {"publish", true}, {"unbury", false}, {"unbury", true}, {"update", false},
	} {
		for _, wait := range []time.Duration{time.Second, 3 * time.Minute} { // within the dedup window, and past it
			for _, away := range []bool{false, true} { // whether the group is
				t.Run(fmt.Sprintf("%s after %v, repeated in %v, group away %v", c.op, c.after, wait, away), func(t *testing.T) {
					everywhere(t, func(w *world) {
						inner := w.open()
						ops := w.busOn(inner, bus.Config{Service: "ops"})
						w.add(inner, w.letter("d"))
						b := w.bus(bus.Config{})
						f := newUnsteady()
						f.ok.Store(true)
						if !away {
							w.listen(b, f)
						}

						dead := newFaulty(w.open())
						first := w.busOn(dead, bus.Config{Service: "ops", PublishTimeout: time.Second})
						dying(dead, c.op, c.after)
						_, err := first.DeadLetters().Redrive(w.Context(), "d")
						if c.op != "update" && !(c.op == "unbury" && c.after) {
							require.Error(w, err)
						}
						settle(wait)

						_, err = ops.DeadLetters().Redrive(w.Context(), "d")
						if err != nil {
							require.ErrorIs(w, err, bus.ErrNoDeadLetter, "it was done")
							require.Contains(w, []string{"unbury", "update"}, c.op)
						}
						w.deadLetters(inner, 0)
						if away && w.inProcess {
							settle(2 * time.Hour) // a mark that is kept for an hour has gone
						}
						settle(time.Minute)
						if away {
							w.listen(b, f)
						}
						settle(3 * time.Minute)
						require.Len(w, f.seen.all(), 1)
					})
				})
			}
		}
	}
}

// The process lives, and one thing fails.
func TestRedriveThatFailsIsRepeated(t *testing.T) {
	for op, code := range map[string]bus.Code{"create": bus.CodeUnavailable, "publish": bus.CodeUnavailable, "unbury": bus.CodeUnavailable, "dead get": bus.CodeUnavailable} {
		t.Run(op, func(t *testing.T) {
			everywhere(t, func(w *world) {
				tr := newFaulty(w.open())
				b := w.busOn(tr, bus.Config{})
				f := newUnsteady()
				f.ok.Store(true)
				w.listen(b, f)
				w.add(tr.Transport, w.letter("d"))
				tr.set(failing(op, transport.ErrUnavailable))
				for range 3 {
					res, err := b.DeadLetters().Redrive(w.Context(), "d")
					require.Equal(w, code, bus.CodeOf(err))
					require.Equal(w, err, res.Err)
					require.NotErrorIs(w, err, bus.ErrNotRedrivable)
					settle(10 * time.Minute)
				}
				report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
				require.Equal(w, code, bus.CodeOf(err), "it does not go on")
				require.Zero(w, report.Redriven)
				stored := 0
				if op == "unbury" {
					stored = 1
				}
				require.Len(w, f.seen.all(), stored)
				w.deadLetters(tr.Transport, 1)

				tr.set(nil)
				res, err := b.DeadLetters().Redrive(w.Context(), "d")
				require.NoError(w, err)
				require.Equal(w, op == "unbury", res.Repeated)
				settle(time.Minute)
				require.Len(w, f.seen.all(), 1)
				w.deadLetters(tr.Transport, 0)
			})
		})
	}
}

// What the transport refuses for good leaves no mark behind.
func TestRedriveThatIsRefusedLeavesNoMark(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		w.add(tr.Transport, w.letter("d"), w.letter("e"))
		tr.set(times(1, failing("publish", transport.ErrInvalid)))
		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err, "one keeps no other back")
		require.Equal(w, []int{1, 0, 1}, []int{report.Redriven, report.Refused, report.Failed})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(report.Results[0].Err))
		require.Empty(w, w.mark(tr.Transport, "d"))
		tr.set(times(1, failing("publish", transport.ErrUnknown)))
		_, err = b.DeadLetters().Redrive(w.Context(), "d")
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(err))
		require.NotEmpty(w, w.mark(tr.Transport, "d"))
	})
}

// The mark of what is done goes soon, and that of a doubt stays.
func TestMarksAreKeptAsLongAsNeeded(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		f := newUnsteady()
		f.ok.Store(true)
		w.listen(b, f)
		w.addNumbered(tr.Transport, 0, 3)
		_, err := b.DeadLetters().Redrive(w.Context(), "0")
		require.NoError(w, err)
		tr.set(failing("publish", transport.ErrUnknown))
		_, err = b.DeadLetters().Redrive(w.Context(), "1")
		require.Error(w, err)
		tr.set(nil)
		_, err = b.DeadLetters().Redrive(w.Context(), "1")
		require.NoError(w, err)
		settle(30 * time.Minute)
		require.Contains(w, w.mark(tr, "0"), `"removed":true`)
		settle(31 * time.Minute)
		require.Empty(w, w.mark(tr, "0"))
		if !w.inProcess {
			require.Contains(w, w.mark(tr, "1"), `"doubt":true`)
			return // a server takes long over months, also of fake time
		}
		settle(30 * 24 * time.Hour)
		require.Contains(w, w.mark(tr, "1"), `"doubt":true`)
		settle(61 * 24 * time.Hour)
		require.Empty(w, w.mark(tr, "1"))
	})
}

// An event that is dead-lettered and not settled fails again: its record, stored a
// second time after it was redriven, is not redriven a second time.
func TestRecordThatIsStoredAgainAfterItsRedrive(t *testing.T) {
	everywhere(t, func(w *world) {
		inner := w.open()
		ops := w.busOn(inner, bus.Config{Service: "ops"})
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		f := newUnsteady()
		w.listen(b, f)
		tr.set(times(1, failing("term", transport.ErrUnavailable)))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Second)
		_, err := ops.DeadLetters().Redrive(w.Context(), w.only(ops.DeadLetters()).ID)
		require.NoError(w, err)
		settle(time.Minute) // AckWait is over: the event, and the copy, have failed
		page, err := ops.DeadLetters().List(w.Context(), bus.DeadLetterQuery{})
		require.NoError(w, err)
		require.Len(w, page.Letters, 2)
		f.ok.Store(true)
		f.seen.reset()
		report, err := ops.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, 2, report.Redriven)
		repeated := 0
		for _, r := range report.Results {
			if r.Repeated {
				require.Equal(w, 1, r.Generation)
				repeated++
			}
		}
		require.Equal(w, 1, repeated)
		settle(time.Hour)
		require.Len(w, f.seen.all(), 1)
		require.Equal(w, 2, f.seen.all()[0].Generation)
	})
}

// Without the store nobody knows of a second copy, and the event is handled.
func TestRedrivenEventWhenTheStoreDoesNotAnswer(t *testing.T) {
	everywhere(t, func(w *world) {
		inner := w.open()
		ops := w.busOn(inner, bus.Config{Service: "ops"})
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		f := newUnsteady()
		f.ok.Store(true)
		w.listen(b, f)
		w.add(inner, w.letter("d"))
		tr.set(failingStore("redrive.", transport.ErrUnavailable))
		_, err := ops.DeadLetters().Redrive(w.Context(), "d")
		require.NoError(w, err)
		settle(time.Minute)
		require.Len(w, f.seen.all(), 1)
	})
}

// The retry copies of two generations are two events to the transport.
func TestRedriveWithinTheDedupWindow(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		runs := newRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
			m, _ := bus.MetaFrom(ctx)
			runs.add(fmt.Sprintf("%d/%d", m.Generation, m.Attempt))
			if m.Attempt == 1 {
				return bus.RetryAfter(31*time.Second, errOops)
			}
			return bus.Permanent(errOops)
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		for range 2 {
			settle(35 * time.Second)
			_, err = b.DeadLetters().Redrive(w.Context(), w.only(b.DeadLetters()).ID)
			require.NoError(w, err)
		}
		settle(35 * time.Second)
		require.Equal(w, strings.Fields("0/1 0/2 1/1 1/2 2/1 2/2"), runs.all())
		require.Equal(w, 2, w.only(b.DeadLetters()).Generation)
	})
}

// A redriven event whose process dies is handled by another one, and so is a batch
// handler's.
func TestRedrivenEventOutlivesItsProcess(t *testing.T) {
	for name, subscribe := range map[string]func(w *world, b *bus.Bus, f func(context.Context) error){
		"one by one": func(w *world, b *bus.Bus, f func(context.Context) error) {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error { return f(ctx) })
			require.NoError(w, err)
		},
		"in batches": func(w *world, b *bus.Bus, f func(context.Context) error) {
			_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, _ []userCreated) error { return f(ctx) })
			require.NoError(w, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(w *world) {
				inner := w.open()
				ops := w.busOn(inner, bus.Config{Service: "ops"})
				tr := newFaulty(w.open())
				dies := w.busOn(tr, bus.Config{})
				started := newRecord[int]()
				subscribe(w, dies, func(ctx context.Context) error { started.add(1); <-ctx.Done(); return ctx.Err() })
				w.add(inner, w.letter("d"))
				_, err := ops.DeadLetters().Redrive(w.Context(), "d")
				require.NoError(w, err)
				started.wait(w, 1)
				tr.kill()
				ran := newRecord[int]()
				subscribe(w, w.bus(bus.Config{}), func(context.Context) error { ran.add(1); return nil })
				settle(10 * time.Minute)
				require.Len(w, ran.all(), 1)
			})
		})
	}
}
