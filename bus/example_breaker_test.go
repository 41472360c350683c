package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Charge is a command whose handler depends on somebody else.
type Charge struct{ bus.Command[bus.None] }

// A command whose handler fails is not sent any more for a while.
func ExampleConfig_commandBreaker() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		CommandBreaker: &resilience.Breaker{FailureThreshold: 3, Recovery: 50 * time.Millisecond, SuccessThreshold: 1},
	})
	must(err)
	defer b.Close(ctx)

	down := true
	must(bus.HandleNone(ctx, b, func(context.Context, Charge) error {
		if down {
			return errors.New("no connection to the bank")
		}
		return nil
	}))
	for range 4 {
		err := bus.Do(ctx, b, Charge{})
		fmt.Println(bus.CodeOf(err))
	}
	err = bus.Do(ctx, b, Charge{})
	var e *bus.Error
	if errors.As(err, &e) && e.Code == bus.CodeOpen {
		down = false
		time.Sleep(e.RetryIn)
	}
	fmt.Println(bus.Do(ctx, b, Charge{}))
	// Output:
	// failed
	// failed
	// failed
	// circuit_open
	// <nil>
}

// A group whose handlers fail pauses: its events wait, and use up no attempts.
func ExampleWithBreaker() {
	ctx := context.Background()
	opened, closed := make(chan struct{}), make(chan struct{})
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "mailer",
		OnBreaker: func(c bus.BreakerChanged) {
			fmt.Println(c.Name, "of", c.Group, "is", c.To)
			switch c.To {
			case resilience.BreakerOpen:
				close(opened)
			case resilience.BreakerClosed:
				close(closed)
			}
		},
	})
	must(err)
	defer b.Close(ctx)

	var up atomic.Bool
	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		if !up.Load() {
			return errors.New("the mail server is away")
		}
		return nil
	}, bus.WithBreaker(resilience.Breaker{
		FailureThreshold: 3, Recovery: 50 * time.Millisecond, SuccessThreshold: 2,
	}), bus.WithConcurrency(1))
	must(err)
	for _, id := range []UserID{"ada", "bob", "eve", "joe", "kim"} {
		must(bus.Publish(ctx, b, UserCreated{ID: id}))
	}
	<-opened
	up.Store(true)
	<-closed
	for _, s := range b.Breakers() {
		fmt.Println(s.Kind, s.Name, s.Group, s.State, "opened", s.Opened, "time")
	}
	// Output:
	// user.created of mailer is open
	// user.created of mailer is half-open
	// user.created of mailer is closed
	// event user.created mailer closed opened 1 time
}

// Whoever has to know that something is out of order listens for it.
func ExampleBreakerChanged() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "shop", CommandBreaker: &resilience.Breaker{FailureThreshold: 1},
	})
	must(err)
	defer b.Close(ctx)

	done := make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, c bus.BreakerChanged) error {
		fmt.Println("alert:", c.Service, c.Kind, c.Name, c.From, "->", c.To)
		close(done)
		return nil
	}, bus.WithGroup("alerts"))
	must(err)
	must(bus.HandleNone(ctx, b, func(context.Context, Charge) error { return errors.New("down") }))
	fmt.Println(bus.CodeOf(bus.Do(ctx, b, Charge{})))
	<-done
	// Output:
	// failed
	// alert: shop command bus_test.charge closed -> open
}
