package tour_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

type Charge struct {
	bus.Command[string]
	Amount int
}

func Example_breakers() {
	ctx := context.Background()
	tr := memory.New(memory.Config{})
	page := func(string, resilience.BreakerState) {}

	// doc:breakers
	b, err := bus.New(tr, bus.Config{
		Service:        "shop",
		CommandBreaker: &resilience.Breaker{FailureThreshold: 20},         // for each command that this process sends
		EventBreaker:   &resilience.Breaker{Recovery: 30 * time.Second},   // for each event of each durable group
		OnBreaker:      func(c bus.BreakerChanged) { page(c.Name, c.To) }, // or subscribe to the event
	})
	// doc:end
	check(err)
	defer b.Close(ctx)
	check(bus.Handle(ctx, b, func(context.Context, Charge) (string, error) { return "", errors.New("no connection") }))
	for range 20 {
		_, _ = bus.Execute(ctx, b, Charge{Amount: 1})
	}
	err = pay(ctx, b, Charge{Amount: 1})
	fmt.Println(bus.CodeOf(err))
	for _, s := range b.Breakers() {
		fmt.Println(s.Kind, s.Name, s.State)
	}
	// Output:
	// circuit_open
	// command tour_test.charge open
}

func pay(ctx context.Context, b *bus.Bus, charge Charge) error {
	// doc:open
	var e *bus.Error
	if _, err := bus.Execute(ctx, b, charge); errors.As(err, &e) && e.Code == bus.CodeOpen {
		return fmt.Errorf("the bank is away, try again in %v: %w", e.RetryIn, err)
	}
	// doc:end
	return nil
}
