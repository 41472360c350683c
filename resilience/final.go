package resilience

import (
	"errors"
	"reflect"
)

// IsFinal reports whether no retry mends err: it is one of Final, or the first
// error in its chain that has a method Unrecoverable() bool returns true from it.
// An error whose own methods panic is none of these.
func (r Retry) IsFinal(err error) bool {
	if err == nil {
		return false
	}
	if unrecoverable(err) {
		return true
	}
	for _, target := range r.Final {
		if matches(err, target) {
			return true
		}
	}
	return false
}

func unrecoverable(err error) (ok bool) {
	defer survive(&ok)
	var u interface {
		error
		Unrecoverable() bool
	}
	return errors.As(err, &u) && u.Unrecoverable()
}

func matches(err, target error) (ok bool) {
	defer survive(&ok)
	if m, ok := target.(matcher); ok {
		return m.match(err)
	}
	return errors.Is(err, target)
}

// survive makes a panic of an error's own methods a false.
func survive(ok *bool) {
	if recover() != nil {
		*ok = false
	}
}

// Type stands in Retry.Final for all errors of type E, such as
// Type[*json.SyntaxError]().
func Type[E error]() error { return typed[E]{} }

// matcher is an error that stands for others.
type matcher interface {
	error
	match(err error) bool
	name() string
}

type typed[E error] struct{}

func (typed[E]) match(err error) bool {
	var e E
	return errors.As(err, &e)
}

func (typed[E]) name() string { return reflect.TypeFor[E]().String() }

// Error returns the type's name.
func (t typed[E]) Error() string { return "any " + t.name() }
