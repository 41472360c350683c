// Package compile holds what must not compile. The test builds it: each line
// with a "want" comment has one error with that text, the others have none.
package compile

import (
	"context"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
)

type (
	createUser struct {
		bus.Command[userID]
		Name string
	}
	deleteUser struct {
		bus.Command[bus.None]
		ID userID
	}
	userCreated struct{ ID userID }
	userID      string
	request     struct{}
	response    struct{}
)

// right compiles, so that what follows fails for its own reason.
func right(ctx context.Context, b *bus.Bus) {
	_ = bus.Handle(ctx, b, func(context.Context, createUser) (userID, error) { return "", nil }, bus.WithConcurrency(1), bus.WithRetry(resilience.Retry{}))
	_ = bus.HandleNone(ctx, b, func(context.Context, *deleteUser) error { return nil })
	var id userID
	id, _ = bus.Execute(ctx, b, createUser{}, bus.WithID("a"), bus.WithReceipt(nil))
	id, _ = bus.Execute(ctx, b, &createUser{})
	_ = bus.Do(ctx, b, deleteUser{ID: id}, bus.WithTimeout(time.Second))
	_ = bus.Publish(ctx, b, userCreated{}, bus.WithKey("a"), bus.WithHeader("A", "b"))
	_, _ = bus.Subscribe(ctx, b, func(context.Context, userCreated) error { return nil }, bus.WithGroup("a"), bus.WithConcurrency(1))
	_, _ = bus.SubscribeBatch(ctx, b, func(context.Context, []*userCreated) error { return nil }, bus.WithGroup("a"), bus.WithName("b"),
		bus.WithPrivate(), bus.WithStart(bus.All()), bus.WithRetry(resilience.Retry{}), bus.WithConcurrency(1), bus.WithMiddleware(),
		bus.WithFilter(), bus.WithBatchSize(1), bus.WithBatchBytes(1), bus.WithLinger(time.Second))
	_, _ = bus.PublishAsync(ctx, b, userCreated{}, bus.WithKey("a"), bus.WithID("b"), bus.WithTimeout(time.Second))
}

func handlers(ctx context.Context, b *bus.Bus) {
	_ = bus.Handle(ctx, b, func(context.Context, createUser) (int, error) { return 0, nil })        // want: wrong type for method Returns
	_ = bus.Handle(ctx, b, func(context.Context, userCreated) (userID, error) { return "", nil })   // want: userCreated) does not satisfy bus.Returning[R] (missing method Returns)
	_ = bus.Handle(ctx, b, func(context.Context, createUser) error { return nil })                  // want: does not match inferred type func(context.Context, createUser) (R, error)
	_ = bus.Handle(ctx, b, func(createUser) (userID, error) { return "", nil })                     // want: does not match func(context.Context, C) (R, error)
	_ = bus.HandleNone(ctx, b, func(context.Context, createUser) error { return nil })              // want: createUser) does not satisfy bus.Returning[bus.None]
	_, _ = bus.Subscribe(ctx, b, func(context.Context, userCreated) (int, error) { return 0, nil }) // want: does not match inferred type func(context.Context, userCreated) error
	_, _ = bus.Subscribe(ctx, b, func(userCreated) error { return nil })                            // want: does not match func(context.Context, E) error
	_, _ = bus.SubscribeBatch(ctx, b, func(context.Context, userCreated) error { return nil })      // want: does not match func(context.Context, []E) error
}

func calls(ctx context.Context, b *bus.Bus) {
	_, _ = bus.Execute(ctx, b, userCreated{}) // want: userCreated) does not satisfy bus.Returning[R] (missing method Returns)
	_, _ = bus.Execute(ctx, b, "text")        // want: cannot infer R
	_ = bus.Do(ctx, b, createUser{})          // want: createUser) does not satisfy bus.Returning[bus.None]
	var n int
	n, _ = bus.Execute(ctx, b, createUser{}) // want: of string type userID) as int value
	_ = n
	_, _ = bus.Execute(ctx, 1, createUser{})          // want: int does not implement bus.Scope
	_, _ = bus.Execute(ctx, stranger{}, createUser{}) // want: unexported method scope
}

type stranger struct{}

func (stranger) scope() {}

func defined(ctx context.Context, b *bus.Bus) {
	d := bus.Define[*request, *response]("a.b")
	_ = d.Handle(ctx, b, func(context.Context, *request) (*request, error) { return nil, nil }) // want: as func(context.Context, *request) (*response, error) value
	_, _ = d.Execute(ctx, b, &response{})                                                       // want: of type *response) as *request value
}

func options(ctx context.Context, b *bus.Bus) {
	create := func(context.Context, createUser) (userID, error) { return "", nil }
	created := func(context.Context, userCreated) error { return nil }
	batch := func(context.Context, []userCreated) error { return nil }
	_, _ = bus.Execute(ctx, b, createUser{}, bus.WithKey("a"))           // want: does not implement bus.ExecuteOption
	_, _ = bus.Execute(ctx, b, createUser{}, bus.WithConcurrency(1))     // want: does not implement bus.ExecuteOption
	_ = bus.Do(ctx, b, deleteUser{}, bus.WithDelay(time.Second))         // want: does not implement bus.ExecuteOption
	_ = bus.Do(ctx, b, deleteUser{}, bus.WithAt(time.Time{}))            // want: does not implement bus.ExecuteOption
	_ = bus.Publish(ctx, b, userCreated{}, bus.WithReceipt(nil))         // want: does not implement bus.PublishOption
	_ = bus.Publish(ctx, b, userCreated{}, bus.WithGroup("a"))           // want: does not implement bus.PublishOption
	_ = bus.Handle(ctx, b, create, bus.WithGroup("a"))                   // want: does not implement bus.HandleOption
	_ = bus.Handle(ctx, b, create, bus.WithID("a"))                      // want: does not implement bus.HandleOption
	_ = bus.Handle(ctx, b, create, bus.WithBatchSize(1))                 // want: does not implement bus.HandleOption
	_, _ = bus.Subscribe(ctx, b, created, bus.WithBatchSize(1))          // want: does not implement bus.SubscribeOption
	_, _ = bus.Subscribe(ctx, b, created, bus.WithLinger(time.Second))   // want: does not implement bus.SubscribeOption
	_, _ = bus.SubscribeBatch(ctx, b, batch, bus.WithPriority(1))        // want: does not implement bus.BatchOption
	_, _ = bus.SubscribeBatch(ctx, b, batch, bus.WithKey("a"))           // want: does not implement bus.BatchOption
	_, _ = bus.PublishAsync(ctx, b, userCreated{}, bus.WithReceipt(nil)) // want: does not implement bus.PublishOption
	_, _ = bus.Subscribe(ctx, b, created, bus.WithReceipt(nil))          // want: does not implement bus.SubscribeOption
	_, _ = bus.Subscribe(ctx, b, created, bus.WithTimeout(time.Second))  // want: does not implement bus.SubscribeOption
	_, _ = bus.Subscribe(ctx, b, created, bus.WithStart(time.Time{}))    // want: as bus.Start value
}
