package integration_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// A service reads the record of a command whose owner's lease has ended, and
// writes only after the owner has made its lease again: one of them must learn
// of the other.
func TestTakeoverThatRacesWithAReturn(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		old, oldTr := w.process("accounts")
		next, nextTr := w.process("billing")
		require.NoError(w, bus.Handle(w.Context(), old, answering("old")))
		oldTr.set(failingStore("", transport.ErrUnavailable))
		settle(20 * time.Second)
		nextTr.set(func(_ context.Context, op, what string) error {
			if op == "update" && strings.HasPrefix(what, "owner.") {
				nextTr.set(nil)
				oldTr.set(nil)
				settle(4 * time.Second) // the old owner is back
			}
			return nil
		})
		err := bus.Handle(w.Context(), next, answering("next"))
		settle(time.Minute)
		owner := userID("old")
		if err == nil {
			owner = "next"
		} else {
			require.ErrorIs(w, err, bus.ErrOwned)
		}
		caller := w.bus(bus.Config{Service: "caller"})
		for range 50 {
			id, err := bus.Execute(w.Context(), caller, createUser{Name: "a"})
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
	for what, breaks := range map[string]func(tr *faulty){
		"serving hangs":               func(tr *faulty) { tr.set(hanging("serve")) },
		"the record's answer is lost": func(tr *faulty) { tr.setAfter(afterOwner(lost)) },
		"the record's answer hangs":   func(tr *faulty) { tr.setAfter(afterOwner(hangs)) },
	} {
		t.Run(what, func(t *testing.T) {
			acrossProcesses(t, func(w *world) {
				b, tr := w.process("accounts")
				breaks(tr)
				ctx, cancel := context.WithTimeout(w.Context(), 2*time.Second)
				defer cancel()
				require.Error(w, bus.Handle(ctx, b, answering("accounts")))
				tr.set(nil)
				tr.setAfter(nil)
				settle(time.Minute)
				other := w.bus(bus.Config{Service: "billing"})
				require.NoError(w, bus.Handle(w.Context(), other, answering("billing")), "nobody handles it")
				require.ErrorIs(w, bus.Handle(w.Context(), b, answering("accounts")), bus.ErrOwned)
			})
		})
	}
}

// afterOwner is f after the first write of an ownership record.
func afterOwner(f func(context.Context) error) fault {
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
			acrossProcesses(t, func(w *world) {
				b, tr := w.process("accounts")
				tr.setAfter(func(_ context.Context, op, what string) error {
					if op == "create" && strings.HasPrefix(what, slow) {
						settle(3 * time.Second)
					}
					return nil
				})
				registered := newRecord[error]()
				go func() { registered.add(bus.Handle(context.Background(), b, answering("late"))) }()
				settle(time.Second)
				require.NoError(w, b.Close(w.Context()))
				require.ErrorIs(w, registered.wait(w, 1)[0], bus.ErrClosed)
				settle(leaseEnd)
				view := w.open()
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
