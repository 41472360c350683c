package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

func TestGroupsAndRetireGroup(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		one, two := w.Bus(bus.Config{Service: "one"}), w.Bus(bus.Config{Service: "two"})
		free := make(chan struct{})
		sub, err := bus.Subscribe(w.Context(), one, func(context.Context, world.UserCreated) error { <-free; return nil }, bus.WithGroup("slow"))
		require.NoError(w, err)
		gone, err := bus.Subscribe(w.Context(), one, func(context.Context, world.UserCreated) error { return nil }, bus.WithGroup("gone"))
		require.NoError(w, err)
		require.NoError(w, gone.Close(w.Context()))
		for range 50 {
			require.NoError(w, bus.Publish(w.Context(), two, world.UserCreated{ID: "ada"}))
		}
		world.Settle(time.Second)
		groups := func(b *bus.Bus) map[string]bus.GroupInfo {
			all, err := b.Groups(w.Context())
			require.NoError(w, err)
			byGroup := map[string]bus.GroupInfo{}
			for _, g := range all {
				require.Equal(w, "user.created", g.Name)
				byGroup[g.Group] = g
			}
			return byGroup
		}
		got := groups(one)
		require.Len(w, got, 2)
		require.Equal(w, bus.GroupInfo{Name: "user.created", Group: "gone", Pending: 50}, got["gone"])
		slow := got["slow"]
		require.True(w, slow.Here)
		require.Equal(w, 50, slow.Pending+slow.Unsettled)
		require.GreaterOrEqual(w, slow.Unsettled, 16, "what runs")
		require.False(w, groups(two)["slow"].Here)

		require.Equal(w, bus.CodeConflict, bus.CodeOf(one.RetireGroup(w.Context(), "slow", "user.created")))
		require.Equal(w, bus.CodeNotFound, bus.CodeOf(two.RetireGroup(w.Context(), "none", "user.created")))
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(two.RetireGroup(w.Context(), "no.group", "user.created")))
		require.NoError(w, two.RetireGroup(w.Context(), "gone", "user.created"))
		close(free)
		world.Settle(time.Minute)
		require.Equal(w, map[string]bus.GroupInfo{"slow": {Name: "user.created", Group: "slow", Here: true}}, groups(one))
		require.NoError(w, sub.Close(w.Context()))
		require.NoError(w, one.RetireGroup(w.Context(), "slow", "user.created"))
		require.Empty(w, groups(two))

		heard := world.NewRecord[world.UserID]()
		_, err = bus.Subscribe(w.Context(), one, func(_ context.Context, e world.UserCreated) error { heard.Add(e.ID); return nil }, bus.WithGroup("gone"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), two, world.UserCreated{ID: "bob"}))
		require.Equal(w, []world.UserID{"bob"}, heard.Wait(w, 1), "a group that comes again begins anew")
		require.NoError(w, one.Close(context.Background()))
		_, err = one.Groups(w.Context())
		require.ErrorIs(w, err, bus.ErrClosed)
		require.ErrorIs(w, one.RetireGroup(w.Context(), "gone", "user.created"), bus.ErrClosed)
	})
}
