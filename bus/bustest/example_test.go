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
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
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

func ExampleStub() {
	example(func(t testing.TB) {
		errDeclined := errors.New("card declined")
		h := bustest.New(t, bustest.WithConfig(bus.Config{Errors: map[string]error{"payment.declined": errDeclined}}))
		charges := bustest.Stub(h, func(_ context.Context, c Charge) (string, error) {
			return "", errDeclined
		})
		_, err := bus.Execute(t.Context(), h.Bus, Charge{Order: "o-1"})
		fmt.Println(errors.Is(err, errDeclined))
		fmt.Println(charges.One().Message.Order)
	})
	// Output:
	// true
	// o-1
}

func ExampleOn() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return nil })
		must(err)
		bustest.On[OrderPlaced](h).Fail(errors.New("mail server down"))
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		fmt.Println("handled on attempt", bustest.Handled[OrderPlaced](h).One().Meta.Attempt)
	})
	// Output: handled on attempt 2
}

func ExampleScript_Each() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return nil })
		must(err)
		isLarge := func(e OrderPlaced) bool { return e.ID == "large" }
		bustest.On[OrderPlaced](h).Where(isLarge).Each().Fail(bus.Permanent(errors.New("too large")))
		for _, id := range []string{"small", "large", "small"} {
			must(bus.Publish(t.Context(), h.Bus, OrderPlaced{ID: id}))
		}
		bustest.Handled[OrderPlaced](h).Count(2)
		fmt.Println(bustest.DeadLettered[OrderPlaced](h).One().Message.ID)
	})
	// Output: large
}

func ExampleScript_Duplicate() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return nil })
		must(err)
		bustest.On[OrderPlaced](h).Duplicate()
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}, bus.WithID("x")))
		for _, run := range bustest.Handled[OrderPlaced](h).Count(2) {
			fmt.Println(run.Meta.ID)
		}
	})
	// Output:
	// x
	// x
}

func ExampleScript_DropAck() {
	example(func(t testing.TB) {
		// In real time the event comes again after a second; in Run at once.
		h := bustest.New(t, bustest.WithConfig(bus.Config{AckWait: time.Second}))
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return nil })
		must(err)
		bustest.On[OrderPlaced](h).DropAck()
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		for _, run := range bustest.Handled[OrderPlaced](h).Count(2) {
			fmt.Println("attempt", run.Meta.Attempt)
		}
	})
	// Output:
	// attempt 1
	// attempt 2
}

func ExampleScript_FailPublish() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		bustest.On[OrderPlaced](h).Nth(2).FailPublish(transport.ErrUnavailable)
		for range 3 {
			err := bus.Publish(t.Context(), h.Bus, OrderPlaced{})
			fmt.Printf("%q\n", bus.CodeOf(err))
		}
	})
	// Output:
	// ""
	// "unavailable"
	// ""
}

func ExampleScript_DelayPublish() {
	example(func(t testing.TB) {
		h := bustest.New(t)
		bustest.On[OrderPlaced](h).DelayPublish(time.Minute)
		err := bus.Publish(t.Context(), h.Bus, OrderPlaced{}, bus.WithTimeout(10*time.Millisecond))
		fmt.Println(bus.CodeOf(err))
	})
	// Output: timeout
}

func ExampleWithConfig() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.WithConfig(bus.Config{
			Service: "shop", Retry: resilience.Retry{MaxRetries: resilience.NoRetries},
		}))
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return errors.New("no") })
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		fmt.Println(bustest.Failed[OrderPlaced](h).One().Meta.Group)
	})
	// Output: shop
}

func ExampleWithDriver() {
	example(func(t testing.TB) {
		// The test has one process, so its transport may be a driver's own.
		h := bustest.New(t, bustest.WithDriver(func(context.Context) (transport.Transport, error) {
			return memory.New(memory.Config{MaxEvents: 1}), nil
		}))
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}, bus.WithDelay(time.Hour)))
		err := bus.Publish(t.Context(), h.Bus, OrderPlaced{}, bus.WithDelay(time.Hour), bus.WithTimeout(time.Millisecond))
		fmt.Println(bus.CodeOf(err))
	})
	// Output: backlog
}

func ExampleWithTimeout() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.WithTimeout(10*time.Second))
		h.Wait()
	})
	// Output:
}

func ExampleAllowFailures() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.AllowFailures())
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { panic("oh") })
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
	})
	// Output:
}

func ExampleAllowPending() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.AllowPending())
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error {
			return bus.RetryAfter(time.Hour, errors.New("later"))
		})
		must(err)
		bustest.Failed[OrderPlaced](h).Allow()
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		// The test ends now, not in an hour.
	})
	// Output:
}

func ExampleWithoutBus() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.WithoutBus())
		fmt.Println(h.Bus == nil)
	})
	// Output: true
}

func ExampleIgnoreGoroutines() {
	example(func(t testing.TB) {
		bustest.New(t, bustest.IgnoreGoroutines("database/sql.(*DB).connectionOpener"))
	})
	// Output:
}
