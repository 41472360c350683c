// Command quickstart is the smallest whole program: one command, one event, two
// listeners. It runs in memory; -transport nats runs it on a NATS server inside
// the process, -url nats://host:4222 on one elsewhere.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// CreateUser is a command: one handler, and a result of the type it names.
type CreateUser struct {
	bus.Command[UserID]
	Name string
}

type UserID string

// UserCreated is an event: a fact for whoever listens.
type UserCreated struct {
	ID   UserID
	Name string
}

func (UserCreated) MessageName() string { return "user.created" }

// tr is memory.New(memory.Config{}) or what nats.Open returns; nothing below
// depends on which.
func run(ctx context.Context, tr transport.Transport) error {
	b, err := bus.New(tr, bus.Config{Service: "accounts"})
	if err != nil {
		return err
	}
	defer b.Close(ctx)

	// The one handler of the command.
	err = bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		id := UserID("user-" + strings.ToLower(c.Name))
		return id, bus.Publish(ctx, b, UserCreated{ID: id, Name: c.Name})
	})
	if err != nil {
		return err
	}

	// Two durable groups. Each gets every event; processes of one group share them.
	audited, welcomed := make(chan string, 1), make(chan string, 1)
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e UserCreated) error {
		audited <- fmt.Sprintf("audit:   %s is new", e.ID)
		return nil
	}) // in the group of its service, "accounts"
	if err != nil {
		return err
	}
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e UserCreated) error {
		welcomed <- fmt.Sprintf("mailer:  welcome, %s!", e.Name)
		return nil // an error here is retried, then becomes a dead letter
	}, bus.WithGroup("mailer"))
	if err != nil {
		return err
	}

	id, err := bus.Execute(ctx, b, CreateUser{Name: "Alice"}) // id is a UserID
	if err != nil {
		return err
	}
	fmt.Printf("created: %s\n%s\n%s\n", id, <-audited, <-welcomed)
	return nil
}

func main() {
	if err := withTransport(run); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}
