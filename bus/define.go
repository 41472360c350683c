package bus

import (
	"context"
	"reflect"
)

// Definition is a command declared apart from its type.
type Definition[C, R any] struct {
	name string
}

// Define declares that C is a command with the result R under the given wire
// name, for types that cannot carry a method of ours, such as generated ones:
//
//	var CreateUser = bus.Define[*pb.CreateUser, *pb.User]("user.create")
//
// A definition is a value to keep in a variable; it registers nothing. Handle and
// Execute do, per bus: C and its pointer (or element) are that command from then
// on, and Publish and Subscribe refuse them. A name that breaks the rule of Named,
// and a type that has been used as an event or under another name, are errors of
// CodeInvalid there.
func Define[C, R any](name string) Definition[C, R] {
	return Definition[C, R]{name: name}
}

// Name returns the wire name.
func (d Definition[C, R]) Name() string { return d.name }

// Handle is the package function Handle for the defined command.
func (d Definition[C, R]) Handle(ctx context.Context, s Scope, fn func(context.Context, C) (R, error), opts ...HandleOption) error {
	if fn == nil {
		return errorf(CodeInvalid, "handle", d.name, "handler of %v is nil", reflect.TypeFor[C]())
	}
	h := newCommandHandler(fn)
	h.name = d.name
	return s.scope().handle(ctx, h, opts)
}

// Execute is the package function Execute for the defined command.
func (d Definition[C, R]) Execute(ctx context.Context, s Scope, c C, opts ...ExecuteOption) (R, error) {
	v, err := s.scope().execute(ctx, c, d.name, decodeResult[R], opts)
	if err != nil {
		var zero R
		return zero, err
	}
	return resultOf[R](v)
}
