package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// BenchmarkLocalCommand stays in one process.
func BenchmarkLocalCommand(b *testing.B) {
	run := func(lib string, start func(b *testing.B) func(context.Context, Order) (Receipt, error)) {
		b.Run("lib="+lib, func(b *testing.B) {
			send := start(b)
			o := order(1)
			ctx := context.Background()
			stop := measured(b)
			for range b.N {
				if _, err := send(ctx, o); err != nil {
					b.Fatal(err)
				}
			}
			stop()
		})
	}
	run("go", func(b *testing.B) func(context.Context, Order) (Receipt, error) {
		// A goroutine and a channel: what one would write by hand.
		return func(ctx context.Context, o Order) (Receipt, error) {
			c := make(chan Receipt, 1)
			go func() { c <- receipt(o) }()
			return <-c, nil
		}
	})
	run("watermill", func(b *testing.B) func(context.Context, Order) (Receipt, error) {
		ch := watermillChannel()
		send := watermillCommands(b, ch, func() message.Subscriber { return ch })
		return func(ctx context.Context, o Order) (Receipt, error) {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			return send(ctx, o)
		}
	})
	run("jitney", func(b *testing.B) func(context.Context, Order) (Receipt, error) {
		m := memoryBus(b)
		require.NoError(b, bus.Handle(b.Context(), m, handlePlace))
		return func(ctx context.Context, o Order) (Receipt, error) {
			return bus.Execute(ctx, m, Place{Order: o})
		}
	})
}

// BenchmarkLocalEvent hands an event to n listeners of one process, each of which
// sees all; it is over when all have seen all.
func BenchmarkLocalEvent(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		run := func(lib string, start func(b *testing.B, n int, done *countdown) func(Order) error) {
			b.Run(fmt.Sprintf("listeners=%d/lib=%s", n, lib), func(b *testing.B) {
				done := newCountdown(b.N * n)
				publish := start(b, n, done)
				o := order(1)
				stop := measured(b)
				for range b.N {
					if err := publish(o); err != nil {
						b.Fatal(err)
					}
				}
				done.wait(b)
				stop()
			})
		}
		run("go", func(b *testing.B, n int, done *countdown) func(Order) error {
			// A channel for each listener: no errors, no retries, no bound on a wait.
			all := make([]chan Order, n)
			for i := range all {
				c := make(chan Order, 1000)
				all[i] = c
				go func() {
					for range c {
						done.one()
					}
				}()
				b.Cleanup(func() { close(c) })
			}
			return func(o Order) error {
				for _, c := range all {
					c <- o
				}
				return nil
			}
		})
		run("watermill", func(b *testing.B, n int, done *countdown) func(Order) error {
			ch := watermillChannel()
			router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
			require.NoError(b, err)
			for i := range n {
				router.AddConsumerHandler(fmt.Sprintf("listener-%d", i), "events", ch, func(m *message.Message) error {
					done.one()
					return nil
				})
			}
			runRouter(b, router)
			return func(o Order) error {
				m, err := watermillEvent(o)
				if err != nil {
					return err
				}
				return ch.Publish("events", m)
			}
		})
		run("jitney", func(b *testing.B, n int, done *countdown) func(Order) error {
			m := memoryBus(b)
			for i := range n {
				_, err := bus.Subscribe(b.Context(), m, func(context.Context, OrderPlaced) error {
					done.one()
					return nil
				}, bus.WithGroup(fmt.Sprintf("g%d", i)))
				require.NoError(b, err)
			}
			ctx := context.Background()
			return func(o Order) error { return bus.Publish(ctx, m, OrderPlaced(o)) }
		})
	}
}
