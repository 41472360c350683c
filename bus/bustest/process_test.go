package bustest_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// powerful is a driver with every power that a bus may ask for.
type powerful struct {
	*memory.Transport
	closed atomic.Int32
}

func (p *powerful) Close(context.Context) error { p.closed.Add(1); return nil }

func (*powerful) Locate(kind string, a transport.Address) []string { return []string{kind, a.Name} }

func (p *powerful) Subscribe(ctx context.Context, s transport.Subscription) (transport.Source[transport.Delivery], error) {
	src, err := p.Transport.Subscribe(ctx, s)
	return upToDate{src}, err
}

type upToDate struct {
	transport.Source[transport.Delivery]
}

var errCatchUp = errors.New("catch up")

func (upToDate) CatchUp(context.Context, int) error { return errCatchUp }

// What a driver can do besides its methods gets through, and what it cannot is not
// made up.
func TestOptionalPowers(t *testing.T) {
	m := memory.New(memory.Config{})
	t.Cleanup(func() { require.NoError(t, m.Close(context.Background())) })
	p := &powerful{Transport: m}
	h := bustest.New(t, bustest.WithoutBus(), bustest.WithDriver(func(context.Context) (transport.Transport, error) { return p, nil }))
	require.Nil(t, h.Bus)
	tr := h.Transport()
	require.True(t, tr.(transport.InProcess).InProcess())
	require.Nil(t, tr.(interface{ Codec() codec.Codec }).Codec())
	require.Equal(t, []string{"event", "a"}, tr.(transport.Locator).Locate("event", transport.Address{Name: "a"}))
	require.Len(t, tr.(transport.HealthChecker).Health(t.Context()), 1)
	src, err := tr.Subscribe(t.Context(), transport.Subscription{Name: "a"})
	require.NoError(t, err)
	require.ErrorIs(t, src.(transport.CatchUpper).CatchUp(t.Context(), 0), errCatchUp)
	require.NoError(t, tr.Close(t.Context()))
	require.EqualValues(t, 1, p.closed.Load())

	plain := bustest.New(t)
	tr = plain.Transport()
	require.False(t, tr.(transport.InProcess).InProcess())
	require.Equal(t, codec.JSON, tr.(interface{ Codec() codec.Codec }).Codec())
	require.Nil(t, tr.(transport.Locator).Locate("event", transport.Address{Name: "a"}))
	require.NoError(t, tr.Close(t.Context()))
}

// A closed process carries nothing any more, also on a driver that others share.
func TestClosedProcess(t *testing.T) {
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		tr, ctx := h.Transport(), t.Context()
		to := transport.Address{Name: "order.placed"}
		group, err := tr.Subscribe(ctx, transport.Subscription{Name: to.Name, Group: "g"})
		require.NoError(t, err)
		served, err := tr.Serve(ctx, transport.Endpoint{Address: to})
		require.NoError(t, err)
		require.NoError(t, tr.Publish(ctx, &transport.Message{To: to, ID: "1"}, &transport.Message{To: to, ID: "2"}))
		d, err := group.Next(ctx)
		require.NoError(t, err)

		waiting := make(chan error, 3)
		go func() { _, _ = group.Next(ctx); waiting <- second(group.Next(ctx)) }()
		go func() { _, err := served.Next(ctx); require.NoError(t, err); _, err = served.Next(ctx); waiting <- err }()
		go func() { _, err := tr.Request(ctx, &transport.Message{To: to}); waiting <- err }()
		time.Sleep(time.Second)
		require.NoError(t, tr.Close(ctx))
		require.NoError(t, tr.Close(ctx))
		for range cap(waiting) {
			require.ErrorIs(t, <-waiting, transport.ErrClosed)
		}
		for _, err := range []error{
			d.Ack(ctx), d.Nak(ctx, 0), d.Extend(ctx), tr.Publish(ctx, &transport.Message{To: to}),
			second(tr.Request(ctx, &transport.Message{To: to})),
			second(tr.Serve(ctx, transport.Endpoint{Address: to})),
			second(tr.Subscribe(ctx, transport.Subscription{Name: to.Name})),
		} {
			require.ErrorIs(t, err, transport.ErrClosed)
		}
		h.Wait() // for nothing: what the process had is nobody's now

		subscribe(t, h.Bus, done[OrderPlaced], bus.WithGroup("g"))
		bustest.Failed[OrderPlaced](h).None()
		bustest.DeadLettered[OrderPlaced](h).Count(2) // they had no body
	})
}

func second[T any](_ T, err error) error { return err }

// Raw messages without an id are counted one by one.
func TestMessagesWithoutIDs(t *testing.T) {
	bustest.Run(t, func(t *testing.T, h *bustest.Harness) {
		tr, ctx := h.Transport(), t.Context()
		defer func() { require.NoError(t, tr.Close(ctx)) }()
		subscribe(t, h.Bus, func(context.Context, OrderPlaced) error { time.Sleep(time.Second); return nil }, bus.WithConcurrency(2))
		for range 5 {
			require.NoError(t, tr.Publish(ctx, &transport.Message{To: transport.Address{Name: "order.placed"}, Body: []byte(`{}`)}))
		}
		bustest.Handled[OrderPlaced](h).Count(5)
	})
}

// A Publish that stores some of its events is waited for as far as it did.
func TestPartlyStored(t *testing.T) {
	m := memory.New(memory.Config{Codec: codec.JSON, MaxEvents: 2})
	t.Cleanup(func() { require.NoError(t, m.Close(context.Background())) })
	h := bustest.New(t, bustest.WithDriver(func(context.Context) (transport.Transport, error) { return &powerful{Transport: m}, nil }))
	hold := make(chan struct{})
	subscribe(t, h.Bus, func(context.Context, OrderPlaced) error { <-hold; return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := bus.PublishAll(ctx, h.Bus, OrderPlaced{ID: "1"}, OrderPlaced{ID: "2"}, OrderPlaced{ID: "3"})
	var pe *bus.PublishError
	require.ErrorAs(t, err, &pe)
	close(hold)
	bustest.Published[OrderPlaced](h).Count(2)
	bustest.Handled[OrderPlaced](h).Count(2)
}
