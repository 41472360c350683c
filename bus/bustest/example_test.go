package bustest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"regexp"
	"testing"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/transport"
)

// example runs f as package testing would, where there is no *testing.T, and prints
// what the test prints, without times.
func example(f func(t testing.TB)) {
	if output, _ := pretend(f); output != "" {
		fmt.Println(times.ReplaceAllString(output, ""))
	}
}

var times = regexp.MustCompile(`(?m)^\t? *[0-9.]+[µm]?s  | \([0-9.]+[µm]?s\)`)

// registerShop is the code under test: it takes orders and has them charged.
func registerShop(ctx context.Context, b *bus.Bus) error {
	err := bus.Handle(ctx, b, func(ctx context.Context, c PlaceOrder) (string, error) {
		return c.ID, bus.Publish(ctx, b, OrderPlaced{ID: c.ID})
	})
	if err != nil {
		return err
	}
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e OrderPlaced) error {
		if _, err := bus.Execute(ctx, b, Charge{Order: e.ID}); err != nil {
			return err
		}
		return bus.Publish(ctx, b, OrderCharged(e))
	})
	return err
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	example(func(t testing.TB) { // func TestOrder(t *testing.T)
		h := bustest.New(t)
		must(registerShop(t.Context(), h.Bus))
		charges := bustest.Stub(h, func(context.Context, Charge) (string, error) { return "r-1", nil })

		id, err := bus.Execute(t.Context(), h.Bus, PlaceOrder{ID: "o-1"})
		must(err)

		fmt.Println("placed", id)
		fmt.Println("charged", charges.One().Message.Order)
		fmt.Println("told of", bustest.Published[OrderCharged](h).One().Message.ID)
		bustest.DeadLettered[OrderPlaced](h).None()
	})
	// Output:
	// placed o-1
	// charged o-1
	// told of o-1
}

func ExampleNew() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		_, err := bus.Subscribe(t.Context(), h.Bus, func(ctx context.Context, e OrderPlaced) error {
			return bus.Permanent(errors.New("no such article"))
		})
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-1"}))
		// The test ends, and fails: nobody expected that.
	})
	// Output:
	// bustest: handlers failed, and no query asked for it:
	// 	order.placed {"ID":"o-1"}: test/default: no such article
	// A failure that is meant is asked for with bustest.Failed or DeadLettered, or allowed: see Query.
	// timeline:
	// publish order.placed {"ID":"o-1"}
	//   failed in test/default, attempt 1: no such article
	//   dead letter of test/default after attempt 1: no such article
}

// A test in a bubble of fake time.
func ExampleRun() {
	_ = func(t *testing.T) { // func TestReminder(t *testing.T)
		bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
			must(registerShop(t.Context(), h.Bus))
			must(bus.Publish(t.Context(), h.Bus, OrderReminder{ID: "o-1"}, bus.WithDelay(24*time.Hour)))
			bustest.Handled[OrderReminder](h).None()
			h.Advance(24 * time.Hour)
			bustest.Handled[OrderReminder](h).One()
		})
	}
}

func ExampleHarness_Advance() {
	_ = func(t *testing.T, h *bustest.Harness) { // in Run
		must(bus.Publish(t.Context(), h.Bus, OrderReminder{}, bus.WithDelay(time.Hour)))
		h.Advance(59 * time.Minute)
		bustest.Handled[OrderReminder](h).None()
		h.Advance(time.Minute)
		bustest.Handled[OrderReminder](h).One()
	}
}

func ExampleHarness_Wait() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		stock := 10
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error {
			stock--
			return nil
		}, bus.WithConcurrency(1))
		must(err)
		for range 3 {
			must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		}
		h.Wait()
		fmt.Println(stock)
	})
	// Output: 7
}

func ExampleHarness_Go() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		h.Go(func() {
			time.Sleep(10 * time.Millisecond)
			_ = bus.Publish(context.Background(), h.Bus, OrderPlaced{ID: "o-1"})
		})
		fmt.Println(bustest.Published[OrderPlaced](h).One().Message.ID)
	})
	// Output: o-1
}

func ExampleHarness_NewBus() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		mailer := h.NewBus(bus.Config{Service: "mailer"})
		_, err := bus.Subscribe(t.Context(), mailer, func(context.Context, OrderPlaced) error { return nil })
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		fmt.Println(bustest.Handled[OrderPlaced](h).One().Meta.Group)
	})
	// Output: mailer
}

func ExampleHarness_Join() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		// What the program's own start-up code does, on the harness's broker.
		b, err := bus.New(h.Transport(), h.Join(bus.Config{Service: "shop"}))
		must(err)
		defer b.Close(t.Context())
		must(registerShop(t.Context(), b))
		bustest.Stub(h, func(context.Context, Charge) (string, error) { return "r-1", nil })
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: "o-1"}))
		fmt.Println(bustest.Published[OrderCharged](h).One().Message.ID)
	})
	// Output: o-1
}

func ExampleHarness_Transport() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		// What another program sends, byte by byte.
		tr := h.Transport()
		defer tr.Close(t.Context())
		_, err := bus.Subscribe(t.Context(), h.Bus, func(_ context.Context, e OrderPlaced) error { return nil })
		must(err)
		must(tr.Publish(t.Context(), &transport.Message{
			To: transport.Address{Name: "order.placed"}, ID: "1", Body: []byte(`{"ID":"o-1"}`),
		}))
		fmt.Println(bustest.Handled[OrderPlaced](h).One().Message.ID)
	})
	// Output: o-1
}

func ExampleHarness_Timeline() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		must(registerShop(t.Context(), h.Bus))
		bustest.Stub(h, func(context.Context, Charge) (string, error) { return "r-1", nil })
		_, err := bus.Execute(t.Context(), h.Bus, PlaceOrder{ID: "o-1"})
		must(err)
		h.Wait()
		fmt.Println(times.ReplaceAllString(h.Timeline(), "")) // they differ from run to run
	})
	// Output:
	// execute order.place {"ID":"o-1"}
	//   handled by test
	//     publish order.placed {"ID":"o-1"}
	//       handled by test/default
	//         execute payment.charge {"Order":"o-1"}
	//           handled by stub
	//         publish order.charged {"ID":"o-1"}
}
