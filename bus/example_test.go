package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// The messages of the examples.
type (
	CreateUser struct {
		bus.Command[UserID]
		Name string
	}
	DeleteUser struct {
		bus.Command[bus.None]
		ID UserID
	}
	UserCreated struct{ ID UserID }
	UserID      string
)

func (CreateUser) MessageName() string  { return "user.create" }
func (DeleteUser) MessageName() string  { return "user.delete" }
func (UserCreated) MessageName() string { return "user.created" }

// CloseAccount is checked before it is sent and before it is handled.
type CloseAccount struct {
	bus.Command[bus.None]
	Reason string
}

func (CloseAccount) MessageName() string { return "account.close" }

func (c CloseAccount) Validate() error {
	if c.Reason == "" {
		return errors.New("reason is empty")
	}
	return nil
}

// RenameUser belongs to a package that does not import bus: the method says the
// same as embedding bus.Command[UserID].
type RenameUser struct{ Name string }

func (RenameUser) Returns(UserID) {}

func createUser(_ context.Context, c CreateUser) (UserID, error) {
	return UserID("id-" + c.Name), nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A command and an event, in one process. With another transport the same
// handlers run in many.
func Example() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		id := UserID("id-" + c.Name)
		return id, bus.Publish(ctx, b, UserCreated{ID: id})
	}))
	welcomed := make(chan UserID)
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
		welcomed <- e.ID
		return nil
	})
	must(err)

	id, err := bus.Execute(ctx, b, CreateUser{Name: "ada"})
	must(err)
	fmt.Println("created", id)
	fmt.Println("welcomed", <-welcomed)
	// Output:
	// created id-ada
	// welcomed id-ada
}

// A message that has a Validate method is checked at both ends.
func Example_validate() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(bus.HandleNone(ctx, b, func(_ context.Context, c CloseAccount) error {
		fmt.Println("closed:", c.Reason)
		return nil
	}))
	err = bus.Do(ctx, b, CloseAccount{})
	fmt.Println(bus.CodeOf(err), "-", err)
	must(bus.Do(ctx, b, CloseAccount{Reason: "moved away"}))
	// Output:
	// invalid - execute account.close: invalid: reason is empty
	// closed: moved away
}

// Errors that callers are to recognise are registered at both ends.
func ExampleConfig_errors() {
	ctx := context.Background()
	errUserExists := errors.New("user exists")
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Errors: map[string]error{"user.exists": errUserExists},
	})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, func(_ context.Context, c CreateUser) (UserID, error) {
		return "", fmt.Errorf("create %q: %w", c.Name, errUserExists)
	}))
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"})
	fmt.Println(errors.Is(err, errUserExists), "-", err)
	// Output: true - execute user.create: create "ada": user exists
}

// Middleware of the bus wraps every message that is sent and every handler that
// runs; the first is outermost.
func ExampleMiddleware() {
	ctx := context.Background()
	trace := func(name string) bus.Middleware {
		return func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				fmt.Println(name, m.Kind, m.Name)
				v, err := next(ctx, m)
				fmt.Println(name, "returned", v)
				return v, err
			}
		}
	}
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Sending:   []bus.Middleware{trace("sending")},
		Receiving: []bus.Middleware{trace("receiving")},
	})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, createUser, bus.WithMiddleware(trace("own"))))
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"})
	must(err)
	// Output:
	// sending command user.create
	// receiving command user.create
	// own command user.create
	// own returned id-ada
	// receiving returned id-ada
	// sending returned id-ada
}

func ExampleWithMiddleware() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	admins := func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			if m.Header.Get("Role") != "admin" {
				return nil, &bus.Error{Code: bus.CodePermission, Message: "for admins only"}
			}
			return next(ctx, m)
		}
	}
	must(bus.Handle(ctx, b, createUser, bus.WithMiddleware(admins)))
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"})
	fmt.Println(err)
	id, err := bus.Execute(ctx, b, CreateUser{Name: "ada"}, bus.WithHeader("Role", "admin"))
	fmt.Println(id, err)
	// Output:
	// execute user.create: for admins only
	// id-ada <nil>
}

// What a handler knows of the message that it handles.
func ExampleMetaFrom() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(bus.HandleNone(ctx, b, func(ctx context.Context, _ DeleteUser) error {
		m, _ := bus.MetaFrom(ctx)
		fmt.Println(m.Kind, m.Name, m.ID, "caused by", m.CausationID)
		return nil
	}))
	must(bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		m, _ := bus.MetaFrom(ctx)
		fmt.Println(m.Kind, m.Name, m.ID, "for", m.Header("Tenant"))
		return "", bus.Do(ctx, b, DeleteUser{}, bus.WithID("cmd-2"))
	}))
	_, err = bus.Execute(ctx, b, CreateUser{}, bus.WithID("cmd-1"), bus.WithHeader("Tenant", "t-7"))
	must(err)
	_, inHandler := bus.MetaFrom(ctx)
	fmt.Println("outside a handler:", inHandler)
	// Output:
	// command user.create cmd-1 for t-7
	// command user.delete cmd-2 caused by cmd-1
	// outside a handler: false
}

func ExampleNew() {
	_, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "My Service", MaxRun: -1})
	fmt.Println(bus.CodeOf(err))
	fmt.Println(err)
	// Output:
	// invalid
	// new: Config.Service: "My Service" is not 1 to 64 characters of [a-z0-9_-]
	// Config.MaxRun: -1ns is negative; 0 is the default
}

// Run is what the main function of a service blocks in.
func ExampleBus_Run() {
	ctx, stop := context.WithCancel(context.Background()) // or signal.NotifyContext
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	must(bus.HandleNone(ctx, b, func(context.Context, DeleteUser) error {
		stop()
		return nil
	}))
	must(bus.Do(context.Background(), b, DeleteUser{}))
	fmt.Println(b.Run(ctx))
	fmt.Println(errors.Is(bus.Publish(context.Background(), b, UserCreated{}), bus.ErrClosed))
	// Output:
	// <nil>
	// true
}

// Close waits for handlers that run, whose contexts stay alive meanwhile.
func ExampleBus_Close() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	started, closing := make(chan struct{}), make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, _ UserCreated) error {
		close(started)
		<-closing
		fmt.Println("finishing:", ctx.Err())
		return nil
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{}))
	<-started
	time.AfterFunc(10*time.Millisecond, func() { close(closing) })
	must(b.Close(ctx))
	fmt.Println("closed")
	// Output:
	// finishing: <nil>
	// closed
}

func ExampleNameOf() {
	type OrderPlaced struct{}
	chosen, err := bus.NameOf[UserCreated]()
	fmt.Println(chosen, err)
	derived, err := bus.NameOf[*OrderPlaced]()
	fmt.Println(derived, err)
	_, err = bus.NameOf[string]()
	fmt.Println(bus.CodeOf(err))
	// Output:
	// user.created <nil>
	// bus_test.order_placed <nil>
	// invalid
}

// A handler chooses a code for what its callers are to act on. Codes that tell
// whether anything ran are the bus's own.
func ExampleCodeOf() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(bus.HandleNone(ctx, b, func(_ context.Context, c DeleteUser) error {
		switch c.ID {
		case "":
			return errors.New("no such user")
		case "root":
			return &bus.Error{Code: "user.protected", Message: "root stays"}
		}
		panic("out of paper")
	}))
	for _, id := range []UserID{"", "root", "ada"} {
		fmt.Println(bus.CodeOf(bus.Do(ctx, b, DeleteUser{ID: id})))
	}
	_, err = bus.Execute(ctx, b, CreateUser{})
	fmt.Println(bus.CodeOf(err), "- nothing ran")
	// Output:
	// failed
	// user.protected
	// panic
	// no_handler - nothing ran
}

// The details of an error survive the wire.
func ExampleError() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(bus.HandleNone(ctx, b, func(context.Context, DeleteUser) error {
		return &bus.Error{Code: bus.CodeConflict, Message: "in use", Details: map[string]string{"by": "order-7"}}
	}))
	var e *bus.Error
	if errors.As(bus.Do(ctx, b, DeleteUser{}), &e) {
		fmt.Println(e.Code, e.Name, e.Message, e.Details["by"], "after attempt", e.Attempts)
	}
	// Output: conflict user.delete in use order-7 after attempt 1
}
