package main

import (
	"context"
	"fmt"
	"log"

	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func Example_memory() {
	fmt.Println(run(context.Background(), memory.New(memory.Config{})))
	// Output:
	// created: user-alice
	// audit:   user-alice is new
	// mailer:  welcome, Alice!
	// <nil>
}

func Example_nats() {
	ctx := context.Background()
	server, err := embedded.Start(embedded.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Shutdown(ctx)
	fmt.Println(openNATS(ctx, nats.Config{Server: server}, run))
	// Output:
	// created: user-alice
	// audit:   user-alice is new
	// mailer:  welcome, Alice!
	// <nil>
}
