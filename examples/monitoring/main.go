// Command monitoring runs a small shop and serves what there is to see of it:
// /metrics for Prometheus, /livez and /readyz for Kubernetes. Its payment provider
// fails now and then, and for some seconds of every twenty it is down, so that every
// metric moves. It runs until it is interrupted, or for as long as -for says, and
// then prints what the metrics named in the README were.
//
//	go run ./examples/monitoring
//	curl -s localhost:9464/metrics
//
// It runs in memory; -transport nats runs it on a NATS server inside the process,
// -url nats://host:4222 on one elsewhere.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/health"
	"github.com/jitney-bus/jitney/metrics"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func main() {
	kind := flag.String("transport", "memory", "memory, or nats for a server inside this process")
	url := flag.String("url", "", "use the NATS server at this `URL`, in a namespace of its own")
	listen := flag.String("listen", "127.0.0.1:9464", "serve HTTP at this `address`")
	length := flag.Duration("for", 0, "stop after this `time`; 0: when interrupted")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if *length > 0 {
		ctx, cancel = context.WithTimeout(ctx, *length)
		defer cancel()
	}
	if err := run(ctx, *kind, *url, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "monitoring:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kind, url, listen string) error {
	tr, end, err := open(ctx, kind, url)
	if err != nil {
		return err
	}
	defer end()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return errors.Join(err, tr.Close(ctx))
	}
	return serve(ctx, tr, l, os.Stdout)
}

// serve runs the shop until ctx ends, and serves HTTP at l.
func serve(ctx context.Context, tr transport.Transport, l net.Listener, out io.Writer) (err error) {
	b, err := bus.New(tr, bus.Config{
		Service:        "shop",
		Retry:          resilience.Retry{MaxRetries: 2, Initial: 100 * time.Millisecond, Max: time.Second},
		CommandBreaker: &resilience.Breaker{Recovery: 2 * time.Second},
		QueueSize:      queueSize,
		Backpressure:   bus.Backpressure{Strategy: bus.RejectNew},
	})
	if err != nil {
		return err
	}
	// doc:serve
	m, err := metrics.Register(nil, b, metrics.Config{PollInterval: time.Second})
	// doc:end
	if err != nil {
		return errors.Join(err, b.Close(ctx))
	}
	// doc:serve
	defer m.Close()
	probes := health.New(b, health.Config{})
	defer probes.Close()

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.Handle("GET /livez", probes)
	mux.Handle("GET /readyz", probes)
	// doc:end
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Fprintf(out, "serving http://%s/metrics, /livez and /readyz\n", l.Addr())

	seen, err := trade(ctx, b)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = errors.Join(err, b.Close(last), server.Shutdown(last))
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	seen.print(out)
	return err
}

func open(ctx context.Context, kind, url string) (tr transport.Transport, end func(), err error) {
	switch {
	case flag.NArg() > 0:
		return nil, nil, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case url != "":
		namespace := fmt.Sprintf("monitoring-%d", os.Getpid()) // nobody else's dead letters
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
