package bustest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/transport"
)

// The news of a dead letter comes after everything else about its event, and is
// waited for all the same; it is in the timeline if somebody listens for it.
func TestAlarmsAreWaitedFor(t *testing.T) {
	test := func(t *testing.T, h *bustest.Harness) {
		subscribe(t, h.Bus, func(context.Context, OrderPlaced) error { return bus.Permanent(errDown) })
		publish(t, h.Bus, OrderPlaced{ID: "o-1"})
		bustest.DeadLettered[OrderPlaced](h).One()
		require.NotContains(t, h.Timeline(), "jitney")
		bustest.Published[bus.DeadLettered](h).One()

		subscribe(t, h.Bus, done[bus.DeadLettered], bus.WithGroup("alarms"))
		publish(t, h.Bus, OrderPlaced{ID: "o-2"})
		bustest.Handled[bus.DeadLettered](h).InGroup("alarms").Where(func(e bus.DeadLettered) bool { return e.Name == "order.placed" }).One()
		bustest.DeadLettered[OrderPlaced](h).Count(2)
		_, after, _ := strings.Cut(h.Timeline(), `{"ID":"o-2"}`)
		require.Regexp(t, `(?s)dead letter of test/default.*\n *\S+    publish jitney.dead_lettered .*\n.* handled by alarms/default`, after)
	}
	for range 20 {
		t.Run("real time", func(t *testing.T) { test(t, bustest.New(t)) })
		t.Run("fake time", func(t *testing.T) { bustest.Run(t, test) })
	}
}

// A dead letter that no bus has stored sets nobody off, and is not waited for long.
func TestDeadLettersOfTheTestsOwn(t *testing.T) {
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		tr := h.Transport()
		require.NoError(t, tr.DeadLetters().Add(t.Context(), &transport.DeadLetter{
			ID: "d", Kind: "event", Message: &transport.Message{To: transport.Address{Name: "order.placed"}, ID: "x", Body: []byte("{}")},
		}))
		h.Wait()
		require.NoError(t, tr.Close(t.Context()))
		bustest.Published[bus.DeadLettered](h).None()
	})
}
