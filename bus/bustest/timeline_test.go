package bustest_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got+"\n"), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, strings.TrimSuffix(string(want), "\n"), got)
}

// The shape of the timeline: causes above what they caused, each below the run
// that did it.
func TestTimeline(t *testing.T) {
	steady := resilience.Retry{MaxRetries: 2, Initial: time.Second, Jitter: resilience.NoJitter}
	work := func(d time.Duration) { time.Sleep(d) }
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		shop := h.NewBus(bus.Config{Service: "shop"})
		require.NoError(t, bus.Handle(t.Context(), shop, func(ctx context.Context, c PlaceOrder) (string, error) {
			work(2 * time.Millisecond)
			if c.ID == "bad" {
				return "", errors.New("no such article")
			}
			return c.ID, bus.Publish(ctx, shop, OrderPlaced{ID: c.ID})
		}))
		bustest.Stub(h, func(_ context.Context, c Charge) (string, error) { work(300 * time.Millisecond); return "r-1", nil })
		subscribe(t, h.Bus, func(ctx context.Context, e OrderPlaced) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				return errDown
			}
			_, err := bus.Execute(ctx, h.Bus, Charge{Order: e.ID})
			return errors.Join(err, bus.Publish(ctx, h.Bus, OrderCharged(e)))
		}, bus.WithGroup("billing"), bus.WithRetry(steady), bus.WithFilter(bus.Filter{
			Name: "no samples", Value: true, Pass: func(m *bus.Message) bool { return m.Value.(*OrderPlaced).ID != "sample" },
		}))
		subscribe(t, shop, func(context.Context, OrderCharged) error { work(5 * time.Millisecond); return nil }, bus.WithPrivate(), bus.WithName("screen"))
		subscribe(t, shop, func(context.Context, OrderCharged) error { return errDown }, bus.WithName("mailer"), bus.WithRetry(steady))
		bustest.Failed[OrderPlaced](h).Allow()
		bustest.Failed[OrderCharged](h).Allow()

		execute := func(s bus.Scope, id string) {
			_, _ = bus.Execute(t.Context(), s, PlaceOrder{ID: id})
			h.Wait()
		}
		execute(h.Bus, "o-1")
		execute(h.Bus, "bad")
		require.NoError(t, bus.InSession(t.Context(), h.Bus, "job 7", func(_ context.Context, s *bus.Session) error {
			execute(s, "sample")
			return nil
		}))
		bustest.On[OrderReminder](h).DropAck()
		bustest.On[OrderReminder](h).Duplicate()
		bustest.On[OrderReminder](h).Nth(2).FailPublish(transport.ErrUnavailable)
		bustest.On[OrderReminder](h).ByHandler("once").Fail(errDown)
		subscribe(t, h.Bus, done[OrderReminder], bus.WithName("once"), bus.WithConcurrency(1), bus.WithRetry(steady))
		publish(t, h.Bus, OrderReminder{ID: strings.Repeat("long ", 50)}, bus.WithID("r"))
		h.Wait()
		require.Error(t, bus.Publish(t.Context(), h.Bus, OrderReminder{}, bus.WithID("r2")))
		opening := regexp.MustCompile(`"opening":.*…`) // random, and the machine's name
		golden(t, "timeline", opening.ReplaceAllString(h.Timeline(), "…"))
	})
}

// Of a very long timeline the middle is left out.
func TestTimelineIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		output, failed := pretendHarness(func(t testing.TB, h *bustest.Harness) {
			for range 1000 {
				publish(t, h.Bus, OrderPlaced{})
			}
			require.Equal(t, 999, strings.Count(h.Timeline(), "\n"))
			t.Errorf("failed")
		})
		require.True(t, failed)
		require.Equal(t, 402, strings.Count(output, "\n"))
		require.Contains(t, output, "… 600 lines …")
	})
}

// Ids that a test chose may make messages each other's cause.
func TestTimelineOfARing(t *testing.T) {
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		subscribe(t, h.Bus, func(ctx context.Context, e OrderPlaced) error {
			return bus.Publish(ctx, h.Bus, OrderCharged(e), bus.WithID("b"))
		})
		subscribe(t, h.Bus, func(ctx context.Context, e OrderCharged) error {
			return bus.Publish(ctx, h.Bus, OrderPlaced(e), bus.WithID("a"))
		})
		publish(t, h.Bus, OrderPlaced{}, bus.WithID("a"))
		h.Wait()
		golden(t, "ring", h.Timeline())
	})
}
