package bustest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
)

func ExamplePublished() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-1"}))
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-2"}))
		second := func(e OrderPlaced) bool { return e.ID == "o-2" }
		fmt.Println(bustest.Published[OrderPlaced](h).Where(second).One().Message.ID)
		fmt.Println(len(bustest.Published[OrderPlaced](h).All()))
		bustest.Published[OrderCharged](h).None()
	})
	// Output:
	// o-2
	// 2
}

func ExampleHandled() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		for _, group := range []string{"mailer", "stock"} {
			_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return nil }, bus.WithGroup(group))
			must(err)
		}
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-1"}))
		bustest.Handled[OrderPlaced](h).Count(2)
		run := bustest.Handled[OrderPlaced](h).InGroup("stock").One()
		fmt.Println(run.Message.ID, run.Meta.Attempt, run.Err)
	})
	// Output: o-1 1 <nil>
}

func ExampleFailed() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		_, err := bus.Subscribe(t.Context(), h.Bus, func(ctx context.Context, e OrderPlaced) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				return errors.New("mail server down")
			}
			return nil
		})
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		fmt.Println(bustest.Failed[OrderPlaced](h).One().Err) // and the test passes
		fmt.Println("handled on attempt", bustest.Handled[OrderPlaced](h).One().Meta.Attempt)
	})
	// Output:
	// mail server down
	// handled on attempt 2
}

func ExampleDeadLettered() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error {
			return bus.Permanent(errors.New("no such article"))
		})
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-1"}))
		dead := bustest.DeadLettered[OrderPlaced](h).One()
		fmt.Println(dead.Message.ID, dead.Err)
	})
	// Output: o-1 no such article
}

func ExampleFiltered() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		mine := bus.Filter{Name: "mine", Pass: func(m *bus.Message) bool { return m.Header.Get("Owner") == "me" }}
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return nil }, bus.WithFilter(mine))
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-1"}))
		fmt.Println(bustest.Filtered[OrderPlaced](h).One().Message.ID)
	})
	// Output: o-1
}

func ExampleExecuted() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		_, err := bus.Execute(t.Context(), h.Bus, Charge{Order: "o-1"})
		fmt.Println(bus.CodeOf(err))
		call := bustest.Executed[Charge](h).One()
		fmt.Println(call.Message.Order, bus.CodeOf(call.Err))
	})
	// Output:
	// no_handler
	// o-1 no_handler
}

func ExampleQuery_Allow() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		bustest.Failed[OrderPlaced](h).ByHandler("flaky").Allow()
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error {
			return bus.Permanent(errors.New("again"))
		}, bus.WithName("flaky"))
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
	})
	// Output:
}

func ExampleQuery_InSession() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		must(bus.InSession(t.Context(), h.Bus, "import-42", func(ctx context.Context, s *bus.Session) error {
			return bus.Publish(ctx, s, OrderPlaced{ID: "o-1"})
		}))
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-2"}))
		fmt.Println(bustest.Published[OrderPlaced](h).InSession("import-42").One().Message.ID)
		fmt.Println(bustest.Published[OrderPlaced](h).InSession("").One().Message.ID)
	})
	// Output:
	// o-1
	// o-2
}

func ExampleQuery_WhereMeta() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-1"}, bus.WithHeader("Tenant", "acme")))
		ofAcme := func(m bus.Meta) bool { return m.Header("Tenant") == "acme" }
		fmt.Println(bustest.Published[OrderPlaced](h).WhereMeta(ofAcme).One().Message.ID)
	})
	// Output: o-1
}
