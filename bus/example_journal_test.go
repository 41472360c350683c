package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// What has become of a message, and of everything that it caused.
func ExampleBus_Journal() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "accounts",
		Journal: bus.JournalConfig{Size: 500, MaxAge: time.Hour},
	})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) {
		if c.Name == "" {
			return "", errors.New("no name")
		}
		return UserID(c.Name), bus.Publish(ctx, b, UserCreated{ID: UserID(c.Name)})
	}))
	_, err = bus.Execute(ctx, b, CreateUser{Name: "ada"}, bus.WithID("cmd-1"))
	must(err)
	_, err = bus.Execute(ctx, b, CreateUser{}, bus.WithID("cmd-2"))
	fmt.Println(err)

	entries, err := b.Journal(bus.JournalQuery{CorrelationID: "cmd-1"})
	must(err)
	for _, e := range entries {
		fmt.Println(e.Stage, e.Kind, e.Name)
	}
	entries, err = b.Journal(bus.JournalQuery{Name: "user.create", Newest: true, Limit: 1})
	must(err)
	for _, e := range entries {
		fmt.Println(e.Stage, e.Kind, e.Name, e.ID, e.Code)
	}
	// Output:
	// execute user.create: no name
	// sent event user.created
	// handled command user.create
	// sent command user.create
	// sent command user.create cmd-2 failed
}

// Bodies are kept when the configuration says so, up to a limit.
func ExampleJournalConfig() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Journal: bus.JournalConfig{Bodies: true, MaxBody: 12},
	})
	must(err)
	defer b.Close(ctx)

	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	must(bus.Publish(ctx, b, UserCreated{ID: "ada lovelace"}))
	entries, err := b.Journal(bus.JournalQuery{Kind: bus.KindEvent, Stage: bus.StageSent})
	must(err)
	for _, e := range entries {
		fmt.Println(e.Body, e.BodySize)
	}
	// Output:
	// {"ID":"ada"} 12
	// {"ID":"ada l 21
}

// An entry as a line of text and as JSON.
func ExampleJournalEntry() {
	e := bus.JournalEntry{
		Number: 7, Time: time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC), Stage: bus.StageRetrying, Kind: bus.KindEvent,
		Name: "user.created", Group: "mailer", Handler: "welcome", Attempt: 2, ID: "evt-1", Session: "import 42",
		CorrelationID: "cmd-1", Delay: 2 * time.Second, Code: bus.CodeFailed, Err: "mailbox\nfull",
	}
	fmt.Println(e)
	text, err := json.MarshalIndent(e, "", "  ")
	must(err)
	fmt.Println(string(text))
	// Output:
	// 2026-03-01T09:30:00.000Z retrying event user.created mailer/welcome attempt 2 in 2s id=evt-1 session="import 42" correlation=cmd-1 code=failed err="mailbox\nfull"
	// {
	//   "number": 7,
	//   "time": "2026-03-01T09:30:00Z",
	//   "stage": "retrying",
	//   "kind": "event",
	//   "name": "user.created",
	//   "group": "mailer",
	//   "handler": "welcome",
	//   "attempt": 2,
	//   "id": "evt-1",
	//   "session": "import 42",
	//   "correlation_id": "cmd-1",
	//   "delay_ns": 2000000000,
	//   "code": "failed",
	//   "err": "mailbox\nfull"
	// }
}
