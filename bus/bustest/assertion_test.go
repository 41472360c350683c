package bustest_test

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/resilience"
)

// What a user sees of an assertion that fails.
func TestAssertionsFail(t *testing.T) {
	twoPlaced := func(t testing.TB, h *bustest.Harness) {
		subscribe(t, h.Bus, done[OrderPlaced])
		publish(t, h.Bus, OrderPlaced{ID: "o-1"})
		time.Sleep(time.Second)
		publish(t, h.Bus, OrderPlaced{ID: "o-2"})
	}
	isFirst := func(e OrderPlaced) bool { return e.ID == "o-1" }
	for name, c := range map[string]struct {
		test func(t testing.TB, h *bustest.Harness)
		want string
	}{
		"One of two": {func(t testing.TB, h *bustest.Harness) {
			twoPlaced(t, h)
			bustest.Published[OrderPlaced](h).One()
		}, `bustest: want one published order.placed, got 2:
	0s  publish order.placed {"ID":"o-1"}
	1s  publish order.placed {"ID":"o-2"}
timeline:
	0s  publish order.placed {"ID":"o-1"}
	0s    handled by test/default
	1s  publish order.placed {"ID":"o-2"}
	1s    handled by test/default`},
		"One of none": {func(t testing.TB, h *bustest.Harness) {
			bustest.Published[*OrderPlaced](h).One()
		}, `bustest: want one published order.placed, got 0`},
		"None of one, by a filter": {func(t testing.TB, h *bustest.Harness) {
			twoPlaced(t, h)
			bustest.Handled[OrderPlaced](h).Where(isFirst).InGroup("test").None()
		}, `bustest: want no handled order.placed for which Where is true and in group "test", got 1:
	0s  order.placed {"ID":"o-1"}: handled by test/default
that the filters left out:
	1s  order.placed {"ID":"o-2"}: handled by test/default
timeline:
	0s  publish order.placed {"ID":"o-1"}
	0s    handled by test/default
	1s  publish order.placed {"ID":"o-2"}
	1s    handled by test/default`},
		"Count": {func(t testing.TB, h *bustest.Harness) {
			twoPlaced(t, h)
			bustest.Handled[OrderPlaced](h).ByHandler("other").InSession("s").WhereMeta(func(bus.Meta) bool { return true }).Count(1)
		}, `bustest: want 1 handled order.placed by handler "other" and in session "s" and for which WhereMeta is true, got 0
that the filters left out:
	0s  order.placed {"ID":"o-1"}: handled by test/default
	1s  order.placed {"ID":"o-2"}: handled by test/default
timeline:
	0s  publish order.placed {"ID":"o-1"}
	0s    handled by test/default
	1s  publish order.placed {"ID":"o-2"}
	1s    handled by test/default`},
		"with what was not waited for": {func(t testing.TB, h *bustest.Harness) {
			sub, err := bus.Subscribe(t.Context(), h.Bus, done[OrderPlaced])
			require.NoError(t, err)
			require.NoError(t, sub.Close(t.Context()))
			publish(t, h.Bus, OrderPlaced{})
			publish(t, h.Bus, OrderReminder{}, bus.WithDelay(time.Hour))
			publish(t, h.Bus, OrderReminder{}, bus.WithDelay(90*time.Minute))
			bustest.Handled[OrderPlaced](h).InSession("").One()
		}, `bustest: want one handled order.placed in no session, got 0
not waited for:
	order.placed of group test: 1 event, and nobody here reads it
	order.reminder: 2 events delayed, due in 1h0m0s
timeline:
	0s  publish order.placed {"ID":""}
	0s  publish order.reminder {"ID":""}
	0s  publish order.reminder {"ID":""}`},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				output, failed := pretendHarness(c.test)
				require.True(t, failed)
				require.Equal(t, c.want, output)
			})
		})
	}
}

var anyLine = regexp.MustCompile(`go:[0-9]+`)

// Wait fails when what is on its way does not arrive, and says what that is.
func TestWaitFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		output, failed := pretendHarness(func(t testing.TB, h *bustest.Harness) {
			end := make(chan struct{})
			t.Cleanup(func() { close(end) })
			block := func() { <-end }
			subscribe(t, h.Bus, func(context.Context, OrderPlaced) error { block(); return nil })
			subscribe(t, h.Bus, func(context.Context, OrderPlaced) error { block(); return nil }, bus.WithPrivate())
			subscribe(t, h.Bus, func(context.Context, OrderCharged) error { return bus.RetryAfter(time.Hour, errDown) })
			require.NoError(t, bus.Handle(t.Context(), h.Bus, func(context.Context, PlaceOrder) (string, error) { block(); return "", nil }))
			publish(t, h.Bus, OrderPlaced{ID: "o-1"})
			publish(t, h.Bus, OrderPlaced{ID: "o-2"})
			publish(t, h.Bus, OrderCharged{ID: "o-1"})
			_, err := bus.PublishAsync(t.Context(), h.Bus, OrderReminder{})
			require.NoError(t, err)
			for _, f := range []func(){block, func() { _, _ = bus.Execute(context.Background(), h.Bus, PlaceOrder{}) }} {
				h.Go(f)
			}
			time.Sleep(time.Second)
			h.Wait()
		}, bustest.WithTimeout(10*time.Second), bustest.WithConfig(bus.Config{BatchTimeout: time.Hour}))
		require.True(t, failed)
		require.Equal(t, `bustest: not quiet after 10s
still on its way:
	goroutine of assertion_test.go:LINE (2 times), for 11s
	order.place is executed, for 11s
	order.place is not answered, for 11s
	order.place runs in test, for 11s
	order.placed runs in private/default (2 times), for 11s
	order.placed runs in test/default (2 times), for 11s
	order.reminder is being published, for 11s
	order.charged of group test: 1 event not settled, 0 in hand
	order.placed of a private listener: 2 events not settled, 2 in hand
	order.placed of group test: 2 events not settled, 2 in hand
timeline:
	0s  publish order.placed {"ID":"o-1"}
	0s  publish order.placed {"ID":"o-2"}
	0s  publish order.charged {"ID":"o-1"}
	0s    failed in test/default, attempt 1: mail server down
	0s    waits 1h0m0s for test/default
bustest: handlers failed, and no query asked for it:
	order.charged {"ID":"o-1"}: test/default: mail server down
A failure that is meant is asked for with bustest.Failed or DeadLettered, or allowed: see Query.`, anyLine.ReplaceAllString(output, "go:LINE"))
	})
}

// A message may have another type in another service.
func TestTypesOfOneMessage(t *testing.T) {
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		subscribe(t, h.Bus, done[*OrderPlaced])
		publish(t, h.Bus, &OrderPlaced{ID: "o-1"})
		require.Equal(t, "o-1", bustest.Published[OrderPlaced](h).One().Message.ID)
		require.Equal(t, "o-1", bustest.Published[*OrderPlaced](h).One().Message.ID)
		require.Equal(t, "o-1", bustest.Handled[OrderPlaced](h).One().Message.ID)
		require.Equal(t, "o-1", bustest.Handled[theirOrderPlaced](h).One().Message.ID)
		require.Equal(t, "o-1", bustest.Handled[*theirOrderPlaced](h).One().Message.ID)
		bustest.Handled[OrderCharged](h).None()
	})
	inBubble(t, func(t *testing.T) {
		output, failed := pretendHarness(func(t testing.TB, h *bustest.Harness) {
			publish(t, h.Bus, OrderPlaced{ID: "o-1"})
			bustest.Published[wrongOrderPlaced](h).None()
		})
		require.True(t, failed)
		require.Contains(t, output, "order.placed is a bustest_test.OrderPlaced, which does not convert to bustest_test.wrongOrderPlaced: json")
	})
}

type theirOrderPlaced struct {
	ID    string
	Extra int
}

func (theirOrderPlaced) MessageName() string { return "order.placed" }

type wrongOrderPlaced struct{ ID int }

func (wrongOrderPlaced) MessageName() string { return "order.placed" }

// A command that is defined has a name that its type does not know.
func TestDefinedCommands(t *testing.T) {
	type chargeRequest struct{ Amount int }
	charge := bus.Define[chargeRequest, string]("payment.defined")
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		require.NoError(t, charge.Handle(t.Context(), h.Bus, func(_ context.Context, c chargeRequest) (string, error) { return "ok", nil }))
		bustest.On[chargeRequest](h).Nth(2).Fail(errDown)
		_, err := charge.Execute(t.Context(), h.Bus, chargeRequest{Amount: 1})
		require.NoError(t, err)
		_, err = charge.Execute(t.Context(), h.Bus, chargeRequest{Amount: 2})
		require.Error(t, err)
		bustest.Executed[chargeRequest](h).Count(2)
		require.Equal(t, 2, bustest.Failed[chargeRequest](h).One().Message.Amount)
	})
}

// Filters stop events before they are decoded, and the query has them all the same.
func TestFiltered(t *testing.T) {
	large := bus.Filter{Name: "large", Value: true, Pass: func(m *bus.Message) bool { return m.Value.(*OrderPlaced).ID != "small" }}
	mine := bus.Filter{Name: "mine", Pass: func(m *bus.Message) bool { return m.Header.Get("Owner") == "me" }}
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		subscribe(t, h.Bus, done[OrderPlaced], bus.WithGroup("large"), bus.WithFilter(large))
		subscribe(t, h.Bus, done[OrderPlaced], bus.WithGroup("mine"), bus.WithFilter(mine))
		publish(t, h.Bus, OrderPlaced{ID: "small"}, bus.WithHeader("Owner", "me"))
		publish(t, h.Bus, OrderPlaced{ID: "big"})
		publish(t, h.Bus, OrderCharged{})
		require.Equal(t, "small", bustest.Filtered[OrderPlaced](h).InGroup("large").One().Message.ID)
		require.Equal(t, "big", bustest.Filtered[OrderPlaced](h).InGroup("mine").One().Message.ID)
		bustest.Published[OrderPlaced](h).Count(2)
		bustest.Published[OrderCharged](h).None()
		bustest.Filtered[OrderCharged](h).One()
	}, bustest.WithConfig(bus.Config{PublishFilter: bus.Filter{
		Name: "placed", Pass: func(m *bus.Message) bool { return m.Name == "order.placed" },
	}}))
}

// What PublishAsync has queued is on its way.
func TestWaitsForWhatIsQueued(t *testing.T) {
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		subscribe(t, h.Bus, done[OrderPlaced])
		for range 10 {
			_, err := bus.PublishAsync(t.Context(), h.Bus, OrderPlaced{})
			require.NoError(t, err)
		}
		bustest.Handled[OrderPlaced](h).Count(10)
		bustest.On[OrderPlaced](h).FailPublish(errors.New("no space"))
		p, err := bus.PublishAsync(t.Context(), h.Bus, OrderPlaced{})
		require.NoError(t, err)
		bustest.Published[OrderPlaced](h).Count(10)
		require.Error(t, p.Wait(t.Context()))
	}, bustest.WithConfig(bus.Config{Retry: resilience.Retry{MaxRetries: resilience.NoRetries}}))
}
