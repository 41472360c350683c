// Command resilience tells what becomes of failures: a mail server that is flaky, and
// then down; retries that wait, a breaker that opens, dead letters that are redriven.
// It takes ten seconds and runs in memory; -transport nats runs it on a NATS server
// inside the process, -url nats://host:4222 on one elsewhere.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func main() {
	kind := flag.String("transport", "memory", "memory, or nats for a server inside this process")
	url := flag.String("url", "", "use the NATS server at this `URL`, in a namespace of its own")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, *kind, *url); err != nil {
		fmt.Fprintln(os.Stderr, "resilience:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kind, url string) error {
	tr, end, err := open(ctx, kind, url)
	if err != nil {
		return err
	}
	defer end()
	return tell(ctx, tr, os.Stdout)
}

func open(ctx context.Context, kind, url string) (tr transport.Transport, end func(), err error) {
	switch {
	case flag.NArg() > 0:
		return nil, nil, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case url != "":
		namespace := fmt.Sprintf("resilience-%d", os.Getpid()) // nobody else's dead letters
		tr, err := nats.Open(ctx, nats.Config{URL: url, Namespace: namespace})
		return tr, func() {}, err
	case kind == "memory":
		return memory.New(memory.Config{}), func() {}, nil
	case kind == "nats":
		server, err := embedded.Start(embedded.Config{})
		if err != nil {
			return nil, nil, err
		}
		tr, err := nats.Open(ctx, nats.Config{Server: server})
		return tr, func() { _ = server.Shutdown(context.WithoutCancel(ctx)) }, err
	default:
		return nil, nil, fmt.Errorf("-transport %q: use memory or nats", kind)
	}
}
