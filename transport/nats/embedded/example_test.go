package embedded_test

import (
	"context"
	"fmt"

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
