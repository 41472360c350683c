package middleware

import (
	"context"
	"errors"
	"reflect"

	"github.com/jitney-bus/jitney/bus"
)

// Validate refuses each message that fn returns an error for: nothing further in
// runs, and the error is of bus.CodeInvalid, with the details and the registered
// name of a *bus.Error that fn returns. On the receiving side an event that is
// refused is a dead letter at once, without retries; so fn should depend on the
// message alone, and not fail because something cannot be reached.
//
// Of a batch (bus.SubscribeBatch) fn is asked about each event, and those that are
// refused are taken out of it.
//
// A Validate() error method of a message runs by itself, on both sides, before any
// middleware.
func Validate(fn func(ctx context.Context, m *bus.Message) error) bus.Middleware {
	if fn == nil {
		return invalid("Validate", "the function is nil")
	}
	return func(next bus.Func) bus.Func { return validated(fn, next) }
}

// ValidateType is Validate for the messages that are a T: a message's type, with
// or without a pointer, whichever of the two is sent or handled; or an interface,
// for all that implement it. Other messages pass.
func ValidateType[T any](fn func(ctx context.Context, v T) error) bus.Middleware {
	if fn == nil {
		return invalid("ValidateType", "the function for %v is nil", reflect.TypeFor[T]())
	}
	check := func(ctx context.Context, m *bus.Message) error {
		if v, ok := as[T](m.Value); ok {
			return fn(ctx, v)
		}
		return nil
	}
	return func(next bus.Func) bus.Func { return validated(check, next) }
}

// as returns v as a T, also where one of the two is a pointer to the other.
func as[T any](v any) (t T, ok bool) {
	switch v := v.(type) {
	case T:
		return v, true
	case *T:
		return *v, true
	}
	want, have := reflect.TypeFor[T](), reflect.TypeOf(v)
	if have == nil || want.Kind() != reflect.Pointer || want.Elem() != have {
		return t, false
	}
	p := reflect.New(have)
	p.Elem().Set(reflect.ValueOf(v))
	return p.Interface().(T), true
}

// RequireSession refuses messages that belong to no session, like Validate.
func RequireSession() bus.Middleware {
	check := func(_ context.Context, m *bus.Message) error {
		if m.Session == "" {
			return errors.New("it belongs to no session; send it on a bus.Session, or with bus.ContextWithSession")
		}
		return nil
	}
	return func(next bus.Func) bus.Func { return validated(check, next) }
}

// validated runs next for what fn does not refuse. Each constructor returns a
// function of its own all the same: Bus.Describe names a middleware by it.
func validated(fn func(context.Context, *bus.Message) error, next bus.Func) bus.Func {
	return func(ctx context.Context, m *bus.Message) (any, error) {
		if m.Events != nil {
			validateBatch(ctx, m, fn)
		} else if err := fn(ctx, m); err != nil {
			return nil, unacceptable(ctx, m, err)
		}
		return next(ctx, m)
	}
}

// unacceptable is the error of a message that a validation refused.
func unacceptable(ctx context.Context, m *bus.Message, err error) error {
	f := failure(m, bus.CodeInvalid, err, err.Error())
	var e *bus.Error
	if errors.As(err, &e) {
		f.is.Wire, f.is.Details = e.Wire, e.Details
	}
	if m.Kind == bus.KindEvent && !sending(m) && ctx.Err() == nil {
		return bus.Permanent(f)
	}
	return f
}

// validateBatch asks fn about each event of a batch that is still in it.
func validateBatch(ctx context.Context, m *bus.Message, fn func(context.Context, *bus.Message) error) {
	for i, e := range m.Events {
		if refused, _ := e.Refused(); refused {
			continue
		}
		if err := fn(bus.ItemContext(ctx, i), e); err != nil {
			e.Refuse(unacceptable(ctx, e, err))
		}
	}
}
