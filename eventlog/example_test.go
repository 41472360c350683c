package eventlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/eventlog"
	"github.com/jitney-bus/jitney/transport/memory"
)

// UserCreated and CreateUser are what the examples send.
type UserCreated struct{ ID string }

func (UserCreated) MessageName() string { return "user.created" }

type CreateUser struct {
	bus.Command[string]
	Name string
}

func (CreateUser) MessageName() string { return "user.create" }

// use sends a command that succeeds and one that fails.
func use(b *bus.Bus) {
	ctx := context.Background()
	must(bus.Handle(ctx, b, func(_ context.Context, c CreateUser) (string, error) {
		if c.Name == "root" {
			return "", errors.New("name is taken")
		}
		return "id-" + c.Name, nil
	}))
	for _, name := range []string{"ada", "root"} {
		_, _ = bus.Execute(ctx, b, CreateUser{Name: name}, bus.WithID("cmd-"+name)) // the second fails
	}
}

// A file with a line of JSON for each step, which is rotated.
func ExampleOpenFile() {
	ctx, tr := context.Background(), memory.New(memory.Config{})
	dir, err := os.MkdirTemp("", "eventlog")
	must(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "bus.jsonl")

	// doc:file
	file, err := eventlog.OpenFile(eventlog.FileConfig{Path: path, MaxBytes: 10 << 20, Keep: 3})
	must(err)
	events := eventlog.New(file, eventlog.Config{})
	b, err := bus.New(tr, bus.Config{Service: "accounts", Observers: []bus.Observer{events.Observe}})
	// doc:end
	must(err)
	use(b)
	// doc:file

	// … at the end, first the bus, then the log:
	err = errors.Join(b.Close(ctx), events.Close(ctx))
	// doc:end
	must(err)

	text, err := os.ReadFile(path)
	must(err)
	fmt.Println(strings.Count(string(text), "\n"), "lines,", strings.Count(string(text), `"outcome":"failed"`), "of failures")
	fmt.Println(events.Stats().Written, "written,", events.Stats().Dropped, "dropped")
	// Output:
	// 4 lines, 2 of failures
	// 4 written, 0 dropped
}

// What succeeds at info, what fails at warn.
func ExampleSlog() {
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key { // what differs each time
		case slog.TimeKey, "elapsed":
			return slog.Attr{}
		}
		return a
	}}))
	events := eventlog.New(eventlog.Slog(log, slog.LevelInfo, slog.LevelWarn), eventlog.Config{
		Select: func(r bus.Record) bool { return r.Stage == bus.StageHandled },
	})
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts", Observers: []bus.Observer{events.Observe}})
	must(err)
	use(b)
	must(errors.Join(b.Close(ctx), events.Close(ctx)))
	// Output:
	// level=INFO msg="command handled" outcome=ok name=user.create id=cmd-ada correlation_id=cmd-ada handler=accounts attempt=1
	// level=WARN msg="command handled" outcome=failed name=user.create id=cmd-root correlation_id=cmd-root handler=accounts attempt=1 code=failed err="name is taken"
}

// A function may put the entries wherever it likes.
func ExampleFunc() {
	ctx := context.Background()
	events := eventlog.New(eventlog.Func(func(e eventlog.Entry) error {
		fmt.Println(e.Kind, e.Name, e.Stage, e.Outcome, e.Elapsed < time.Minute)
		return nil
	}), eventlog.Config{QueueSize: 1000})
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Observers: []bus.Observer{events.Observe}})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	must(events.Flush(ctx))
	must(errors.Join(b.Close(ctx), events.Close(ctx)))
	// Output: event user.created sent ok true
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
