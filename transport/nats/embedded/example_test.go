package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// A server in memory, reached without a port. Set Dir and SyncAlways to keep what
// is stored, and Listen to let other processes of this machine connect.
func ExampleStart() {
	ctx := context.Background()
	s, err := embedded.Start(embedded.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Shutdown(ctx)

	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	fmt.Println(nc.ConnectedServerName(), nc.Status())
	// Output: jitney CONNECTED
}

// A server that keeps what it stores, for other processes of this machine too. Its
// folder belongs to one server at a time.
func ExampleConfig() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	cfg := embedded.Config{
		Name: "node", Listen: "127.0.0.1:0", Dir: dir, SyncAlways: true,
		MaxStore: 1 << 30, MaxPayload: 2 << 20, StartTimeout: 10 * time.Second,
	}
	s, err := embedded.Start(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Shutdown(ctx)
	fmt.Println(strings.HasPrefix(s.ClientURL(), "nats://127.0.0.1:"))
	fmt.Println(s.Durable()) // it keeps, and writes to the disk before it says so

	_, err = embedded.Start(cfg)
	var locked *embedded.LockedError
	fmt.Println(errors.As(err, &locked))
	// Output:
	// true
	// true true
	// true
}
