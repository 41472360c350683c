package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

func TestExecuteAsksAgainOnlyWhereNothingRan(t *testing.T) {
	for what, c := range map[string]struct {
		err   error
		again bool
		code  bus.Code
	}{
		"busy":        {transport.ErrBusy, true, bus.CodeBusy},
		"stopping":    {transport.ErrStopping, true, bus.CodeUnavailable},
		"unavailable": {transport.ErrUnavailable, true, bus.CodeUnavailable},
		"no handler":  {transport.ErrNoHandler, false, bus.CodeNoHandler},
		"unknown":     {transport.ErrUnknown, false, bus.CodeUnknown},
		"permission":  {transport.ErrPermission, false, bus.CodePermission},
		"too large":   {&transport.SizeError{Size: 2, Limit: 1}, false, bus.CodeTooLarge},
		"timeout":     {context.DeadlineExceeded, false, bus.CodeTimeout},
		"unheard of":  {errors.New("unheard of"), false, bus.CodeUnknown},
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(w *world) {
				ran := newRecord[string]()
				require.NoError(w, bus.Handle(w.Context(), w.bus(bus.Config{}), func(ctx context.Context, c createUser) (userID, error) {
					m, _ := bus.MetaFrom(ctx)
					ran.add(m.ID)
					return "x", nil
				}))
				caller, tr := w.process("caller")
				tr.set(times(5, failing("request", fmt.Errorf("driver: %w", c.err))))
				_, err := bus.Execute(w.Context(), caller, createUser{Name: "a"}, bus.WithID("cmd"))
				if c.again {
					require.NoError(w, err)
					require.Equal(w, slices.Repeat([]string{"cmd"}, 6), tr.asked, "the same id each time")
					require.Equal(w, []string{"cmd"}, ran.all())
				} else {
					require.Equal(w, c.code, bus.CodeOf(err), "%v", err)
					require.Len(w, tr.asked, 1)
					require.Empty(w, ran.all())
				}

				// It never passes: what the caller learns is that nothing ran.
				tr.set(failing("request", c.err))
				ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
				defer cancel()
				began, asked := time.Now(), tr.count("request")
				_, err = bus.Execute(ctx, caller, createUser{Name: "a"})
				require.Equal(w, c.code, bus.CodeOf(err), "%v", err)
				if c.again {
					require.ErrorIs(w, err, c.err)
					require.Equal(w, time.Minute, time.Since(began))
					require.Less(w, tr.count("request")-asked, 500, "it backs off")
					require.Greater(w, tr.count("request")-asked, 100, "and does not give up")
				} else {
					require.Zero(w, time.Since(began))
				}
			})
		})
	}
}

func TestSourceOfCommandsThatFailsForAWhile(t *testing.T) {
	everywhere(t, func(w *world) {
		b, tr := w.process("accounts")
		tr.set(failing("next", transport.ErrUnavailable))
		require.NoError(w, bus.Handle(w.Context(), b, answering("b")))
		settle(time.Minute)
		require.Less(w, tr.count("next"), 2000, "no spinning")
		require.Greater(w, tr.count("next"), 100, "no giving up")
		tr.set(nil)
		id, err := bus.Execute(w.Context(), w.bus(bus.Config{Service: "caller"}), createUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, userID("b"), id)
	})
}

func TestManyExecutesAtOnce(t *testing.T) {
	everywhere(t, func(w *world) {
		const n = 10_000
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		var ran atomic.Int64
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c createUser) (userID, error) {
			ran.Add(1)
			return userID(c.Name), nil
		}))
		var wg sync.WaitGroup
		for i := range n {
			b := caller
			if i%2 == 0 {
				b = server
			}
			wg.Go(func() {
				name := fmt.Sprint(i)
				if id, err := bus.Execute(w.Context(), b, createUser{Name: name}); err != nil || id != userID(name) {
					w.Errorf("%s: %q, %v", name, id, err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(w, n, ran.Load(), "each ran once")
	})
}

func TestStuckCommandStopsNoOther(t *testing.T) {
	everywhere(t, func(w *world) {
		server, caller := w.bus(bus.Config{}), w.bus(bus.Config{Service: "caller"})
		release := make(chan struct{})
		defer close(release)
		stuck := newRecord[string]()
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c createUser) (userID, error) {
			if c.Name == "stuck" {
				stuck.add(c.Name)
				<-release
			}
			return userID(c.Name), nil
		}, bus.WithConcurrency(3)))
		require.NoError(w, bus.HandleNone(w.Context(), server, func(context.Context, resetAll) error { return nil }))
		for i, b := range []*bus.Bus{server, caller} {
			_, err := bus.Execute(w.Context(), b, createUser{Name: "stuck"}, bus.WithTimeout(time.Second))
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
			stuck.wait(w, i+1)
		}
		for range 100 {
			for _, b := range []*bus.Bus{server, caller} {
				id, err := bus.Execute(w.Context(), b, createUser{Name: "a"})
				require.NoError(w, err)
				require.Equal(w, userID("a"), id)
				require.NoError(w, bus.Do(w.Context(), b, resetAll{}))
			}
		}
		err := server.Close(w.Context())
		require.ErrorContains(w, err, "user.create")
		require.NotContains(w, err.Error(), "reset.all")
	})
}
