package bus_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

func ExampleBus_Health() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)

	h := b.Health(ctx)
	fmt.Println(h.Condition, h.Ready(), h.Err())
	for _, c := range h.Checks {
		fmt.Printf("%s: %s %q\n", c.Name, c.Condition, c.Text)
	}
	must(b.Close(ctx))
	fmt.Println(b.Health(ctx).Condition)
	// Output:
	// ok true <nil>
	// bus: ok ""
	// readers: ok ""
	// lease: ok ""
	// transport: ok "in memory: nothing survives the process"
	// unavailable
}

// A bus that drains is not ready, and works.
func ExampleBus_Drain() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)

	b.Drain()
	fmt.Println(b.Draining(), b.Health(ctx).Err())
	fmt.Println(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	must(b.Close(ctx)) // when those who send work have noticed
	// Output:
	// true health: bus: draining
	// <nil>
}

// Run drains, goes on for a while, and closes.
func ExampleConfig_drainDelay() {
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{DrainDelay: 30 * time.Millisecond})
	must(err)
	ctx, stop := context.WithCancel(context.Background())
	stop() // as a signal does
	began := time.Now()
	fmt.Println(b.Run(ctx), time.Since(began) >= 30*time.Millisecond)
	// Output: <nil> true
}
