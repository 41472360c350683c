package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/filter"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/codec/cbor"
	"github.com/jitney-bus/jitney/codec/msgpack"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Every limit of a bus has a default; this is where to set another. What breaks a
// rule is told, all of it at once, before anything begins.
func ExampleConfig() {
	cfg := bus.Config{
		Service:           "orders",
		ExecuteTimeout:    5 * time.Second,
		PublishTimeout:    2 * time.Second,
		IdempotencyWindow: time.Hour,
		AckWait:           time.Minute,
		MaxRun:            5 * time.Minute,
		MaxAckPending:     1_000,
		BatchSize:         500, BatchBytes: 256 << 10, BatchTimeout: 20 * time.Millisecond,
		CloseTimeout: 30 * time.Second,
	}
	fmt.Println(cfg.Validate())

	cfg.Service = "Orders!"
	fmt.Println(cfg.Validate())
	// Output:
	// <nil>
	// Config.Service: "Orders!" is not 1 to 64 characters of [a-z0-9_-]
}

// A bus sends in one encoding and understands several, so that a fleet can change
// from one to another: first everybody understands the new one, then sends it.
func ExampleConfig_codecs() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{Codec: codec.JSON}), bus.Config{
		Codec:  cbor.Codec,
		Codecs: []codec.Codec{msgpack.Codec},
	})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, createUser))
	fmt.Println(bus.Execute(ctx, b, CreateUser{Name: "ada"}))
	// Output: id-ada <nil>
}

// A filter over everything that this bus publishes, and one over all that its
// listeners get.
func ExampleConfig_filters() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service:       "mailer",
		PublishFilter: filter.Not(filter.Names("debug.*")),
		ReceiveFilter: filter.Not(filter.Header("test", "true")),
	})
	must(err)
	defer b.Close(ctx)

	heard := make(chan UserID, 2)
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
		heard <- e.ID
		return nil
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "robot"}, bus.WithHeader("test", "true")))
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(<-heard)
	// Output: ada
}

// A breaker for every event of the service, and for a command of its own.
func ExampleConfig_breakers() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service:        "shop",
		EventBreaker:   &resilience.Breaker{},
		CommandBreaker: &resilience.Breaker{},
		CommandBreakers: map[string]resilience.Breaker{
			"user.create": {FailureThreshold: 100},
			"user.delete": {FailureThreshold: resilience.NeverOpens},
		},
	})
	must(err)
	defer b.Close(ctx)
	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error { return nil })
	must(err)
	for _, s := range b.Breakers() {
		fmt.Println(s.Kind, s.Name, s.Group, s.State)
	}
	// Output: event user.created shop closed
}

// What an error of the bus means for its caller.
func ExampleCode() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}))
	must(bus.HandleNone(ctx, b, func(context.Context, DeleteUser) error { panic("a bug") }))

	say := func(err error) {
		switch bus.CodeOf(err) {
		case bus.CodeNoHandler:
			fmt.Println("nobody is there; nothing ran")
		case bus.CodeBusy, bus.CodeUnavailable, bus.CodeOpen:
			fmt.Println("not now; nothing ran, try later")
		case bus.CodeInvalid, bus.CodeTooLarge:
			fmt.Println("the message is wrong; it will be so again")
		case bus.CodeTimeout, bus.CodeCancelled, bus.CodeUnknown:
			fmt.Println("it may have run; ask again with an idempotency key")
		case bus.CodePanic:
			fmt.Println("a bug of the handler's")
		default:
			fmt.Println(err)
		}
	}
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"}, bus.WithTimeout(time.Millisecond))
	say(err)
	say(bus.Do(ctx, b, DeleteUser{ID: "ada"}))
	say(bus.Do(ctx, b, CloseAccount{}))
	say(bus.Do(ctx, b, CloseAccount{Reason: "moved"}))
	// Output:
	// it may have run; ask again with an idempotency key
	// a bug of the handler's
	// the message is wrong; it will be so again
	// nobody is there; nothing ran
}

// A command belongs to one handler, and over processes to one service.
func Example_oneHandler() {
	ctx := context.Background()
	tr := memory.New(memory.Config{})
	b, err := bus.New(tr, bus.Config{Service: "users"})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, createUser))
	err = bus.Handle(ctx, b, createUser)
	fmt.Println(bus.CodeOf(err))

	other, err := bus.New(tr, bus.Config{Service: "accounts"})
	must(err)
	defer other.Close(ctx)
	err = bus.Handle(ctx, other, createUser)
	fmt.Println(bus.CodeOf(err), errors.Is(err, bus.ErrOwned))
	// Output:
	// conflict
	// conflict true
}
