package tour_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

func Example_backpressure() {
	ctx, tr := context.Background(), memory.New(memory.Config{})
	alert := func(bus.QueueStats) {}
	show := func(ctx context.Context, e UserRenamed) error { return nil }

	// doc:backpressure
	b, err := bus.New(tr, bus.Config{
		Service: "accounts",
		Backpressure: bus.Backpressure{
			// or Block (the default), DropOldest, RejectNew: what PublishAsync does when
			// its queue is full
			Strategy:  bus.AdaptiveRateLimit,
			TargetLag: 500 * time.Millisecond, // from publishing to handling
			OnChange:  func(s bus.QueueStats) { alert(s) },
		},
	})
	// doc:end
	check(err)
	defer b.Close(ctx)
	// doc:queue
	_, err = bus.Subscribe(ctx, b, show, bus.WithPrivate(),
		bus.WithQueue(100, bus.DropOldest)) // Meta.Missed tells of the gap
	// doc:end
	check(err)
	fmt.Println(len(b.Stats().Queues), "queues")
	// Output: 3 queues
}
