package integration_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/bus/bustest/natstest"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
)

// The test kit keeps its promises over both drivers, in real time and in bubbles.

type (
	placeOrder struct {
		bus.Command[string]
		ID string
	}
	reserve struct {
		bus.Command[int]
		Order string
	}
	orderPlaced  struct{ ID string }
	orderCharged struct{ ID string }
)

func (placeOrder) MessageName() string   { return "order.place" }
func (reserve) MessageName() string      { return "stock.reserve" }
func (orderPlaced) MessageName() string  { return "order.placed" }
func (orderCharged) MessageName() string { return "order.charged" }

// kits runs one behaviour of the test kit over both drivers, in real time too.
func kits(t *testing.T, f func(t *testing.T, h *bustest.Harness), opts ...bustest.Option) {
	t.Run("memory", func(t *testing.T) { f(t, bustest.New(t, opts...)) })
	t.Run("nats", func(t *testing.T) { f(t, natstest.New(t, opts...)) })
	t.Run("fake time", func(t *testing.T) { world.EverywhereEncoded(t, f, opts...) })
}

func listen[E any](t *testing.T, s bus.Scope, f func(context.Context, E) error, opts ...bus.SubscribeOption) *bus.Subscription {
	t.Helper()
	sub, err := bus.Subscribe(t.Context(), s, f, opts...)
	require.NoError(t, err)
	return sub
}

func publish(t *testing.T, s bus.Scope, event any, opts ...bus.PublishOption) {
	t.Helper()
	require.NoError(t, bus.Publish(t.Context(), s, event, opts...))
}

func ok[E any](context.Context, E) error { return nil }

// slowly handles an event after a while.
func slowly[E any](d time.Duration) func(context.Context, E) error {
	return func(context.Context, E) error { time.Sleep(d); return nil }
}

// A command that publishes an event, whose listener fails first and then publishes
// another, whose listener executes a command on the first bus again: one assertion
// waits for all of it.
func TestKitWaitsForTheWholeChain(t *testing.T) {
	kits(t, func(t *testing.T, h *bustest.Harness) {
		shop := h.NewBus(bus.Config{Service: "shop", Retry: brisk})
		require.NoError(t, bus.Handle(t.Context(), h.Bus, func(ctx context.Context, c placeOrder) (string, error) {
			return c.ID, bus.Publish(ctx, h.Bus, orderPlaced{ID: c.ID})
		}))
		require.NoError(t, bus.Handle(t.Context(), h.Bus, func(ctx context.Context, c reserve) (int, error) {
			time.Sleep(50 * time.Millisecond)
			return 1, nil
		}))
		listen(t, shop, func(ctx context.Context, e orderPlaced) error {
			if m, _ := bus.MetaFrom(ctx); m.Attempt < 3 {
				return world.ErrOops
			}
			return bus.Publish(ctx, shop, orderCharged(e))
		})
		listen(t, h.Bus, func(ctx context.Context, e orderCharged) error {
			_, err := bus.Execute(ctx, h.Bus, reserve{Order: e.ID})
			return err
		}, bus.WithGroup("stock"))
		go func() { _, _ = bus.Execute(context.Background(), shop, placeOrder{ID: "other"}) }()
		_, err := bus.Execute(t.Context(), shop, placeOrder{ID: "o-1"})
		require.NoError(t, err)

		of := func(c reserve) bool { return c.Order == "o-1" }
		got := bustest.Executed[reserve](h).Where(of).One()
		require.NoError(t, got.Err)
		require.GreaterOrEqual(t, got.Elapsed, 50*time.Millisecond)
		require.NotEmpty(t, got.Meta.CausationID)
		bustest.Failed[orderPlaced](h).Where(func(e orderPlaced) bool { return e.ID == "o-1" }).InGroup("shop").Count(2)
		failed := bustest.Failed[orderPlaced](h).WhereMeta(func(m bus.Meta) bool { return m.Attempt == 2 }).All()
		require.NotEmpty(t, failed)
		require.ErrorIs(t, failed[0].Err, world.ErrOops)
		require.Equal(t, "default", failed[0].Meta.Handler)
		bustest.Failed[orderPlaced](h).Allow()
		done := bustest.Handled[orderCharged](h).ByHandler("default").Where(func(e orderCharged) bool { return e.ID == "o-1" }).One()
		require.Equal(t, "o-1", done.Message.ID)
		require.Equal(t, "stock", done.Meta.Group)
		require.GreaterOrEqual(t, done.Elapsed, 50*time.Millisecond)
		bustest.DeadLettered[orderPlaced](h).None()
		h.Wait()
	})
}

// Waiting for nothing takes no time, whatever is not to be waited for.
func TestKitNegativeAnswersTakeNoTime(t *testing.T) {
	world.EverywhereEncoded(t, func(t *testing.T, h *bustest.Harness) {
		unread := listen(t, h.Bus, ok[orderCharged], bus.WithGroup("unread"))
		listen(t, h.Bus, ok[orderPlaced])
		require.NoError(t, unread.Close(t.Context()))
		publish(t, h.Bus, orderCharged{})
		publish(t, h.Bus, orderPlaced{}, bus.WithDelay(time.Hour))
		began := time.Now()
		bustest.Handled[orderCharged](h).None()
		bustest.Handled[orderPlaced](h).None()
		bustest.Executed[placeOrder](h).None()
		require.Zero(t, time.Since(began))

		h.Advance(59 * time.Minute)
		bustest.Handled[orderPlaced](h).None()
		h.Advance(time.Minute) // the broker may deliver it a little later
		bustest.Handled[orderPlaced](h).One()
		listen(t, h.Bus, ok[orderCharged], bus.WithGroup("unread"))
		bustest.Handled[orderCharged](h).One()
		require.Less(t, time.Since(began), time.Hour+2*time.Second)
	})
}

// A handler goes on when its caller has given up, and so does Wait.
func TestKitWaitsForCommandsThatWereGivenUp(t *testing.T) {
	kits(t, func(t *testing.T, h *bustest.Harness) {
		other := h.NewBus(bus.Config{})
		require.NoError(t, bus.Handle(t.Context(), h.Bus, func(ctx context.Context, c placeOrder) (string, error) {
			time.Sleep(200 * time.Millisecond)
			return "", bus.Publish(context.WithoutCancel(ctx), h.Bus, orderPlaced{ID: c.ID})
		}))
		listen(t, other, slowly[orderPlaced](100*time.Millisecond), bus.WithGroup("slow"))
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			go func() { time.Sleep(time.Millisecond); cancel() }()
			_, err := bus.Execute(ctx, other, placeOrder{})
			require.ErrorIs(t, err, context.Canceled)
		}
		n := len(bustest.Published[orderPlaced](h).All())
		bustest.Handled[orderPlaced](h).Count(n)
		bustest.Handled[placeOrder](h).Count(n)
		require.NotZero(t, n)
	})
}

func TestKitWaitsForRetries(t *testing.T) {
	for what, c := range map[string]struct {
		opts  []bus.SubscribeOption
		delay time.Duration
	}{
		"in the broker":      {nil, 20 * time.Second},
		"as a copy":          {nil, 20 * time.Minute},
		"of a private one":   {[]bus.SubscribeOption{bus.WithPrivate()}, time.Minute},
		"beside another one": {[]bus.SubscribeOption{bus.WithName("fails")}, 10 * time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			world.EverywhereEncoded(t, func(t *testing.T, h *bustest.Harness) {
				began := time.Now()
				listen(t, h.Bus, func(ctx context.Context, _ orderPlaced) error {
					if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
						return bus.RetryAfter(c.delay, world.ErrOops)
					}
					return nil
				}, c.opts...)
				listen(t, h.Bus, ok[orderPlaced], bus.WithName("succeeds"), bus.WithGroup("test"))
				publish(t, h.Bus, orderPlaced{})
				bustest.Handled[orderPlaced](h).Count(2)
				require.GreaterOrEqual(t, time.Since(began), c.delay)
				bustest.Failed[orderPlaced](h).One()
				began = time.Now()
				h.Wait()
				require.Zero(t, time.Since(began))
			})
		})
	}
}

// An event that is published again with its id is stored once, for two minutes.
func TestKitCountsDuplicatesOnce(t *testing.T) {
	world.EverywhereEncoded(t, func(t *testing.T, h *bustest.Harness) {
		listen(t, h.Bus, ok[orderPlaced])
		for range 3 {
			publish(t, h.Bus, orderPlaced{}, bus.WithID("x"))
		}
		bustest.Handled[orderPlaced](h).One()
		bustest.Published[orderPlaced](h).One()
		publish(t, h.Bus, orderPlaced{}, bus.WithID("x"))
		bustest.Handled[orderPlaced](h).One()
		h.Advance(3 * time.Minute)
		publish(t, h.Bus, orderPlaced{}, bus.WithID("x"))
		bustest.Handled[orderPlaced](h).Count(2)
		bustest.Published[orderPlaced](h).Count(2)
	})
}

// A group that begins with what is there has that to handle.
func TestKitWaitsForHistory(t *testing.T) {
	kits(t, func(t *testing.T, h *bustest.Harness) {
		for range 3 {
			publish(t, h.Bus, orderPlaced{})
		}
		h.Wait()
		listen(t, h.Bus, slowly[orderPlaced](10*time.Millisecond), bus.WithStart(bus.All()))
		bustest.Handled[orderPlaced](h).Count(3)
	})
}

// A bus that the code under test makes is one more process, and so is what waits
// for its events.
func TestKitCountsBusesThatJoin(t *testing.T) {
	kits(t, func(t *testing.T, h *bustest.Harness) {
		var order []string
		cfg := h.Join(bus.Config{Service: "joined", Receiving: []bus.Middleware{
			func(next bus.Func) bus.Func {
				return func(ctx context.Context, m *bus.Message) (any, error) {
					order = append(order, m.Name)
					return next(ctx, m)
				}
			},
		}})
		b, err := bus.New(h.Transport(), cfg)
		require.NoError(t, err)
		listen(t, b, func(ctx context.Context, e orderPlaced) error {
			time.Sleep(10 * time.Millisecond)
			return bus.Publish(ctx, b, orderCharged(e))
		})
		h.Go(func() {
			time.Sleep(50 * time.Millisecond)
			_ = bus.Publish(context.Background(), h.Bus, orderPlaced{ID: "o-1"})
		})
		require.Equal(t, "o-1", bustest.Published[orderCharged](h).One().Message.ID)
		require.Equal(t, []string{"order.placed"}, order)
		require.NoError(t, b.Close(t.Context()))

		// Closed, it reads nothing any more.
		publish(t, h.Bus, orderPlaced{ID: "o-2"})
		bustest.Handled[orderPlaced](h).One()
		require.ErrorIs(t, bus.Publish(t.Context(), b, orderPlaced{}), bus.ErrClosed)
	})
}

func TestKitSeesSessions(t *testing.T) {
	kits(t, func(t *testing.T, h *bustest.Harness) {
		other := h.NewBus(bus.Config{Service: "other"})
		listen(t, other, ok[orderPlaced])
		listen(t, other, slowly[orderPlaced](20*time.Millisecond), bus.WithPrivate())
		for _, id := range []string{"import-1", "import-2"} {
			require.NoError(t, bus.InSession(t.Context(), h.Bus, id, func(ctx context.Context, s *bus.Session) error {
				listen(t, s, slowly[orderPlaced](20*time.Millisecond))
				publish(t, s, orderPlaced{ID: id})
				return nil
			}))
		}
		publish(t, h.Bus, orderPlaced{})
		bustest.Handled[orderPlaced](h).Count(3 + 3 + 2)
		bustest.Handled[orderPlaced](h).InSession("import-1").Count(3)
		bustest.Handled[orderPlaced](h).InSession("").Count(2)
		one := bustest.Handled[orderPlaced](h).InSession("import-2").InGroup("other").One()
		require.Equal(t, "import-2", one.Message.ID)
		require.Equal(t, "import-2", one.Meta.Session)
		require.Equal(t, "import-2", bustest.Published[bus.SessionStarted](h).All()[1].Message.ID)
		require.Equal(t, bus.EndClosed, bustest.Published[bus.SessionEnded](h).InSession("import-1").One().Message.Reason)
	})
}

func TestKitStubs(t *testing.T) {
	errStock := errors.New("out of stock")
	kits(t, func(t *testing.T, h *bustest.Harness) {
		stub := bustest.Stub(h, func(_ context.Context, c reserve) (int, error) {
			if c.Order == "large" {
				return 0, errStock
			}
			return 7, nil
		})
		stub.None()
		require.NoError(t, bus.Handle(t.Context(), h.Bus, func(ctx context.Context, c placeOrder) (string, error) {
			_, err := bus.Execute(ctx, h.Bus, reserve{Order: c.ID})
			return c.ID, err
		}))
		bustest.Stub(h, func(context.Context, chargeAll) (bus.None, error) { return bus.None{}, nil })
		_, err := bus.Execute(t.Context(), h.Bus, placeOrder{ID: "small"})
		require.NoError(t, err)
		_, err = bus.Execute(t.Context(), h.Bus, placeOrder{ID: "large"})
		require.ErrorIs(t, err, errStock, "registered")
		require.NoError(t, bus.Do(t.Context(), h.Bus, chargeAll{}))
		stub.Count(2)
		require.ErrorIs(t, stub.Where(func(c reserve) bool { return c.Order == "large" }).One().Err, errStock)
		require.Equal(t, bus.CodeFailed, bus.CodeOf(bustest.Executed[placeOrder](h).All()[1].Err))
	}, bustest.WithConfig(bus.Config{Errors: map[string]error{"stock.out": errStock}}))
}

type chargeAll struct{ bus.Command[bus.None] }

// brisk is a policy for tests in real time.
var brisk = resilience.Retry{MaxRetries: 3, Initial: 10 * time.Millisecond, Jitter: resilience.NoJitter}
