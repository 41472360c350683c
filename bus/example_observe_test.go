package bus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Observers are told of each step; here they print it.
func ExampleObserver() {
	ctx := context.Background()
	dead := make(chan struct{})
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "mailer",
		Observers: []bus.Observer{func(r bus.Record) {
			if r.Stage != bus.StageSent { // which is told beside the others
				fmt.Println(r.Stage, r.Kind, r.Name, r.Group, r.Handler, r.Attempt, r.Err)
			}
			if r.Stage == bus.StageDeadLettered {
				close(dead)
			}
		}},
	})
	must(err)
	defer b.Close(ctx)

	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		return bus.Permanent(errors.New("no such mailbox"))
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	<-dead
	// Output:
	// handled event user.created mailer default 1 no such mailbox
	// dead-lettered event user.created mailer default 1 no such mailbox
}

// The metadata and the value are made when they are asked for.
func ExampleRecord() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Observers: []bus.Observer{func(r bus.Record) {
			m := r.Meta()
			fmt.Println(r.Stage, m.Name, m.ID, m.Header("Tenant"), r.Value())
		}},
	})
	must(err)
	defer b.Close(ctx)

	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithID("evt-1"), bus.WithHeader("Tenant", "acme")))
	// Output: sent user.created evt-1 acme {ada}
}
