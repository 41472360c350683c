package bus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// What each handler has done, for a page that people look at or a gauge.
func ExampleBus_Stats() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, func(_ context.Context, c CreateUser) (UserID, error) {
		if c.Name == "root" {
			return "", errors.New("name is reserved")
		}
		return UserID("user-" + c.Name), nil
	}))
	for _, name := range []string{"alice", "root", "root"} {
		_, _ = bus.Execute(ctx, b, CreateUser{Name: name})
	}

	s := b.Stats()
	fmt.Println("sent", s.Totals.CommandsSent, "processed", s.Totals.CommandsProcessed, "failed", s.Totals.CommandsFailed)
	for _, h := range s.Handlers {
		fmt.Println(h.Name, h.Executions, "runs,", h.ConsecutiveFailures, "failures in a row:", h.LastError)
	}
	// Output:
	// sent 3 processed 1 failed 2
	// user.create 3 runs, 2 failures in a row: name is reserved
}

// What the handlers of one session have done, as long as it is open.
func ExampleSession_Stats() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)
	s, err := b.Session(ctx, "import-42")
	must(err)
	defer s.Close(ctx)

	must(bus.Handle(ctx, s, func(_ context.Context, c CreateUser) (UserID, error) { return UserID("user-" + c.Name), nil }))
	_, err = bus.Execute(ctx, s, CreateUser{Name: "alice"})
	must(err)

	for _, h := range s.Stats().Handlers {
		fmt.Println(h.Kind, h.Name, "ran", h.Executions, "times")
	}
	// Output: command user.create ran 1 times
}
