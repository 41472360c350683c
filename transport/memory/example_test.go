package memory_test

import (
	"context"
	"fmt"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// A transport is usually given to bus.New; this is what the bus does with it.
func ExampleNew() {
	ctx := context.Background()
	tr := memory.New(memory.Config{MaxEvents: 1_000})
	defer tr.Close(ctx)

	reader, err := tr.Subscribe(ctx, transport.Subscription{Name: "user.created", Group: "mailer"})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = tr.Publish(ctx, &transport.Message{To: transport.Address{Name: "user.created"}, Value: "alice"})
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := reader.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(d.Message().Value, d.Deliveries(), tr.Stats().Events)
	fmt.Println(d.Ack(ctx), tr.Stats().Events)
	// Output:
	// alice 1 1
	// <nil> 0
}
