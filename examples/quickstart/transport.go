package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// withTransport calls run with the transport that the command line asks for.
// The bus that run makes on it closes it.
func withTransport(run func(context.Context, transport.Transport) error) error {
	kind := flag.String("transport", "memory", "memory, or nats for a server inside this process")
	url := flag.String("url", "", "use the NATS server at this `URL`, such as nats://127.0.0.1:4222")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case *url != "":
		return openNATS(ctx, nats.Config{URL: *url}, run)
	case *kind == "memory":
		return run(ctx, memory.New(memory.Config{}))
	case *kind == "nats":
		server, err := embedded.Start(embedded.Config{})
		if err != nil {
			return err
		}
		defer server.Shutdown(context.WithoutCancel(ctx))
		return openNATS(ctx, nats.Config{Server: server}, run)
	default:
		return fmt.Errorf("-transport %q: use memory or nats", *kind)
	}
}

func openNATS(ctx context.Context, cfg nats.Config, run func(context.Context, transport.Transport) error) error {
	tr, err := nats.Open(ctx, cfg)
	if err != nil {
		return err
	}
	return run(ctx, tr)
}
