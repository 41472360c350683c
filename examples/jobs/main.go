// Command jobs imports payments as a job: what belongs to the job alone is in a
// session, and ends with it. It runs in memory; -transport nats runs it on a NATS
// server inside the process.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func main() {
	kind := flag.String("transport", "memory", "memory, or nats for a server inside this process")
	rows := flag.Int("rows", 250, "how many payments to import")
	verbose := flag.Bool("v", false, "log each message")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, *kind, *rows, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "jobs:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kind string, rows int, verbose bool) error {
	tr, end, err := open(ctx, kind)
	if err != nil {
		return err
	}
	defer end()
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	a := &app{log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), bank: book}
	b, err := bus.New(tr, bus.Config{Service: "payments", Logger: a.log})
	if err != nil {
		return err
	}
	defer b.Close(context.WithoutCancel(ctx))
	if err := a.register(ctx, b); err != nil {
		return err
	}
	fmt.Print(b.Describe(), "\n")
	err = a.importAll(ctx, b, "import-42", payments(rows), func(done int) {
		if done%100 == 0 || done == rows {
			fmt.Printf("import-42: %d of %d\n", done, rows)
		}
	})
	if err != nil {
		return err
	}
	stored, batches, reviews := a.totals()
	for ; stored < rows && ctx.Err() == nil; stored, batches, reviews = a.totals() {
		time.Sleep(10 * time.Millisecond) // the groups are not of the job: they go on when it has ended
	}
	fmt.Printf("%d payments stored in %d batches, %d reviewed\n", stored, batches, reviews)
	return nil
}

// book stands for the bank, which takes everything.
func book(context.Context, ImportPayment) error { return nil }

// payments makes rows to import; each hundredth is large.
func payments(n int) []ImportPayment {
	all := make([]ImportPayment, n)
	for i := range all {
		all[i] = ImportPayment{Row: i + 1, Payee: fmt.Sprintf("payee-%d", i%7), Cents: 1000 + i}
		if i%100 == 99 {
			all[i].Cents = 5_000_00
		}
	}
	return all
}

func open(ctx context.Context, kind string) (tr transport.Transport, end func(), err error) {
	switch kind {
	case "memory":
		return memory.New(memory.Config{}), func() {}, nil
	case "nats":
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
