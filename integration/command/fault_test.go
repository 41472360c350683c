package command_test

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
	"github.com/jitney-bus/jitney/integration/internal/world"
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
			world.Everywhere(t, func(w *world.World) {
				ran := world.NewRecord[string]()
				require.NoError(w, bus.Handle(w.Context(), w.Bus(bus.Config{}), func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
					m, _ := bus.MetaFrom(ctx)
					ran.Add(m.ID)
					return "x", nil
				}))
				caller, tr := w.Process("caller")
				tr.Set(world.Times(5, world.Failing("request", fmt.Errorf("driver: %w", c.err))))
				_, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "a"}, bus.WithID("cmd"))
				if c.again {
					require.NoError(w, err)
					require.Equal(w, slices.Repeat([]string{"cmd"}, 6), tr.Asked, "the same id each time")
					require.Equal(w, []string{"cmd"}, ran.All())
				} else {
					require.Equal(w, c.code, bus.CodeOf(err), "%v", err)
					require.Len(w, tr.Asked, 1)
					require.Empty(w, ran.All())
				}

				// It never passes: what the caller learns is that nothing ran.
				tr.Set(world.Failing("request", c.err))
				ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
				defer cancel()
				began, asked := time.Now(), tr.Count("request")
				_, err = bus.Execute(ctx, caller, world.CreateUser{Name: "a"})
				require.Equal(w, c.code, bus.CodeOf(err), "%v", err)
				if c.again {
					require.ErrorIs(w, err, c.err)
					require.Equal(w, time.Minute, time.Since(began))
					require.Less(w, tr.Count("request")-asked, 500, "it backs off")
					require.Greater(w, tr.Count("request")-asked, 100, "and does not give up")
				} else {
					require.Zero(w, time.Since(began))
				}
			})
		})
	}
}

func TestSourceOfCommandsThatFailsForAWhile(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, tr := w.Process("accounts")
		tr.Set(world.Failing("next", transport.ErrUnavailable))
		require.NoError(w, bus.Handle(w.Context(), b, world.Answering("b")))
		world.Settle(time.Minute)
		require.Less(w, tr.Count("next"), 2000, "no spinning")
		require.Greater(w, tr.Count("next"), 100, "no giving up")
		tr.Set(nil)
		id, err := bus.Execute(w.Context(), w.Bus(bus.Config{Service: "caller"}), world.CreateUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("b"), id)
	})
}

func TestManyExecutesAtOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		const n = 10_000
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		var ran atomic.Int64
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
			ran.Add(1)
			return world.UserID(c.Name), nil
		}))
		var wg sync.WaitGroup
		for i := range n {
			b := caller
			if i%2 == 0 {
				b = server
			}
			wg.Go(func() {
				name := fmt.Sprint(i)
				if id, err := bus.Execute(w.Context(), b, world.CreateUser{Name: name}); err != nil || id != world.UserID(name) {
					w.Errorf("%s: %q, %v", name, id, err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(w, n, ran.Load(), "each ran once")
	})
}

func TestStuckCommandStopsNoOther(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, caller := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "caller"})
		release := make(chan struct{})
		defer close(release)
		stuck := world.NewRecord[string]()
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
			if c.Name == "stuck" {
				stuck.Add(c.Name)
				<-release
			}
			return world.UserID(c.Name), nil
		}, bus.WithConcurrency(3)))
		require.NoError(w, bus.HandleNone(w.Context(), server, func(context.Context, world.ResetAll) error { return nil }))
		for i, b := range []*bus.Bus{server, caller} {
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "stuck"}, bus.WithTimeout(time.Second))
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
			stuck.Wait(w, i+1)
		}
		for range 100 {
			for _, b := range []*bus.Bus{server, caller} {
				id, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
				require.NoError(w, err)
				require.Equal(w, world.UserID("a"), id)
				require.NoError(w, bus.Do(w.Context(), b, world.ResetAll{}))
			}
		}
		err := server.Close(w.Context())
		require.ErrorContains(w, err, "user.create")
		require.NotContains(w, err.Error(), "reset.all")
	})
}
