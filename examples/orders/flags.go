package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// program is one run of the command.
type program struct {
	settings
	ui    *console
	stdin io.Reader
	// endTrace is called when the bus is closed.
	endTrace func() error
}

// settings are the flags of all roles.
type settings struct {
	url     string
	verbose bool
	trace   string
	importSettings
	reportSettings

	work        time.Duration
	concurrency int
	name        string

	listen string
	dir    string
}

func defaults() settings {
	return settings{
		importSettings: importSettings{parallel: 32, timeout: 2 * time.Second, patience: time.Minute},
		reportSettings: reportSettings{every: time.Second, wait: 15 * time.Second},
		concurrency:    64,
		name:           fmt.Sprintf("worker-%d", os.Getpid()),
		listen:         "127.0.0.1:4222",
	}
}

// role is what a process does.
type role struct {
	name  string // "" for everything in one process
	about string
	args  string
	flags []func(*settings, *flag.FlagSet)
	run   func(p *program, ctx context.Context, args []string) (status, error)
}

func (r role) title() string {
	if r.name == "" {
		return "orders"
	}
	return r.name
}

// roles are all there are, the one without a name first.
func roles() []role {
	return []role{
		{name: "", args: "[FILE]", run: (*program).all,
			flags: []func(*settings, *flag.FlagSet){(*settings).common, (*settings).forImport, (*settings).forWorker, (*settings).forReport}},
		{name: "server", run: (*program).server, about: "run a NATS server on a loopback port, for the other roles",
			flags: []func(*settings, *flag.FlagSet){(*settings).forServer}},
		{name: "worker", run: (*program).worker, about: "handle rows; start as many as you like",
			flags: []func(*settings, *flag.FlagSet){(*settings).common, (*settings).forWorker}},
		{name: "report", run: (*program).report, about: "show what has been imported, and end with the import",
			flags: []func(*settings, *flag.FlagSet){(*settings).common, (*settings).forJob, (*settings).forReport}},
		{name: "import", args: "[FILE]", run: (*program).importFile, about: "send the rows of FILE; - is the standard input",
			flags: []func(*settings, *flag.FlagSet){(*settings).common, (*settings).forImport}},
	}
}

const overview = `Usage: orders [flags] [FILE]          everything in this process
       orders [flags] ROLE [flags]    one role of several processes

Imports the orders of FILE: CSV with a header line, or JSON Lines. Without FILE
it imports a sample of 2,000 orders, and - is the standard input. Columns:
id customer sku quantity unit_price currency country placed_at.
Bad rows are reported with their line, and the others are imported.

Roles, which need -url:
`

const ending = `
Exit status: 0 all rows are imported; 1 the job failed, or some row has no known
outcome; 2 the command line is wrong; 3 all rows are imported except bad ones.
("go run" prints the status and exits with 1 itself.)

Several processes, each in a terminal of its own:
  orders server
  orders -url nats://127.0.0.1:4222 worker -work 20ms
  orders -url nats://127.0.0.1:4222 worker -work 20ms
  orders -url nats://127.0.0.1:4222 report
  orders -url nats://127.0.0.1:4222 import
Kill a worker in the middle: no row is lost.
`

// parse reads the flags, and the role with its own.
func (p *program) parse(args []string) (role, []string, error) {
	all := roles()
	rest, err := p.parseFlags(all[0], args)
	if err != nil || len(rest) == 0 {
		return all[0], rest, err
	}
	i := slices.IndexFunc(all[1:], func(r role) bool { return r.name == rest[0] })
	if i < 0 {
		return all[0], rest, nil
	}
	rest, err = p.parseFlags(all[i+1], rest[1:])
	return all[i+1], rest, err
}

// parseFlags reads a role's flags and returns what follows them. What an earlier
// call has set is the default.
func (p *program) parseFlags(r role, args []string) ([]string, error) {
	fs := flag.NewFlagSet("orders "+r.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are printed once, by run
	for _, register := range r.flags {
		register(&p.settings, fs)
	}
	fs.Usage = func() {}
	if err := fs.Parse(args); err != nil {
		if err == flag.ErrHelp {
			p.help(r, fs)
		}
		return nil, err
	}
	return fs.Args(), nil
}

func (p *program) help(r role, fs *flag.FlagSet) {
	w := p.ui.out
	if r.name == "" {
		fmt.Fprint(w, overview)
		for _, r := range roles()[1:] {
			fmt.Fprintf(w, "  %-8s %s\n", r.name, r.about)
		}
		fmt.Fprint(w, "\nFlags:\n")
	} else {
		fmt.Fprintf(w, "Usage: orders %s [flags] %s\n\n%s.\n\nFlags:\n", r.name, r.args, r.about)
	}
	fs.SetOutput(w)
	fs.PrintDefaults()
	if r.name == "" {
		fmt.Fprint(w, ending)
	}
}

func (s *settings) common(fs *flag.FlagSet) {
	fs.StringVar(&s.url, "url", s.url, "NATS `server` to use, such as nats://127.0.0.1:4222 (default: memory)")
	fs.StringVar(&s.trace, "trace", s.trace, "append the spans of all messages to `FILE`, as lines of JSON; processes may share it")
	fs.BoolVar(&s.verbose, "v", s.verbose, "log what the bus does")
}

func (s *settings) forJob(fs *flag.FlagSet) {
	fs.StringVar(&s.job, "job", s.job, "`name` of the job; without it import takes one from the file's content, and report follows the next that starts")
}

func (s *settings) forImport(fs *flag.FlagSet) {
	s.forJob(fs)
	fs.StringVar(&s.format, "format", s.format, "csv or jsonl (default: by the file's extension, else csv)")
	fs.IntVar(&s.parallel, "parallel", s.parallel, "how many `rows` are under way at once")
	fs.DurationVar(&s.timeout, "timeout", s.timeout, "how long a row waits for its answer before it is sent again")
	fs.DurationVar(&s.patience, "patience", s.patience, "how long a row is sent again before it is given up")
}

func (s *settings) forWorker(fs *flag.FlagSet) {
	fs.DurationVar(&s.work, "work", s.work, "pretend that a row takes this long (keep it under -timeout)")
	fs.IntVar(&s.concurrency, "concurrency", s.concurrency, "how many `rows` a worker handles at once")
	fs.StringVar(&s.name, "name", s.name, "`name` of the worker in reports")
}

func (s *settings) forReport(fs *flag.FlagSet) {
	fs.DurationVar(&s.every, "every", s.every, "time between two lines of progress; on a terminal a bar shows it")
	fs.DurationVar(&s.wait, "wait", s.wait, "how long to wait for missing rows after the end of the import")
}

func (s *settings) forServer(fs *flag.FlagSet) {
	fs.StringVar(&s.listen, "listen", s.listen, "loopback `address`; port 0 takes a free one")
	fs.StringVar(&s.dir, "dir", s.dir, "`folder` that keeps the events (default: a temporary one, removed at the end)")
}

// check finds what a flag alone cannot see.
func (s *settings) check() error {
	switch {
	case s.format != "" && s.format != "csv" && s.format != "jsonl":
		return usagef("-format %q: use csv or jsonl", s.format)
	case s.parallel < 1 || s.parallel > 10_000:
		return usagef("-parallel %d is not between 1 and 10000", s.parallel)
	case s.concurrency < 1 || s.concurrency > 10_000:
		return usagef("-concurrency %d is not between 1 and 10000", s.concurrency)
	case s.timeout <= 0 || s.patience <= 0 || s.every <= 0:
		return usagef("-timeout, -patience and -every must be above 0")
	case s.work < 0 || s.wait < 0:
		return usagef("-work and -wait must not be negative")
	}
	return nil
}
