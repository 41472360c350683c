package integration_test

import (
	"context"
	"errors"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
)

type userCreated struct {
	ID   userID
	Note string
}

func (userCreated) MessageName() string { return "user.created" }

type userDeleted struct{ ID userID }

func (*userDeleted) MessageName() string { return "user.deleted" }

func (e *userDeleted) Validate() error {
	if e.ID == "" {
		return errors.New("id is empty")
	}
	return nil
}

type userID string

type createUser struct {
	bus.Command[userID]
	Name string
}

func (createUser) MessageName() string { return "user.create" }

func (c createUser) Validate() error {
	if c.Name == "" {
		return errors.New("name is empty")
	}
	return nil
}

var errUserExists = errors.New("user exists")

var errOops = errors.New("oops")

// steady waits 1s, 2s, 4s without jitter.
var steady = resilience.Retry{MaxRetries: 3, Initial: time.Second, Jitter: resilience.NoJitter}

// answering handles createUser by telling who did.
func answering(who string) func(context.Context, createUser) (userID, error) {
	return func(context.Context, createUser) (userID, error) { return userID(who), nil }
}

type findUser struct{ bus.Command[*user] }

type user struct{ Name, Email string }

type resetAll struct {
	bus.Command[bus.None]
	Reason string
}

func (*resetAll) MessageName() string { return "reset.all" }

func create(_ context.Context, c createUser) (userID, error) { return userID("id-" + c.Name), nil }

type pong struct{ bus.Command[int] }

const deadLettered = "jitney.dead_lettered"
