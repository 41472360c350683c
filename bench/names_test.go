package bench

import (
	"context"

	"github.com/jitney-bus/jitney/bus"
)

// A hundred types of event are made of two digits.

type digit interface{ digit() string }

type d0 struct{}

func (d0) digit() string { return "0" }

type d1 struct{}

func (d1) digit() string { return "1" }

type d2 struct{}

func (d2) digit() string { return "2" }

type d3 struct{}

func (d3) digit() string { return "3" }

type d4 struct{}

func (d4) digit() string { return "4" }

type d5 struct{}

func (d5) digit() string { return "5" }

type d6 struct{}

func (d6) digit() string { return "6" }

type d7 struct{}

func (d7) digit() string { return "7" }

type d8 struct{}

func (d8) digit() string { return "8" }

type d9 struct{}

func (d9) digit() string { return "9" }

// Numbered is an event whose name has the number of its tens and ones.
type Numbered[T, O digit] Order

func (Numbered[T, O]) MessageName() string {
	var t T
	var o O
	return "order.n" + t.digit() + o.digit()
}

// publishNamed publishes the event of number n, below 100.
func publishNamed(ctx context.Context, s bus.Scope, n int, o Order) error {
	switch n / 10 {
	case 0:
		return publishTen[d0](ctx, s, n%10, o)
	case 1:
		return publishTen[d1](ctx, s, n%10, o)
	case 2:
		return publishTen[d2](ctx, s, n%10, o)
	case 3:
		return publishTen[d3](ctx, s, n%10, o)
	case 4:
		return publishTen[d4](ctx, s, n%10, o)
	case 5:
		return publishTen[d5](ctx, s, n%10, o)
	case 6:
		return publishTen[d6](ctx, s, n%10, o)
	case 7:
		return publishTen[d7](ctx, s, n%10, o)
	case 8:
		return publishTen[d8](ctx, s, n%10, o)
	default:
		return publishTen[d9](ctx, s, n%10, o)
	}
}

func publishTen[T digit](ctx context.Context, s bus.Scope, n int, o Order) error {
	switch n {
	case 0:
		return bus.Publish(ctx, s, Numbered[T, d0](o))
	case 1:
		return bus.Publish(ctx, s, Numbered[T, d1](o))
	case 2:
		return bus.Publish(ctx, s, Numbered[T, d2](o))
	case 3:
		return bus.Publish(ctx, s, Numbered[T, d3](o))
	case 4:
		return bus.Publish(ctx, s, Numbered[T, d4](o))
	case 5:
		return bus.Publish(ctx, s, Numbered[T, d5](o))
	case 6:
		return bus.Publish(ctx, s, Numbered[T, d6](o))
	case 7:
		return bus.Publish(ctx, s, Numbered[T, d7](o))
	case 8:
		return bus.Publish(ctx, s, Numbered[T, d8](o))
	default:
		return bus.Publish(ctx, s, Numbered[T, d9](o))
	}
}
