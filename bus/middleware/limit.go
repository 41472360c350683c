package middleware

import (
	"context"
	"fmt"

	"github.com/jitney-bus/jitney/bus"
)

// LimitOption is an option of Limit.
type LimitOption interface{ limit(*limitOptions) }

// BoundOption is an option of Limit and RateLimit.
type BoundOption interface {
	LimitOption
	RateOption
}

type limitOptions struct{ reject bool }

type reject struct{}

func (reject) limit(o *limitOptions) { o.reject = true }
func (reject) rate(o *rateOptions)   { o.reject = true }

// Reject refuses what would have to wait: an error of bus.CodeBusy, and nothing
// further in runs. Think twice before an event is refused on the receiving side:
// each time counts as an attempt, and the last one makes it a dead letter.
func Reject() BoundOption { return reject{} }

// Limit lets at most n messages at a time into the rest of the chain, from all
// that this one middleware wraps: registered for two handlers, the two share it;
// in Config.Receiving, all handlers of the bus do. Others wait for their turn, in
// the order they came, until their context ends; the error is then of bus.CodeBusy,
// or bus.CodeCancelled if a sender gave up. With Reject they do not wait.
//
// A message that waits on the receiving side holds one of its handler's own slots
// (bus.WithConcurrency), and its event is kept alive up to Config.MaxRun. A handler
// inside the limit that executes a command whose handler is inside it too waits for
// itself once n of them do so.
func Limit(n int, opts ...LimitOption) bus.Middleware {
	if n < 1 {
		return invalid("Limit", "%d is not positive", n)
	}
	var o limitOptions
	for _, opt := range opts {
		opt.limit(&o)
	}
	slots := make(chan struct{}, n)
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			if err := o.enter(ctx, m, slots); err != nil {
				return nil, err
			}
			defer func() { <-slots }()
			return next(ctx, m)
		}
	}
}

func (o *limitOptions) enter(ctx context.Context, m *bus.Message, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	default:
	}
	if o.reject {
		return failure(m, bus.CodeBusy, errRefused,
			fmt.Sprintf("all %d slots of the limit of %s are taken; nothing ran", cap(slots), subject(m)))
	}
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return gaveUp(ctx, m, "a slot of the limit")
	}
}
