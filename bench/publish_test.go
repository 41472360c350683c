package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1, 64} {
		run := func(lib string, start func(b *testing.B, url string) func(o Order) error) {
			b.Run(fmt.Sprintf("inflight=%d/lib=%s", n, lib), func(b *testing.B) {
				publish := start(b, server(b))
				inFlight(b, n, func(i int) error { return publish(order(i)) })
			})
		}
		run("nats.go", rawPublish)
		run("watermill", func(b *testing.B, url string) func(o Order) error {
			stream(b, connect(b, url), "wm", "wm")
			p := watermillPublisher(b, url, wmnats.JetStreamConfig{TrackMsgId: true})
			return func(o Order) error {
				m, err := watermillEvent(o)
				if err != nil {
					return err
				}
				return p.Publish("wm", m)
			}
		})
		run("jitney", func(b *testing.B, url string) func(o Order) error {
			m := natsBus(b, url, "orders")
			return func(o Order) error { return bus.Publish(context.Background(), m, OrderPlaced(o)) }
		})
	}
}

func rawPublish(b *testing.B, url string) func(o Order) error {
	js := stream(b, connect(b, url), "RAW", "raw.evt.>")
	return func(o Order) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		body, err := json.Marshal(o)
		if err != nil {
			return err
		}
		_, err = js.Publish(ctx, "raw.evt._.order", body, jetstream.WithMsgID(o.ID))
		return err
	}
}

const batchSize = 500

// BenchmarkPublishBatch stores events in batches of 500; b.N counts events.
func BenchmarkPublishBatch(b *testing.B) {
	run := func(lib string, start func(b *testing.B, url string) func(batch []Order) error) {
		b.Run("lib="+lib, func(b *testing.B) {
			publish := start(b, server(b))
			stop := measured(b)
			for n := 0; n < b.N; n += batchSize {
				batch := make([]Order, min(batchSize, b.N-n))
				for i := range batch {
					batch[i] = order(n + i)
				}
				require.NoError(b, publish(batch))
			}
			stop()
		})
	}
	run("nats.go", func(b *testing.B, url string) func([]Order) error {
		js := stream(b, connect(b, url), "RAW", "raw.evt.>")
		return func(batch []Order) error {
			acks := make([]jetstream.PubAckFuture, len(batch))
			for i, o := range batch {
				body, err := json.Marshal(o)
				if err != nil {
					return err
				}
				if acks[i], err = js.PublishAsync("raw.evt._.order", body, jetstream.WithMsgID(o.ID)); err != nil {
					return err
				}
			}
			for _, ack := range acks {
				select {
				case <-ack.Ok():
				case err := <-ack.Err():
					return err
				}
			}
			return nil
		}
	})
	run("watermill", func(b *testing.B, url string) func([]Order) error {
		stream(b, connect(b, url), "wm", "wm")
		p := watermillPublisher(b, url, wmnats.JetStreamConfig{TrackMsgId: true})
		return func(batch []Order) error {
			all := make([]*message.Message, len(batch))
			for i, o := range batch {
				m, err := watermillEvent(o)
				if err != nil {
					return err
				}
				all[i] = m
			}
			return p.Publish("wm", all...)
		}
	})
	run("jitney", func(b *testing.B, url string) func([]Order) error {
		m := natsBus(b, url, "orders")
		return func(batch []Order) error {
			events := make([]any, len(batch))
			for i, o := range batch {
				events[i] = OrderPlaced(o)
			}
			return bus.PublishAll(context.Background(), m, events...)
		}
	})
}

// Blob is an event of a given size.
type Blob struct{ Data []byte }

func (Blob) MessageName() string { return "blob.made" }

func BenchmarkPayload(b *testing.B) {
	for _, size := range []int{16, 256, 4 << 10, 64 << 10, 256 << 10} {
		blob := Blob{make([]byte, size)}
		run := func(lib string, start func(b *testing.B, url string) func() error) {
			b.Run(fmt.Sprintf("bytes=%d/lib=%s", size, lib), func(b *testing.B) {
				publish := start(b, server(b))
				b.SetBytes(int64(size))
				inFlight(b, 8, func(int) error { return publish() })
			})
		}
		run("nats.go", func(b *testing.B, url string) func() error {
			js := stream(b, connect(b, url), "RAW", "raw.evt.>")
			return func() error {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				body, err := json.Marshal(blob)
				if err != nil {
					return err
				}
				_, err = js.Publish(ctx, "raw.evt._.blob", body, jetstream.WithMsgID(newUUID()))
				return err
			}
		})
		run("watermill", func(b *testing.B, url string) func() error {
			stream(b, connect(b, url), "wm", "wm")
			p := watermillPublisher(b, url, wmnats.JetStreamConfig{TrackMsgId: true})
			return func() error {
				body, err := json.Marshal(blob)
				if err != nil {
					return err
				}
				return p.Publish("wm", message.NewMessage(newUUID(), body))
			}
		})
		run("jitney", func(b *testing.B, url string) func() error {
			m := natsBus(b, url, "orders")
			return func() error { return bus.Publish(context.Background(), m, blob) }
		})
	}
}
