// Command orders imports a file of orders: each row becomes a command, each
// command that is handled becomes an event, and a report counts the events.
//
// Without a role everything runs in this process. With -url the roles run as
// processes of their own against one NATS server, and any worker may be killed
// in the middle: a row whose outcome is unknown is sent again under the same id,
// its handler is idempotent, and the report counts each row once.
//
// See "orders -h" for the roles, the file formats and the exit status.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// status is the exit status of the program.
type status int

const (
	statusDone     status = 0 // all rows are imported
	statusFailed   status = 1 // the job failed, or a row has no known outcome
	statusUsage    status = 2 // the command line is wrong
	statusRejected status = 3 // all rows are imported, except bad ones
)

// statusOf is the status of an import that went through its whole file.
func statusOf(rejected, gaveUp int) status {
	switch {
	case gaveUp > 0:
		return statusFailed
	case rejected > 0:
		return statusRejected
	default:
		return statusDone
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(int(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
}

// run is the whole program.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) status {
	p := &program{settings: defaults(), ui: newConsole(stdout, stderr), stdin: stdin}
	role, args, err := p.parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return statusDone
	case err != nil:
		p.ui.warnf("orders: %v\nRun \"orders -h\" for help.", err)
		return statusUsage
	}
	code, err := role.run(p, ctx, args)
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		p.ui.warnf("orders %s: %v\nRun \"orders %s -h\" for help.", role.name, err, role.name)
		return statusUsage
	case err != nil:
		p.ui.warnf("%s: %v", role.title(), err)
	}
	return code
}

// usageError is a command line that cannot be run.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }
