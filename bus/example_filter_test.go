package bus_test

import (
	"context"
	"fmt"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// A filter of one's own. Package filter has the common ones.
func ExampleWithFilter() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	ours := bus.Filter{
		Name: "tenant acme",
		Pass: func(m *bus.Message) bool { return m.Header.Get("Tenant") == "acme" },
	}
	done := make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
		fmt.Println("welcome,", e.ID)
		close(done)
		return nil
	}, bus.WithFilter(ours))
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "bob"}, bus.WithHeader("Tenant", "other")))
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithHeader("Tenant", "acme")))
	<-done
	// Output: welcome, ada
}

// What the filter of the sending side stops is not stored, and is no error.
func ExampleFilter() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		PublishFilter: bus.Filter{
			Name: "no test users",
			Pass: func(m *bus.Message) bool {
				e, ok := m.Value.(UserCreated)
				return !ok || e.ID != "test"
			},
		},
		Observers: []bus.Observer{func(r bus.Record) { fmt.Println(r.Stage, r.Value()) }},
	})
	must(err)
	defer b.Close(ctx)

	fmt.Println(bus.Publish(ctx, b, UserCreated{ID: "test"}))
	fmt.Println(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	// Output:
	// filtered {test}
	// <nil>
	// sent {ada}
	// <nil>
}
