package nats_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A transport is usually given to bus.New; this is what the bus does with it. With
// Config.URL instead of Config.Server it is one of many that share a cluster.
func ExampleOpen() {
	ctx := context.Background()
	server, err := embedded.Start(embedded.Config{})
	must(err)
	defer server.Shutdown(ctx)
	tr, err := nats.Open(ctx, nats.Config{Server: server})
	must(err)
	defer tr.Close(ctx)

	name := transport.Address{Name: "user.created"}
	reader, err := tr.Subscribe(ctx, transport.Subscription{Name: name.Name, Group: "mailer"})
	must(err)
	must(tr.Publish(ctx, &transport.Message{ID: "1", To: name, Body: []byte(`"alice"`)}))
	d, err := reader.Next(ctx)
	must(err)
	fmt.Println(string(d.Message().Body), d.Deliveries(), d.Ack(ctx))
	// Output: "alice" 1 <nil>
}

// What stands in a deployment: several servers of a cluster, credentials of a file
// that may be rotated, three replicas of all that is kept, and limits.
func ExampleConfig() {
	cfg := nats.Config{
		URL:             "tls://n1.example.com:4222,tls://n2.example.com:4222,tls://n3.example.com:4222",
		CredentialsFile: "/etc/orders/nats.creds",
		Name:            "orders-7f9c",
		Namespace:       "shop",
		ConnectTimeout:  10 * time.Second,

		Replicas:              3,
		Storage:               jetstream.FileStorage,
		MaxAge:                3 * 24 * time.Hour,
		MaxBytes:              20 << 30,
		DedupWindow:           5 * time.Minute,
		DeadLetterMaxAge:      14 * 24 * time.Hour,
		DeadLetterMaxMessages: 100_000,
		DeadLetterMaxBytes:    1 << 30,
		DoubleAck:             true,
	}
	fmt.Println(cfg.Validate())

	cfg.Token = "or a token"
	cfg.Replicas = 7
	fmt.Println(cfg.Validate())
	// Output:
	// <nil>
	// invalid config: set one of CredentialsFile, NKeyFile, User and Token
	// invalid config: Replicas 7: it must be 1 to 5
}

// A connection that the program has anyway. It stays open when the bus closes.
func ExampleConfig_connection() {
	ctx := context.Background()
	server, err := embedded.Start(embedded.Config{})
	must(err)
	defer server.Shutdown(ctx)
	nc, err := natsgo.Connect("", natsgo.InProcessServer(server), natsgo.Name("mine"))
	must(err)
	defer nc.Close()

	tr, err := nats.Open(ctx, nats.Config{Conn: nc})
	must(err)
	must(tr.Close(ctx))
	fmt.Println(nc.Status())
	// Output: CONNECTED
}

// Where operators own the streams, the driver makes and changes nothing.
func ExampleConfig_bindOnly() {
	ctx := context.Background()
	server, err := embedded.Start(embedded.Config{})
	must(err)
	defer server.Shutdown(ctx)

	_, err = nats.Open(ctx, nats.Config{Server: server, BindOnly: true})
	fmt.Println(errors.Is(err, transport.ErrConfig))
	// Output: true
}

// A server that cannot be reached is an error within ConnectTimeout, in which no
// password appears.
func ExampleConfig_unreachable() {
	_, err := nats.Open(context.Background(), nats.Config{
		URL: "nats://orders:secret@127.0.0.1:1", ConnectTimeout: 50 * time.Millisecond,
	})
	fmt.Println(errors.Is(err, transport.ErrUnavailable))
	fmt.Println(err)
	// Output:
	// true
	// connect to nats://xxxxx@127.0.0.1:1: broker unavailable: nats: no servers available for connection
}
