package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

func TestScriptFailsHandlings(t *testing.T) {
	kits(t, func(t *testing.T, h *bustest.Harness) {
		listen(t, h.Bus, ok[orderPlaced], bus.WithGroup("a"))
		listen(t, h.Bus, ok[orderPlaced], bus.WithGroup("b"))
		require.NoError(t, bus.Handle(t.Context(), h.Bus, func(ctx context.Context, c placeOrder) (string, error) { return c.ID, nil }))
		bustest.On[orderPlaced](h).Nth(2).InGroup("a").Fail(world.ErrOops)
		bustest.On[placeOrder](h).Where(func(c placeOrder) bool { return c.ID == "bad" }).Each().Fail(world.ErrOops)
		publish(t, h.Bus, orderPlaced{ID: "1"})
		h.Wait()
		publish(t, h.Bus, orderPlaced{ID: "2"})
		require.Equal(t, "2", bustest.Failed[orderPlaced](h).One().Message.ID)
		bustest.Handled[orderPlaced](h).InGroup("a").Count(2)
		bustest.Handled[orderPlaced](h).InGroup("b").Count(2)
		for _, id := range []string{"bad", "good", "bad"} {
			_, err := bus.Execute(t.Context(), h.Bus, placeOrder{ID: id})
			require.Equal(t, id == "bad", err != nil)
		}
	}, bustest.WithConfig(bus.Config{Retry: brisk}))
}

// A handler that fails every time is expected to, to its dead letter.
func TestScriptedFailuresAreMeant(t *testing.T) {
	kits(t, func(t *testing.T, h *bustest.Harness) {
		listen(t, h.Bus, func(ctx context.Context, e orderCharged) error {
			_, err := bus.Execute(ctx, h.Bus, placeOrder(struct {
				bus.Command[string]
				ID string
			}{ID: e.ID}))
			return err
		})
		listen(t, h.Bus, ok[orderPlaced])
		require.NoError(t, bus.Handle(t.Context(), h.Bus, func(ctx context.Context, c placeOrder) (string, error) { return c.ID, nil }))
		bustest.On[orderPlaced](h).Each().Fail(bus.Permanent(world.ErrOops))
		bustest.On[placeOrder](h).Fail(world.ErrOops)
		publish(t, h.Bus, orderPlaced{})
		publish(t, h.Bus, orderCharged{}) // fails with what it executes
		h.Wait()
	}, bustest.WithConfig(bus.Config{Retry: brisk}))
}

func TestScriptDuplicates(t *testing.T) {
	kits(t, func(t *testing.T, h *bustest.Harness) {
		listen(t, h.Bus, ok[orderPlaced])
		listen(t, h.Bus, ok[orderPlaced], bus.WithPrivate())
		bustest.On[orderPlaced](h).Nth(2).Duplicate()
		for _, id := range []string{"1", "2", "3"} {
			publish(t, h.Bus, orderPlaced{ID: id}, bus.WithID("id-"+id), bus.WithHeader("K", id))
		}
		bustest.Published[orderPlaced](h).Count(3)
		twice := bustest.Handled[orderPlaced](h).Where(func(e orderPlaced) bool { return e.ID == "2" }).Count(4)
		for _, s := range twice {
			require.Equal(t, "id-2", s.Meta.ID)
			require.Equal(t, "id-2", s.Meta.CorrelationID)
			require.Equal(t, "2", s.Meta.Header("K"))
			require.Equal(t, 1, s.Meta.Attempt)
		}
		bustest.Handled[orderPlaced](h).Count(8)
	})
}

// A duplicate that has to be retried comes again with the event's id too.
func TestScriptDuplicateIsRetried(t *testing.T) {
	world.EverywhereEncoded(t, func(t *testing.T, h *bustest.Harness) {
		listen(t, h.Bus, func(ctx context.Context, _ orderPlaced) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				return bus.RetryAfter(time.Hour, world.ErrOops)
			}
			return nil
		})
		bustest.On[orderPlaced](h).Duplicate()
		publish(t, h.Bus, orderPlaced{}, bus.WithID("x"))
		for _, s := range bustest.Handled[orderPlaced](h).Count(2) {
			require.Equal(t, "x", s.Meta.ID)
		}
		bustest.Failed[orderPlaced](h).Count(2)
	})
}

// An acknowledgement that is lost brings the event again after AckWait.
func TestScriptDropsAcks(t *testing.T) {
	world.EverywhereEncoded(t, func(t *testing.T, h *bustest.Harness) {
		listen(t, h.Bus, ok[orderPlaced])
		listen(t, h.Bus, ok[orderPlaced], bus.WithGroup("other"))
		listen(t, h.Bus, ok[orderPlaced], bus.WithPrivate())
		bustest.On[orderPlaced](h).Nth(2).InGroup("test").DropAck()
		began := time.Now()
		publish(t, h.Bus, orderPlaced{ID: "1"})
		h.Wait()
		require.Zero(t, time.Since(began))
		publish(t, h.Bus, orderPlaced{ID: "2"})
		runs := bustest.Handled[orderPlaced](h).InGroup("test").Count(3)
		require.Equal(t, "2", runs[2].Message.ID)
		require.Equal(t, 2, runs[2].Meta.Attempt)
		require.InDelta(t, 10, (runs[2].At - runs[1].At).Seconds(), 1)
		bustest.Handled[orderPlaced](h).Count(3 + 2 + 2)
	}, bustest.WithConfig(bus.Config{AckWait: 10 * time.Second}))
}

func TestScriptDelaysAndFailsPublishes(t *testing.T) {
	world.EverywhereEncoded(t, func(t *testing.T, h *bustest.Harness) {
		listen(t, h.Bus, ok[orderPlaced])
		bustest.On[orderPlaced](h).DelayPublish(3 * time.Second)
		bustest.On[orderPlaced](h).Nth(2).FailPublish(transport.ErrUnavailable)
		bustest.On[orderPlaced](h).Nth(3).DelayPublish(time.Hour)
		began := time.Now()
		publish(t, h.Bus, orderPlaced{ID: "1"})
		require.Equal(t, 3*time.Second, time.Since(began).Truncate(time.Second))
		err := bus.Publish(t.Context(), h.Bus, orderPlaced{ID: "2"})
		require.Equal(t, bus.CodeUnavailable, bus.CodeOf(err))
		require.Equal(t, bus.CodeTimeout, bus.CodeOf(bus.Publish(t.Context(), h.Bus, orderPlaced{ID: "3"})))
		require.Equal(t, "1", bustest.Handled[orderPlaced](h).One().Message.ID)
		require.Equal(t, "1", bustest.Published[orderPlaced](h).One().Message.ID)
		h.Go(func() { _ = bus.PublishAll(context.Background(), h.Bus, orderPlaced{ID: "4"}, orderPlaced{ID: "5"}) })
		bustest.Handled[orderPlaced](h).Count(3)
	})
}

// Of a batch only the event fails that a script is about.
func TestScriptFailsOneOfABatch(t *testing.T) {
	world.EverywhereEncoded(t, func(t *testing.T, h *bustest.Harness) {
		var sizes []int
		_, err := bus.SubscribeBatch(t.Context(), h.Bus, func(ctx context.Context, es []orderPlaced) error {
			sizes = append(sizes, len(es))
			for i := range es {
				if err := bus.Publish(bus.ItemContext(ctx, i), h.Bus, orderCharged(es[i])); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(t, err)
		bustest.On[orderPlaced](h).Nth(2).Fail(world.ErrOops)
		for _, id := range []string{"1", "2", "3"} {
			publish(t, h.Bus, orderPlaced{ID: id})
		}
		bustest.Handled[orderPlaced](h).Count(3)
		bustest.Published[orderCharged](h).Count(3)
		require.Equal(t, []int{2, 1}, sizes)
		require.Equal(t, "2", bustest.Failed[orderPlaced](h).One().Message.ID)
	}, bustest.WithConfig(bus.Config{Retry: brisk}))
}
