package bus_test

import (
	"context"
	"fmt"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// How far each group is, also one that nobody reads any more.
func ExampleBus_Groups() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)
	sub, err := bus.Subscribe(ctx, b, func(context.Context, UserCreated) error { return nil }, bus.WithGroup("mailer"))
	must(err)
	must(sub.Close(ctx)) // its process ends
	must(bus.Publish(ctx, b, UserCreated{ID: "alice"}))

	groups, err := b.Groups(ctx)
	must(err)
	for _, g := range groups {
		fmt.Printf("%s %s: %d pending, read here: %v\n", g.Name, g.Group, g.Pending, g.Here)
	}
	// Output: user.created mailer: 1 pending, read here: false
}

// A group whose service is gone for good is retired, so that its events can go too.
func ExampleBus_RetireGroup() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)
	sub, err := bus.Subscribe(ctx, b, func(context.Context, UserCreated) error { return nil }, bus.WithGroup("mailer"))
	must(err)

	fmt.Println(bus.CodeOf(b.RetireGroup(ctx, "mailer", "user.created"))) // it is being read
	must(sub.Close(ctx))
	must(b.RetireGroup(ctx, "mailer", "user.created"))
	groups, err := b.Groups(ctx)
	must(err)
	fmt.Println(len(groups), "groups")
	// Output:
	// conflict
	// 0 groups
}
