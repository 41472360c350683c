package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// open connects to the server of -url, or makes a transport in memory, and
// returns a bus on it.
func (p *program) open(ctx context.Context, service string) (*bus.Bus, error) {
	level := slog.LevelWarn
	if p.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(p.ui, &slog.HandlerOptions{Level: level}))
	var tr transport.Transport = memory.New(memory.Config{Logger: log})
	if p.url != "" {
		var err error
		if tr, err = nats.Open(ctx, nats.Config{URL: p.url, Name: "orders", Logger: log}); err != nil {
			return nil, err
		}
	}
	cfg, end, err := p.traced(bus.Config{Service: service, Logger: log})
	if err != nil {
		return nil, errors.Join(err, tr.Close(ctx))
	}
	p.endTrace = end
	return bus.New(tr, cfg)
}

// closeBus closes b at the end of a role, whose result it changes on failure.
func (p *program) closeBus(ctx context.Context, b *bus.Bus, code *status, err *error) {
	if closing := errors.Join(b.Close(context.WithoutCancel(ctx)), p.endTrace()); closing != nil {
		*code, *err = statusFailed, errors.Join(*err, closing)
	}
}

// needURL is for roles that are useless alone.
func (p *program) needURL() error {
	if p.url == "" {
		return usagef("-url is missing; \"orders server\" runs a server to use")
	}
	return p.check()
}

// source opens the file of the command line.
func (p *program) source(args []string) (*source, error) {
	if len(args) > 1 {
		return nil, usagef("one file at a time, and flags come before it; %q is left over", args[1:])
	}
	path := ""
	if len(args) == 1 {
		path = args[0]
	}
	src, err := openSource(path, p.format, p.stdin)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; it is no role either: those are server, worker, report and import", err)
	}
	if err != nil {
		return nil, err
	}
	if p.job != "" {
		src.job = p.job
	}
	return src, nil
}

// all runs worker, report and import in this process.
func (p *program) all(ctx context.Context, args []string) (code status, err error) {
	if err := p.check(); err != nil {
		return statusUsage, err
	}
	src, err := p.source(args)
	if err != nil {
		return statusFailed, err
	}
	defer src.Close()
	b, err := p.open(ctx, "orders")
	if err != nil {
		return statusFailed, err
	}
	defer p.closeBus(ctx, b, &code, &err)
	if err := p.newWorker(b).start(ctx, p.concurrency); err != nil {
		return statusFailed, err
	}

	// The report ends by itself when the import is complete, and is stopped when
	// the import fails.
	reporting, stop := context.WithCancel(ctx)
	defer stop()
	type result struct {
		code status
		err  error
	}
	ready, reported := make(chan struct{}), make(chan result, 1)
	go func() {
		code, err := newReport(b, p.ui, src.job, p.reportSettings).run(reporting, func() { close(ready) })
		reported <- result{code, err}
	}()
	select {
	case <-ready:
	case r := <-reported:
		return r.code, r.err
	}
	code, err = p.newImporter(b, src).run(ctx)
	if err != nil {
		stop()
		<-reported
		return code, err
	}
	r := <-reported
	return r.code, r.err
}

// importFile is the role import.
func (p *program) importFile(ctx context.Context, args []string) (code status, err error) {
	if err := p.needURL(); err != nil {
		return statusUsage, err
	}
	src, err := p.source(args)
	if err != nil {
		return statusFailed, err
	}
	defer src.Close()
	b, err := p.open(ctx, "orders-import")
	if err != nil {
		return statusFailed, err
	}
	defer p.closeBus(ctx, b, &code, &err)
	p.ui.printf("import: job %s", src.job)
	return p.newImporter(b, src).run(ctx)
}

func (p *program) newImporter(b *bus.Bus, src *source) *importer {
	im := &importer{b: b, ui: p.ui, src: src, importSettings: p.importSettings}
	im.job = src.job
	return im
}

// worker is the role worker: it runs until it is told to end.
func (p *program) worker(ctx context.Context, args []string) (status, error) {
	if err := p.needURL(); err != nil {
		return statusUsage, err
	}
	if len(args) > 0 {
		return statusUsage, usagef("unexpected argument %q", args[0])
	}
	b, err := p.open(ctx, "orders")
	if err != nil {
		return statusFailed, err
	}
	w := p.newWorker(b)
	if err := w.start(ctx, p.concurrency); err != nil {
		return statusFailed, errors.Join(err, b.Close(context.WithoutCancel(ctx)), p.endTrace())
	}
	p.ui.printf("worker: %s is ready", w.name)
	if err := errors.Join(b.Run(ctx), p.endTrace()); err != nil {
		return statusFailed, err
	}
	p.ui.printf("worker: %s handled %s rows", w.name, formatCount(int(w.handled.Load())))
	return statusDone, nil
}

func (p *program) newWorker(b *bus.Bus) *worker {
	return &worker{b: b, name: p.name, work: p.work}
}

// report is the role report.
func (p *program) report(ctx context.Context, args []string) (code status, err error) {
	if err := p.needURL(); err != nil {
		return statusUsage, err
	}
	if len(args) > 0 {
		return statusUsage, usagef("unexpected argument %q", args[0])
	}
	b, err := p.open(ctx, "orders-report")
	if err != nil {
		return statusFailed, err
	}
	defer p.closeBus(ctx, b, &code, &err)
	return newReport(b, p.ui, p.job, p.reportSettings).run(ctx, nil)
}

// server is the role server: NATS in this process, until it is told to end.
func (p *program) server(ctx context.Context, args []string) (status, error) {
	if len(args) > 0 {
		return statusUsage, usagef("unexpected argument %q", args[0])
	}
	s, err := embedded.Start(embedded.Config{
		Listen: p.listen, Dir: p.dir,
		Logger: slog.New(slog.NewTextHandler(p.ui, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return statusFailed, err
	}
	p.ui.printf("server: listening on %s", s.ClientURL())
	<-ctx.Done()
	if err := s.Shutdown(context.WithoutCancel(ctx)); err != nil {
		return statusFailed, err
	}
	return statusDone, nil
}
