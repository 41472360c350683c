package tour_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// doc:command
type RenameUser struct {
	bus.Command[User] // the result
	ID, Name          string
}

type User struct{ ID, Name string }

// doc:end

func (RenameUser) MessageName() string { return "user.rename" }

// DeleteUser is a command without a result.
// doc:none
type DeleteUser struct {
	bus.Command[bus.None]
	ID string
}

// doc:end

func (DeleteUser) MessageName() string { return "user.delete" }

func Example_commands() {
	ctx, b := open()
	defer b.Close(ctx)

	// doc:command

	err := bus.Handle(ctx, b, func(ctx context.Context, c RenameUser) (User, error) {
		return User{ID: c.ID, Name: c.Name}, nil
	})
	// doc:end
	check(err)

	// doc:command

	user, err := bus.Execute(ctx, b, RenameUser{ID: "u1", Name: "Alice"}) // a User
	// doc:end
	check(err)
	fmt.Println(user.Name)

	// doc:none

	err = bus.HandleNone(ctx, b, func(ctx context.Context, c DeleteUser) error { return nil })
	// doc:end
	check(err)
	// doc:none
	err = bus.Do(ctx, b, DeleteUser{ID: "u1"}, bus.WithTimeout(2*time.Second))
	// doc:end
	fmt.Println(err)
	// Output:
	// Alice
	// <nil>
}

func Example_idempotency() {
	ctx, b := open()
	defer b.Close(ctx)
	charges := 0
	check(bus.Handle(ctx, b, func(ctx context.Context, c ChargeCard) (string, error) {
		charges++
		return fmt.Sprint("receipt ", charges), nil
	}))
	for range 2 {
		// doc:idempotency
		receipt, err := bus.Execute(ctx, b, ChargeCard{Order: "17", Cents: 990},
			bus.WithIdempotencyKey("charge order 17")) // the same, whoever repeats it, and whenever
		// doc:end
		check(err)
		fmt.Println(receipt)
	}
	// Output:
	// receipt 1
	// receipt 1
}

// doc:errors
var ErrTaken = errors.New("name is taken")

var cfg = bus.Config{
	Service: "accounts",
	Errors:  map[string]error{"user.name_taken": ErrTaken}, // in both processes
}

// doc:end

func Example_errors() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), cfg)
	check(err)
	defer b.Close(ctx)
	check(bus.Handle(ctx, b, func(ctx context.Context, c RenameUser) (User, error) {
		if strings.EqualFold(c.Name, "root") {
			return User{}, fmt.Errorf("rename %s: %w", c.ID, ErrTaken)
		}
		return User{ID: c.ID, Name: c.Name}, nil
	}))

	// doc:errors

	_, err = bus.Execute(ctx, b, RenameUser{ID: "u1", Name: "root"})
	fmt.Println(err)
	fmt.Println(bus.CodeOf(err), errors.Is(err, ErrTaken))

	err = bus.Do(ctx, b, DeleteUser{ID: "u1"})
	fmt.Println(err)
	fmt.Println(bus.CodeOf(err))
	// doc:end

	// Output:
	// execute user.rename: rename u1: name is taken
	// failed true
	// execute user.delete: nobody handles "user.delete"; is the service that does running?
	// no_handler
}

func Example_define() {
	ctx, b := open()
	defer b.Close(ctx)

	// doc:define
	// Ping and Pong may be generated types that nobody can add a method to.
	var Echo = bus.Define[*Ping, *Pong]("echo.ping")

	err := Echo.Handle(ctx, b, func(ctx context.Context, p *Ping) (*Pong, error) {
		return &Pong{Text: p.Text}, nil
	})
	// doc:end
	check(err)
	// doc:define

	pong, err := Echo.Execute(ctx, b, &Ping{Text: "hello"})
	// doc:end
	check(err)
	fmt.Println(pong.Text)
	// Output: hello
}

type (
	Ping struct{ Text string }
	Pong struct{ Text string }
)

// open returns a bus in memory.
func open() (context.Context, *bus.Bus) {
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	check(err)
	return context.Background(), b
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
