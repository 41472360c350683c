package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

func ExampleHandle() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, func(_ context.Context, c CreateUser) (UserID, error) {
		return UserID("id-" + c.Name), nil
	}))
	again := bus.Handle(ctx, b, createUser)
	fmt.Println(errors.Is(again, bus.ErrHandled))
	// Output: true
}

// The result has the type that the command names.
func ExampleExecute() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, createUser))

	id, err := bus.Execute(ctx, b, CreateUser{Name: "ada"})
	fmt.Printf("%T %v %v\n", id, id, err)
	// Output: bus_test.UserID id-ada <nil>
}

func ExampleHandleNone() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(bus.HandleNone(ctx, b, func(_ context.Context, c DeleteUser) error {
		fmt.Println("deleted", c.ID)
		return nil
	}))
	must(bus.Do(ctx, b, DeleteUser{ID: "ada"}))
	// Output: deleted ada
}

func ExampleDo() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	fmt.Println(bus.Do(ctx, b, DeleteUser{ID: "ada"}))
	// Output: execute user.delete: nobody handles "user.delete"; is the service that does running?
}

// A generated type cannot embed Command.
func ExampleDefine() {
	type Request struct{ Name string } // such as *pb.CreateUser
	type Response struct{ ID string }
	var createUser = bus.Define[*Request, *Response]("user.create")

	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(createUser.Handle(ctx, b, func(_ context.Context, r *Request) (*Response, error) {
		return &Response{ID: "id-" + r.Name}, nil
	}))
	r, err := createUser.Execute(ctx, b, &Request{Name: "ada"})
	must(err)
	fmt.Println(createUser.Name(), r.ID)
	// Output: user.create id-ada
}

// A package that must not import bus writes the method itself.
func ExampleReturning() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, func(_ context.Context, c RenameUser) (UserID, error) {
		return UserID("id-" + c.Name), nil
	}))
	id, err := bus.Execute(ctx, b, RenameUser{Name: "bob"})
	fmt.Println(id, err)
	// Output: id-bob <nil>
}

func ExampleWithReceipt() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, createUser))

	var r bus.Receipt
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"}, bus.WithID("row-17"), bus.WithReceipt(&r))
	must(err)
	fmt.Println(r.ID, "was handled by", r.Service, r.Elapsed > 0)
	// Output: row-17 was handled by accounts true
}

// A form that is sent twice creates one user.
func ExampleWithIdempotencyKey() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		m, _ := bus.MetaFrom(ctx)
		fmt.Println("creating for", m.IdempotencyKey)
		return UserID("id-" + c.Name), nil
	}))

	for range 2 {
		var r bus.Receipt
		id, err := bus.Execute(ctx, b, CreateUser{Name: "ada"}, bus.WithIdempotencyKey("form-17"), bus.WithReceipt(&r))
		must(err)
		fmt.Println(id, r.Repeated)
	}
	_, err = bus.Execute(ctx, b, CreateUser{Name: "bob"}, bus.WithIdempotencyKey("form-17"))
	fmt.Println(errors.Is(err, bus.ErrIdempotencyConflict))
	// Output:
	// creating for form-17
	// id-ada false
	// id-ada true
	// true
}

// The command may be sent several times, and runs to success once.
func ExampleWithIdempotency() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		m, _ := bus.MetaFrom(ctx)
		fmt.Println("the key is the id:", m.IdempotencyKey == m.ID)
		return UserID("id-" + c.Name), nil
	}))

	id, err := bus.Execute(ctx, b, CreateUser{Name: "ada"}, bus.WithIdempotency())
	fmt.Println(id, err)
	// Output:
	// the key is the id: true
	// id-ada <nil>
}

func ExampleWithTimeout() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(bus.HandleNone(ctx, b, func(ctx context.Context, _ DeleteUser) error {
		<-ctx.Done() // the handler sees its caller's deadline
		return ctx.Err()
	}))
	err = bus.Do(ctx, b, DeleteUser{}, bus.WithTimeout(10*time.Millisecond))
	fmt.Println(bus.CodeOf(err))
	// Output: timeout
}

// One run at a time: the handler needs no lock of its own.
func ExampleWithConcurrency() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	deleted := 0
	must(bus.HandleNone(ctx, b, func(context.Context, DeleteUser) error {
		deleted++
		return nil
	}, bus.WithConcurrency(1)))
	done := make(chan error)
	for range 100 {
		go func() { done <- bus.Do(ctx, b, DeleteUser{}) }()
	}
	for range 100 {
		must(<-done)
	}
	fmt.Println(deleted)
	// Output: 100
}

// A command is retried where it runs, if its author says that it may run twice. The
// caller waits, and is told how often it ran.
func ExampleConfig_commandRetry() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		CommandRetry: &resilience.Retry{MaxRetries: 2, Initial: time.Millisecond},
	})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		m, _ := bus.MetaFrom(ctx)
		if c.Name == "ada" && m.Attempt == 2 {
			return "ada", nil
		}
		return "", errors.New("database is locked")
	}))

	fmt.Println(bus.Execute(ctx, b, CreateUser{Name: "ada"}))
	_, err = bus.Execute(ctx, b, CreateUser{Name: "bob"})
	var e *bus.Error
	errors.As(err, &e)
	fmt.Println(e, "after", e.Attempts, "attempts")
	// Output:
	// ada <nil>
	// execute user.create: database is locked after 3 attempts
}

func ExampleWithRetry_command() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
			return "", errors.New("somebody was faster")
		}
		return "ada", nil
	}, bus.WithRetry(resilience.Retry{Immediate: 3})))
	fmt.Println(bus.Execute(ctx, b, CreateUser{Name: "ada"}))
	// Output: ada <nil>
}

// A command whose handler panics is kept. Here every failure is.
func ExampleWithCapture() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(context.Context, CreateUser) (UserID, error) {
		return "", errors.New("disk is full")
	}, bus.WithCapture(bus.CaptureFailures)))

	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"})
	var e *bus.Error
	errors.As(err, &e)
	d, err := b.DeadLetters().Get(ctx, e.DeadLetter)
	must(err)
	c, err := bus.DeadLetterValue[CreateUser](d)
	must(err)
	fmt.Println(d.Kind, d.Name, "of", c.Name, "-", d.Err)
	// Output: command user.create of ada - disk is full
}

// With CaptureNone a panic leaves nothing behind either.
func ExampleConfig_capture() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Capture: bus.CaptureNone})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(context.Context, CreateUser) (UserID, error) { panic("disk is full") }))

	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"})
	n, _ := b.DeadLetters().Count(ctx, bus.DeadLetterFilter{})
	fmt.Println(err, "-", n, "dead letters")
	// Output: execute user.create: panic: disk is full - 0 dead letters
}
