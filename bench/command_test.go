package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

func BenchmarkCommand(b *testing.B) {
	for _, n := range []int{1, 64} {
		run := func(lib string, start func(b *testing.B, url string) func(context.Context, Order) (Receipt, error)) {
			b.Run(fmt.Sprintf("inflight=%d/lib=%s", n, lib), func(b *testing.B) {
				send := start(b, server(b))
				inFlight(b, n, func(i int) error {
					ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
					defer cancel()
					_, err := send(ctx, order(i))
					return err
				})
			})
		}
		run("nats.go", rawCommands)
		run("watermill", watermillNATSCommands)
		run("jitney", func(b *testing.B, url string) func(context.Context, Order) (Receipt, error) {
			handler, caller := natsBus(b, url, "orders"), natsBus(b, url, "caller")
			require.NoError(b, bus.Handle(b.Context(), handler, handlePlace))
			return func(ctx context.Context, o Order) (Receipt, error) {
				return bus.Execute(ctx, caller, Place{Order: o})
			}
		})
	}
}

func rawCommands(b *testing.B, url string) func(context.Context, Order) (Receipt, error) {
	handler, caller := connect(b, url), connect(b, url)
	_, err := handler.QueueSubscribe("raw.cmd.order", "q", func(m *nats.Msg) {
		var c Place
		if err := json.Unmarshal(m.Data, &c); err != nil {
			panic(err)
		}
		body, err := json.Marshal(receipt(c.Order))
		if err != nil {
			panic(err)
		}
		_ = m.Respond(body)
	})
	require.NoError(b, err)
	require.NoError(b, handler.Flush())
	return func(ctx context.Context, o Order) (r Receipt, err error) {
		body, err := json.Marshal(Place{Order: o})
		if err != nil {
			return r, err
		}
		m, err := caller.RequestWithContext(ctx, "raw.cmd.order", body)
		if err != nil {
			return r, err
		}
		return r, json.Unmarshal(m.Data, &r)
	}
}
