package bus

import (
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"

	"github.com/jitney-bus/jitney/resilience"
)

// maxErrorTree is how many errors one may wrap; more is taken for a circle.
const maxErrorTree = 10_000

// sane returns err if the bus can work with it. An error is code of the user's:
// Error, Unwrap, Is and As may panic, as they do on a nil pointer of a type of
// errors. Such an error is replaced by a panic that says so.
//
// Whoever gets an error from user code passes it through here once; after that
// it is used without care.
func sane(err error) error {
	if err == nil {
		return nil
	}
	return probe(err)
}

// probe does with err what the bus may do with it later.
func probe(err error) (out error) {
	defer func() {
		if r := recover(); r != nil {
			out = insane(err, r)
		}
	}()
	if countErrors(err, maxErrorTree) == 0 {
		panic("it wraps itself")
	}
	_ = err.Error()
	_ = CodeOf(err)
	_ = judge(err, 0, &resilience.Retry{}, 0, nil, false)
	_ = stops(err)
	var own *Error
	if errors.As(err, &own) {
		_ = own.text()
	}
	var p *panicError
	if errors.As(err, &p) {
		_ = p.stack
	}
	return err
}

// countErrors takes the errors in err's tree from budget and returns what is
// left, at least 0.
func countErrors(err error, budget int) int {
	for err != nil && budget > 0 {
		budget--
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, inner := range e.Unwrap() {
				budget = countErrors(inner, budget)
			}
			return budget
		default:
			return budget
		}
	}
	return budget
}

// insane is what takes the place of an error that panics with r. Nothing of the
// user's is left in it.
func insane(err error, r any) error {
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		return &panicError{value: fmt.Sprintf("error is a nil %T; return nil itself for success", err), stack: string(debug.Stack())}
	}
	if p, ok := err.(*panicError); ok { // where it came from says more
		return &panicError{value: fmt.Sprintf("value of type %T that cannot be used: %s", p.value, textOf(r)), stack: p.stack}
	}
	return &panicError{value: fmt.Sprintf("error of type %T cannot be used: %s", err, textOf(r)), stack: string(debug.Stack())}
}

// textOf is a panic's value as text. fmt survives a method that panics, unless
// it panics with a value whose own method panics.
func textOf(r any) (s string) {
	defer func() {
		if recover() != nil {
			s = fmt.Sprintf("a %T", r)
		}
	}()
	return fmt.Sprint(r)
}
