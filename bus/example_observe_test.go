package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// line is a slog.Handler that passes on the text and some attributes of each line.
type line struct {
	out  chan<- string
	keys []string
}

func (l line) Handle(_ context.Context, r slog.Record) error {
	text := fmt.Sprint(r.Level, " ", r.Message)
	r.Attrs(func(a slog.Attr) bool {
		for _, k := range l.keys {
			if a.Key == k {
				text += " " + a.String()
			}
		}
		return true
	})
	if r.Level >= slog.LevelWarn {
		l.out <- text
	}
	return nil
}

func (line) Enabled(context.Context, slog.Level) bool { return true }
func (l line) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l line) WithGroup(string) slog.Handler          { return l }

// A failure is one line, whatever becomes of it.
func ExampleConfig_logger() {
	ctx := context.Background()
	lines := make(chan string, 10)
	log := line{lines, []string{"name", "id", "group", "handler", "attempt", "dead_lettered", "code", "err"}}
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer", Logger: slog.New(log)})
	must(err)
	defer b.Close(ctx)

	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		return bus.Permanent(errors.New("no such mailbox"))
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithID("evt-1")))
	fmt.Println(<-lines)
	// Output:
	// ERROR event dead-lettered name=user.created id=evt-1 group=mailer handler=default attempt=1 dead_lettered=true code=failed err=no such mailbox
}

// A handler that runs for too long is named while it runs.
func ExampleConfig_slowHandler() {
	ctx := context.Background()
	lines, done := make(chan string, 10), make(chan struct{})
	log := line{lines, []string{"name", "group", "handler", "attempt"}}
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "mailer", Logger: slog.New(log), SlowHandler: 20 * time.Millisecond,
	})
	must(err)
	defer b.Close(ctx)

	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		fmt.Println(<-lines) // it goes on until it is told of
		close(done)
		return nil
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	<-done
	// Output: WARN handler is slow name=user.created group=mailer handler=default attempt=1
}

// Observers are told of each step; here they print it.
func ExampleObserver() {
	ctx := context.Background()
	dead := make(chan struct{})
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "mailer",
		Observers: []bus.Observer{func(r bus.Record) {
			if r.Stage != bus.StageSent { // which is told beside the others
				fmt.Println(r.Stage, r.Kind, r.Name, r.Group, r.Handler, r.Attempt, r.Err)
			}
			if r.Stage == bus.StageDeadLettered {
				close(dead)
			}
		}},
	})
	must(err)
	defer b.Close(ctx)

	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		return bus.Permanent(errors.New("no such mailbox"))
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	<-dead
	// Output:
	// handled event user.created mailer default 1 no such mailbox
	// dead-lettered event user.created mailer default 1 no such mailbox
}

// The metadata and the value are made when they are asked for.
func ExampleRecord() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Observers: []bus.Observer{func(r bus.Record) {
			m := r.Meta()
			fmt.Println(r.Stage, m.Name, m.ID, m.Header("Tenant"), r.Value())
		}},
	})
	must(err)
	defer b.Close(ctx)

	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithID("evt-1"), bus.WithHeader("Tenant", "acme")))
	// Output: sent user.created evt-1 acme {ada}
}
