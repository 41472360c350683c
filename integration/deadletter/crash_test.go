package deadletter_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// mark returns the mark of a redrive, "" if there is none.
func mark(w *world.World, tr transport.Transport, id string) string {
	w.Helper()
	e, err := tr.Store().Get(w.Context(), "redrive."+id)
	if err != nil {
		require.ErrorIs(w, err, transport.ErrNotFound)
		return ""
	}
	return string(e.Value)
}

// dying makes a process die after an operation, or before it.
func dying(tr *world.Faulty, op string, after bool) {
	die := func(_ context.Context, o, _ string) error {
		if o != op {
			return nil
		}
		tr.Kill()
		return transport.ErrUnavailable
	}
	if after {
		tr.SetAfter(die)
	} else {
		tr.Set(die)
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
					world.Everywhere(t, func(w *world.World) {
						inner := w.Open()
						ops := w.BusOn(inner, bus.Config{Service: "ops"})
						add(w, inner, letter(w, "d"))
						b := w.Bus(bus.Config{})
						f := newUnsteady()
						f.ok.Store(true)
						if !away {
							listen(w, b, f)
						}

						dead := world.NewFaulty(w.Open())
						first := w.BusOn(dead, bus.Config{Service: "ops", PublishTimeout: time.Second})
						dying(dead, c.op, c.after)
						_, err := first.DeadLetters().Redrive(w.Context(), "d")
						if c.op != "update" && !(c.op == "unbury" && c.after) {
							require.Error(w, err)
						}
						world.Settle(wait)

						_, err = ops.DeadLetters().Redrive(w.Context(), "d")
						if err != nil {
							require.ErrorIs(w, err, bus.ErrNoDeadLetter, "it was done")
							require.Contains(w, []string{"unbury", "update"}, c.op)
						}
						w.DeadLetters(inner, 0)
						if away && w.InProcess {
							world.Settle(2 * time.Hour) // a mark that is kept for an hour has gone
						}
						world.Settle(time.Minute)
						if away {
							listen(w, b, f)
						}
						world.Settle(3 * time.Minute)
						require.Len(w, f.seen.All(), 1)
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
			world.Everywhere(t, func(w *world.World) {
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, bus.Config{})
				f := newUnsteady()
				f.ok.Store(true)
				listen(w, b, f)
				add(w, tr.Transport, letter(w, "d"))
				tr.Set(world.Failing(op, transport.ErrUnavailable))
				for range 3 {
					res, err := b.DeadLetters().Redrive(w.Context(), "d")
					require.Equal(w, code, bus.CodeOf(err))
					require.Equal(w, err, res.Err)
					require.NotErrorIs(w, err, bus.ErrNotRedrivable)
					world.Settle(10 * time.Minute)
				}
				report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
				require.Equal(w, code, bus.CodeOf(err), "it does not go on")
				require.Zero(w, report.Redriven)
				stored := 0
				if op == "unbury" {
					stored = 1
				}
				require.Len(w, f.seen.All(), stored)
				w.DeadLetters(tr.Transport, 1)

				tr.Set(nil)
				res, err := b.DeadLetters().Redrive(w.Context(), "d")
				require.NoError(w, err)
				require.Equal(w, op == "unbury", res.Repeated)
				world.Settle(time.Minute)
				require.Len(w, f.seen.All(), 1)
				w.DeadLetters(tr.Transport, 0)
			})
		})
	}
}

// What the transport refuses for good leaves no mark behind.
func TestRedriveThatIsRefusedLeavesNoMark(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		add(w, tr.Transport, letter(w, "d"), letter(w, "e"))
		tr.Set(world.Times(1, world.Failing("publish", transport.ErrInvalid)))
		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err, "one keeps no other back")
		require.Equal(w, []int{1, 0, 1}, []int{report.Redriven, report.Refused, report.Failed})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(report.Results[0].Err))
		require.Empty(w, mark(w, tr.Transport, "d"))
		tr.Set(world.Times(1, world.Failing("publish", transport.ErrUnknown)))
		_, err = b.DeadLetters().Redrive(w.Context(), "d")
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(err))
		require.NotEmpty(w, mark(w, tr.Transport, "d"))
	})
}

// The mark of what is done goes soon, and that of a doubt stays.
func TestMarksAreKeptAsLongAsNeeded(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		f := newUnsteady()
		f.ok.Store(true)
		listen(w, b, f)
		addNumbered(w, tr.Transport, 0, 3)
		_, err := b.DeadLetters().Redrive(w.Context(), "0")
		require.NoError(w, err)
		tr.Set(world.Failing("publish", transport.ErrUnknown))
		_, err = b.DeadLetters().Redrive(w.Context(), "1")
		require.Error(w, err)
		tr.Set(nil)
		_, err = b.DeadLetters().Redrive(w.Context(), "1")
		require.NoError(w, err)
		world.Settle(30 * time.Minute)
		require.Contains(w, mark(w, tr, "0"), `"removed":true`)
		world.Settle(31 * time.Minute)
		require.Empty(w, mark(w, tr, "0"))
		if !w.InProcess {
			require.Contains(w, mark(w, tr, "1"), `"doubt":true`)
			return // a server takes long over months, also of fake time
		}
		require.NoError(w, b.Close(w.Context())) // months are cheap without it
		world.Settle(30 * 24 * time.Hour)
		require.Contains(w, mark(w, tr, "1"), `"doubt":true`)
		world.Settle(61 * 24 * time.Hour)
		require.Empty(w, mark(w, tr, "1"))
	})
}

// An event that is dead-lettered and not settled fails again: its record, stored a
// second time after it was redriven, is not redriven a second time.
func TestRecordThatIsStoredAgainAfterItsRedrive(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		inner := w.Open()
		ops := w.BusOn(inner, bus.Config{Service: "ops"})
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		f := newUnsteady()
		listen(w, b, f)
		tr.Set(world.Times(1, world.Failing("term", transport.ErrUnavailable)))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Second)
		_, err := ops.DeadLetters().Redrive(w.Context(), only(w, ops.DeadLetters()).ID)
		require.NoError(w, err)
		world.Settle(time.Minute) // AckWait is over: the event, and the copy, have failed
		page, err := ops.DeadLetters().List(w.Context(), bus.DeadLetterQuery{})
		require.NoError(w, err)
		require.Len(w, page.Letters, 2)
		f.ok.Store(true)
		f.seen.Reset()
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
		world.Settle(time.Hour)
		require.Len(w, f.seen.All(), 1)
		require.Equal(w, 2, f.seen.All()[0].Generation)
	})
}

// Without the store nobody knows of a second copy, and the event is handled.
func TestRedrivenEventWhenTheStoreDoesNotAnswer(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		inner := w.Open()
		ops := w.BusOn(inner, bus.Config{Service: "ops"})
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		f := newUnsteady()
		f.ok.Store(true)
		listen(w, b, f)
		add(w, inner, letter(w, "d"))
		tr.Set(world.FailingStore("redrive.", transport.ErrUnavailable))
		_, err := ops.DeadLetters().Redrive(w.Context(), "d")
		require.NoError(w, err)
		world.Settle(time.Minute)
		require.Len(w, f.seen.All(), 1)
	})
}

// The retry copies of two generations are two events to the transport.
func TestRedriveWithinTheDedupWindow(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		runs := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			runs.Add(fmt.Sprintf("%d/%d", m.Generation, m.Attempt))
			if m.Attempt == 1 {
				return bus.RetryAfter(31*time.Second, world.ErrOops)
			}
			return bus.Permanent(world.ErrOops)
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		for range 2 {
			world.Settle(35 * time.Second)
			_, err = b.DeadLetters().Redrive(w.Context(), only(w, b.DeadLetters()).ID)
			require.NoError(w, err)
		}
		world.Settle(35 * time.Second)
		require.Equal(w, strings.Fields("0/1 0/2 1/1 1/2 2/1 2/2"), runs.All())
		require.Equal(w, 2, only(w, b.DeadLetters()).Generation)
	})
}

// A redriven event whose process dies is handled by another one, and so is a batch
// handler's.
func TestRedrivenEventOutlivesItsProcess(t *testing.T) {
	for name, subscribe := range map[string]func(w *world.World, b *bus.Bus, f func(context.Context) error){
		"one by one": func(w *world.World, b *bus.Bus, f func(context.Context) error) {
			_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error { return f(ctx) })
			require.NoError(w, err)
		},
		"in batches": func(w *world.World, b *bus.Bus, f func(context.Context) error) {
			_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, _ []world.UserCreated) error { return f(ctx) })
			require.NoError(w, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				inner := w.Open()
				ops := w.BusOn(inner, bus.Config{Service: "ops"})
				tr := world.NewFaulty(w.Open())
				dies := w.BusOn(tr, bus.Config{})
				started := world.NewRecord[int]()
				subscribe(w, dies, func(ctx context.Context) error { started.Add(1); <-ctx.Done(); return ctx.Err() })
				add(w, inner, letter(w, "d"))
				_, err := ops.DeadLetters().Redrive(w.Context(), "d")
				require.NoError(w, err)
				started.Wait(w, 1)
				tr.Kill()
				ran := world.NewRecord[int]()
				subscribe(w, w.Bus(bus.Config{}), func(context.Context) error { ran.Add(1); return nil })
				world.Settle(10 * time.Minute)
				require.Len(w, ran.All(), 1)
			})
		})
	}
}
