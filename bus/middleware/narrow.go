package middleware

import (
	"context"

	"github.com/jitney-bus/jitney/bus"
)

// Commands applies m to commands only. Events go past it.
func Commands(m bus.Middleware) bus.Middleware {
	if m == nil {
		return invalid("Commands", "the middleware is nil")
	}
	return func(next bus.Func) bus.Func { return only(bus.KindCommand, m(next), next) }
}

// Events applies m to events only. Commands go past it.
func Events(m bus.Middleware) bus.Middleware {
	if m == nil {
		return invalid("Events", "the middleware is nil")
	}
	return func(next bus.Func) bus.Func { return only(bus.KindEvent, m(next), next) }
}

// only takes messages of one kind through narrowed, and others past it.
func only(kind bus.Kind, narrowed, next bus.Func) bus.Func {
	return func(ctx context.Context, m *bus.Message) (any, error) {
		if m.Kind == kind {
			return narrowed(ctx, m)
		}
		return next(ctx, m)
	}
}
