package command_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// A service reads the record of a command whose owner's lease has ended, and
// writes only after the owner has made its lease again: one of them must learn
// of the other.
func TestTakeoverThatRacesWithAReturn(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		old, oldTr := w.Process("accounts")
		next, nextTr := w.Process("billing")
		require.NoError(w, bus.Handle(w.Context(), old, world.Answering("old")))
		oldTr.Set(world.FailingStore("", transport.ErrUnavailable))
		world.Settle(20 * time.Second)
		nextTr.Set(func(_ context.Context, op, what string) error {
			if op == "update" && strings.HasPrefix(what, "owner.") {
				nextTr.Set(nil)
				oldTr.Set(nil)
				world.Settle(4 * time.Second) // the old owner is back
			}
			return nil
		})
		err := bus.Handle(w.Context(), next, world.Answering("next"))
		world.Settle(time.Minute)
		owner := world.UserID("old")
		if err == nil {
			owner = "next"
		} else {
			require.ErrorIs(w, err, bus.ErrOwned)
		}
		caller := w.Bus(bus.Config{Service: "caller"})
		for range 50 {
			id, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "a"})
			require.NoError(w, err)
			require.Equal(w, owner, id, "one of two services handles it")
		}
	})
}

// A registration that failed owns nothing, also when its context had ended by
// the time that it failed.
func TestRegistrationThatRanOutOfTimeOwnsNothing(t *testing.T) {
	lost := func(context.Context) error { return transport.ErrUnknown }
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for what, breaks := range map[string]func(tr *world.Faulty){
		"serving hangs":               func(tr *world.Faulty) { tr.Set(world.Hanging("serve")) },
		"the record's answer is lost": func(tr *world.Faulty) { tr.SetAfter(afterOwner(lost)) },
		"the record's answer hangs":   func(tr *world.Faulty) { tr.SetAfter(afterOwner(hangs)) },
	} {
		t.Run(what, func(t *testing.T) {
			world.AcrossProcesses(t, func(w *world.World) {
				b, tr := w.Process("accounts")
				breaks(tr)
				ctx, cancel := context.WithTimeout(w.Context(), 2*time.Second)
				defer cancel()
				require.Error(w, bus.Handle(ctx, b, world.Answering("accounts")))
				tr.Set(nil)
				tr.SetAfter(nil)
				world.Settle(time.Minute)
				other := w.Bus(bus.Config{Service: "billing"})
				require.NoError(w, bus.Handle(w.Context(), other, world.Answering("billing")), "nobody handles it")
				require.ErrorIs(w, bus.Handle(w.Context(), b, world.Answering("accounts")), bus.ErrOwned)
			})
		})
	}
}

// afterOwner is f after the first write of an ownership record.
func afterOwner(f func(context.Context) error) world.Fault {
	var once sync.Once
	return func(ctx context.Context, op, what string) (err error) {
		if (op == "create" || op == "update") && strings.HasPrefix(what, "owner.") {
			once.Do(func() { err = f(ctx) })
		}
		return err
	}
}

// Nothing of a bus that was closed while a command was being registered is left
// in the store.
func TestHandleDuringCloseLeavesNothing(t *testing.T) {
	for _, slow := range []string{"lease.", "owner."} {
		t.Run(slow, func(t *testing.T) {
			world.AcrossProcesses(t, func(w *world.World) {
				b, tr := w.Process("accounts")
				tr.SetAfter(func(_ context.Context, op, what string) error {
					if op == "create" && strings.HasPrefix(what, slow) {
						world.Settle(3 * time.Second)
					}
					return nil
				})
				registered := world.NewRecord[error]()
				go func() { registered.Add(bus.Handle(context.Background(), b, world.Answering("late"))) }()
				world.Settle(time.Second)
				require.NoError(w, b.Close(w.Context()))
				require.ErrorIs(w, registered.Wait(w, 1)[0], bus.ErrClosed)
				world.Settle(leaseEnd)
				view := w.Open()
				src, err := view.Store().Watch(w.Context(), "lease")
				require.NoError(w, err)
				e, err := src.Next(w.Context())
				require.NoError(w, err)
				require.Empty(w, e.Key, "a lease that is still renewed")
				require.NoError(w, src.Close(w.Context()))
				require.NoError(w, view.Close(w.Context()))
			})
		})
	}
}
