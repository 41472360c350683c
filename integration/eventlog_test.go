package integration_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/eventlog"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

// The event log has every step of every message, and none of its body.
func TestEventLog(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		got := world.NewRecord[eventlog.Entry]()
		l := eventlog.New(eventlog.Func(func(e eventlog.Entry) error { got.Add(e); return nil }), eventlog.Config{})
		b := w.Bus(bus.Config{Retry: quick, Observers: []bus.Observer{l.Observe}})
		s, err := b.Session(w.Context(), "job")
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { time.Sleep(time.Second); return world.ErrOops }, bus.WithName("mail"))
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) { panic(secret[:6]) }))
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{Note: secret}, bus.WithID("e1")))
		_, err = bus.Execute(w.Context(), s, world.CreateUser{Name: secret}, bus.WithID("c1"))
		require.Error(w, err)
		world.Settle(time.Minute)
		require.NoError(w, b.Close(context.Background()))
		require.NoError(w, l.Close(w.Context()))
		require.Zero(w, l.Stats().Dropped+l.Stats().Failed)

		steps := map[string][]string{}
		for _, e := range got.All() {
			text, err := json.Marshal(e)
			require.NoError(w, err)
			require.NotContains(w, string(text), secret)
			if e.ID != "e1" && e.ID != "c1" {
				continue // those of the session
			}
			require.Equal(w, "job", e.Session)
			require.False(w, e.Time.IsZero())
			steps[e.ID] = append(steps[e.ID], string(e.Outcome)+" "+e.Group+"/"+e.Handler+" "+string(e.Code)+" "+e.Elapsed.Round(time.Second).String())
		}
		require.ElementsMatch(w, []string{"ok /  0s", "failed svc/mail failed 1s", "retrying svc/mail failed 0s", "failed svc/mail failed 1s",
			"dead-lettered svc/mail failed 0s"}, steps["e1"])
		require.ElementsMatch(w, []string{"failed /svc panic 0s", "dead-lettered /svc panic 0s", "failed / panic 0s"}, steps["c1"])
	})
}
