package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Charge is a command whose handler depends on somebody else.
type Charge struct{ bus.Command[bus.None] }

// A command whose handler fails is not sent any more for a while.
func ExampleConfig_commandBreaker() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		CommandBreaker: &resilience.Breaker{FailureThreshold: 3, Recovery: 50 * time.Millisecond, SuccessThreshold: 1},
	})
	must(err)
	defer b.Close(ctx)

	down := true
	must(bus.HandleNone(ctx, b, func(context.Context, Charge) error {
		if down {
			return errors.New("no connection to the bank")
		}
		return nil
	}))
	for range 4 {
		err := bus.Do(ctx, b, Charge{})
		fmt.Println(bus.CodeOf(err))
	}
	err = bus.Do(ctx, b, Charge{})
	var e *bus.Error
	if errors.As(err, &e) && e.Code == bus.CodeOpen {
		down = false
		time.Sleep(e.RetryIn)
	}
	fmt.Println(bus.Do(ctx, b, Charge{}))
	// Output:
	// failed
	// failed
	// failed
	// circuit_open
	// <nil>
}

// Whoever has to know that something is out of order listens for it.
func ExampleBreakerChanged() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "shop", CommandBreaker: &resilience.Breaker{FailureThreshold: 1},
	})
	must(err)
	defer b.Close(ctx)

	done := make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, c bus.BreakerChanged) error {
		fmt.Println("alert:", c.Service, c.Kind, c.Name, c.From, "->", c.To)
		close(done)
		return nil
	}, bus.WithGroup("alerts"))
	must(err)
	must(bus.HandleNone(ctx, b, func(context.Context, Charge) error { return errors.New("down") }))
	fmt.Println(bus.CodeOf(bus.Do(ctx, b, Charge{})))
	<-done
	// Output:
	// failed
	// alert: shop command bus_test.charge closed -> open
}
