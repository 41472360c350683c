package bustest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/transport"
)

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
