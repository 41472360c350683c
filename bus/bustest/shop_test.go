package bustest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// What the tests of this package are about: orders that are placed, charged and
// shipped.

type PlaceOrder struct {
	bus.Command[string]
	ID string
}

func (PlaceOrder) MessageName() string { return "order.place" }

type OrderPlaced struct{ ID string }

func (OrderPlaced) MessageName() string { return "order.placed" }

type Charge struct {
	bus.Command[string]
	Order string
}

func (Charge) MessageName() string { return "payment.charge" }

type OrderCharged struct{ ID string }

func (OrderCharged) MessageName() string { return "order.charged" }

type OrderReminder struct{ ID string }

func (OrderReminder) MessageName() string { return "order.reminder" }

var errDown = errors.New("mail server down")

// subscribe adds a listener.
func subscribe[E any](t testing.TB, s bus.Scope, f func(context.Context, E) error, opts ...bus.SubscribeOption) {
	t.Helper()
	_, err := bus.Subscribe(t.Context(), s, f, opts...)
	require.NoError(t, err)
}

func publish(t testing.TB, s bus.Scope, event any, opts ...bus.PublishOption) {
	t.Helper()
	require.NoError(t, bus.Publish(t.Context(), s, event, opts...))
}

func done[E any](context.Context, E) error { return nil }
