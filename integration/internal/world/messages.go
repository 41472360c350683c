package world

import (
	"context"
	"errors"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
)

// UserCreated is the event of most tests.
type UserCreated struct {
	ID   UserID
	Note string
}

func (UserCreated) MessageName() string { return "user.created" }

// UserDeleted is an event that validates itself, by its pointer.
type UserDeleted struct{ ID UserID }

func (*UserDeleted) MessageName() string { return "user.deleted" }

func (e *UserDeleted) Validate() error {
	if e.ID == "" {
		return errors.New("id is empty")
	}
	return nil
}

// UserID is the result of CreateUser.
type UserID string

// CreateUser is the command of most tests. It validates itself.
type CreateUser struct {
	bus.Command[UserID]
	Name string
}

func (CreateUser) MessageName() string { return "user.create" }

func (c CreateUser) Validate() error {
	if c.Name == "" {
		return errors.New("name is empty")
	}
	return nil
}

// ErrUserExists is for a bus to register.
var ErrUserExists = errors.New("user exists")

// ErrOops is how handlers fail.
var ErrOops = errors.New("oops")

// Steady waits 1s, 2s, 4s without jitter.
var Steady = resilience.Retry{MaxRetries: 3, Initial: time.Second, Jitter: resilience.NoJitter}

// Answering handles CreateUser by telling who did.
func Answering(who string) func(context.Context, CreateUser) (UserID, error) {
	return func(context.Context, CreateUser) (UserID, error) { return UserID(who), nil }
}

// FindUser is a command with a pointer for a result.
type FindUser struct{ bus.Command[*User] }

// User is the result of FindUser.
type User struct{ Name, Email string }

// ResetAll is a command without a result, named by its pointer.
type ResetAll struct {
	bus.Command[bus.None]
	Reason string
}

func (*ResetAll) MessageName() string { return "reset.all" }

// Create handles CreateUser.
func Create(_ context.Context, c CreateUser) (UserID, error) { return UserID("id-" + c.Name), nil }

// Pong is a command whose name comes from its type.
type Pong struct{ bus.Command[int] }

// DeadLettered is the name of the bus's own event of a dead letter.
const DeadLettered = "jitney.dead_lettered"
