package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// BenchmarkScaleGroups publishes one event to n durable groups over NATS; it is
// over when all have handled all. b.N counts events.
func BenchmarkScaleGroups(b *testing.B) {
	for _, n := range []int{1, 4, 16} {
		run := func(lib string, start func(b *testing.B, url string, n int, done *countdown) func(Order) error) {
			b.Run(fmt.Sprintf("groups=%d/lib=%s", n, lib), func(b *testing.B) {
				done := newCountdown(b.N * n)
				publish := start(b, server(b), n, done)
				stop := measured(b)
				for i := range b.N {
					require.NoError(b, publish(order(i)))
				}
				done.wait(b)
				stop()
			})
		}
		run("nats.go", func(b *testing.B, url string, n int, done *countdown) func(Order) error {
			publish := rawPublish(b, url)
			js, err := jetstream.New(connect(b, url))
			require.NoError(b, err)
			for i := range n {
				cons, err := js.CreateConsumer(b.Context(), "RAW", jetstream.ConsumerConfig{
					Durable: fmt.Sprintf("g%d", i), AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000,
					FilterSubject: "raw.evt.*.order",
				})
				require.NoError(b, err)
				cc, err := cons.Consume(func(m jetstream.Msg) {
					var o Order
					if err := json.Unmarshal(m.Data(), &o); err != nil {
						panic(err)
					}
					_ = m.Ack()
					done.one()
				})
				require.NoError(b, err)
				b.Cleanup(cc.Stop)
			}
			return publish
		})
		run("jitney", func(b *testing.B, url string, n int, done *countdown) func(Order) error {
			m := natsBus(b, url, "orders")
			for i := range n {
				_, err := bus.Subscribe(b.Context(), m, func(context.Context, OrderPlaced) error {
					done.one()
					return nil
				}, bus.WithGroup(fmt.Sprintf("g%d", i)))
				require.NoError(b, err)
			}
			return func(o Order) error { return bus.Publish(context.Background(), m, OrderPlaced(o)) }
		})
	}
}

// BenchmarkScaleSessions executes a command in turn in n sessions that are open,
// each with a handler of its own; one session is what the others are compared to.
func BenchmarkScaleSessions(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("sessions=%d/lib=jitney", n), func(b *testing.B) {
			url := server(b)
			handler, caller := natsBus(b, url, "orders"), natsBus(b, url, "caller")
			for i := range n {
				s, err := handler.Session(b.Context(), fmt.Sprintf("job-%d", i))
				require.NoError(b, err)
				require.NoError(b, bus.Handle(b.Context(), s, handlePlace))
			}
			contexts := make([]context.Context, n)
			for i := range contexts {
				contexts[i] = bus.ContextWithSession(context.Background(), fmt.Sprintf("job-%d", i))
			}
			inFlight(b, 8, func(i int) error {
				_, err := bus.Execute(contexts[i%n], caller, Place{Order: order(i)})
				return err
			})
		})
	}
}

// BenchmarkScaleNames publishes events of n names in turn; nobody listens.
func BenchmarkScaleNames(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("names=%d/lib=nats.go", n), func(b *testing.B) {
			js := stream(b, connect(b, server(b)), "RAW", "raw.evt.>")
			inFlight(b, 8, func(i int) error {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				o := order(i)
				body, err := json.Marshal(o)
				if err != nil {
					return err
				}
				_, err = js.Publish(ctx, fmt.Sprintf("raw.evt._.order%d", i%n), body, jetstream.WithMsgID(o.ID))
				return err
			})
		})
		b.Run(fmt.Sprintf("names=%d/lib=jitney", n), func(b *testing.B) {
			m := natsBus(b, server(b), "orders")
			inFlight(b, 8, func(i int) error {
				return publishNamed(context.Background(), m, i%n, order(i))
			})
		})
	}
}
