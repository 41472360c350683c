package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// What is queued is stored in batches; the handle tells what became of one event.
func ExamplePublishAsync() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{BatchTimeout: 10 * time.Millisecond})
	must(err)
	defer b.Close(ctx)

	p, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"}, bus.WithID("signup-1"))
	must(err)
	fmt.Println(p.ID(), p.Wait(ctx))

	_, err = bus.PublishAsync(ctx, b, CreateUser{Name: "ada"}) // what is wrong with an event is told at once
	fmt.Println(err)
	// Output:
	// signup-1 <nil>
	// publish user.create: bus_test.CreateUser is a command: send it with Execute
}

// An import publishes many events and asks once whether all are stored.
func ExampleBus_Flush() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{BatchSize: 100, BatchTimeout: time.Minute})
	must(err)
	defer b.Close(ctx)

	for i := range 250 {
		_, err := bus.PublishAsync(ctx, b, UserCreated{ID: UserID(fmt.Sprint("user-", i))})
		must(err)
	}
	fmt.Println(b.Flush(ctx)) // does not wait for the minute
	// Output: <nil>
}

func ExamplePending_Done() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	p, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"})
	must(err)
	select {
	case <-p.Done():
		fmt.Println("result:", p.Err())
	case <-time.After(10 * time.Second):
		fmt.Println("no result yet")
	}
	// Output: result: <nil>
}

func ExamplePending_Err() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	first, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"})
	must(err)
	second, err := bus.PublishAsync(ctx, b, UserCreated{ID: "bob"})
	must(err)
	must(b.Flush(ctx))
	fmt.Println(first.Err(), second.Err())
	// Output: <nil> <nil>
}

// Wait bounds the wait, not the event.
func ExamplePending_Wait() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{BatchTimeout: time.Hour})
	must(err)
	defer b.Close(ctx)

	p, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"})
	must(err)
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	fmt.Println(bus.CodeOf(p.Wait(short)))
	must(b.Flush(ctx))
	fmt.Println(p.Wait(ctx))
	// Output:
	// timeout
	// <nil>
}

// The id of an event whose outcome is not known makes it safe to publish again.
func ExamplePending_ID() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	event := UserCreated{ID: "ada"}
	p, err := bus.PublishAsync(ctx, b, event, bus.WithID("signup-1"))
	must(err)
	if err := p.Wait(ctx); err != nil {
		err = bus.Publish(ctx, b, event, bus.WithID(p.ID())) // stored once
		fmt.Println("again:", err)
	}
	fmt.Println(errors.Is(p.Err(), bus.ErrOutOfOrder))
	// Output: false
}
