package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

func ExampleIsPermanent() {
	err := errors.New("no such account")
	fmt.Println(bus.IsPermanent(err), bus.IsPermanent(fmt.Errorf("charge: %w", bus.Permanent(err))))
	// Output: false true
}

func ExampleRetryDelay() {
	err := errors.New("try later")
	fmt.Println(bus.RetryDelay(err))
	fmt.Println(bus.RetryDelay(fmt.Errorf("charge: %w", bus.RetryAfter(time.Minute, err))))
	// Output:
	// 0s false
	// 1m0s true
}

// A middleware that must clean up, whatever the ones further in do.
func ExampleRecover() {
	ctx := context.Background()
	cleanup := func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (v any, err error) {
			defer func() { fmt.Println("cleaning up after:", err) }()
			defer bus.Recover(&err)
			return next(ctx, m)
		}
	}
	broken := func(bus.Func) bus.Func {
		return func(context.Context, *bus.Message) (any, error) { panic("bug") }
	}
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, createUser, bus.WithMiddleware(cleanup, broken)))
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"})
	fmt.Println(bus.CodeOf(err))
	// Output:
	// cleaning up after: panic: bug
	// panic
}

// A middleware that tells of panics, with the stack that the caller never sees.
func ExamplePanicOf() {
	ctx := context.Background()
	alert := func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			v, err := next(ctx, m)
			if value, stack, ok := bus.PanicOf(err); ok {
				fmt.Println(m.Name, "panicked:", value, strings.Contains(stack, "ExamplePanicOf"))
			}
			return v, err
		}
	}
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Receiving: []bus.Middleware{alert}})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(context.Context, CreateUser) (UserID, error) { panic("bug") }))
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"})
	fmt.Println(err)
	// Output:
	// user.create panicked: bug true
	// execute user.create: panic: bug
}
