package bus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// RowImported is an event of an import job.
type RowImported struct{ Row int }

func (RowImported) MessageName() string { return "row.imported" }

// ImportRow is handled for all jobs alike, or by a job itself.
type ImportRow struct {
	bus.Command[string]
	Row int
}

func (ImportRow) MessageName() string { return "row.import" }

// The listener counts for this job alone, and has handled every row when
// InSession returns.
func ExampleInSession() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "imports"})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(ctx context.Context, c ImportRow) (string, error) {
		return "", bus.Publish(ctx, b, RowImported{Row: c.Row}) // in the session of the command
	}))

	rows := 0
	must(bus.InSession(ctx, b, "import-42", func(ctx context.Context, s *bus.Session) error {
		_, err := bus.Subscribe(ctx, s, func(context.Context, RowImported) error {
			rows++
			return nil
		}, bus.WithConcurrency(1))
		if err != nil {
			return err
		}
		for row := range 3 {
			if _, err := bus.Execute(ctx, s, ImportRow{Row: row}); err != nil {
				return err
			}
		}
		return bus.Publish(ctx, b, RowImported{Row: 3}) // ctx is of the session
	}))
	must(bus.Publish(ctx, b, RowImported{Row: 4})) // in none
	fmt.Println(rows, "rows imported")
	// Output: 4 rows imported
}

// A command goes to the session's handler, and to the bus's if the session has
// none.
func ExampleBus_Session() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "imports"})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(ctx context.Context, c ImportRow) (string, error) {
		return fmt.Sprintf("row %d by the bus, in session %q", c.Row, bus.SessionFrom(ctx)), nil
	}))
	s, err := b.Session(ctx, "import-42")
	must(err)
	defer s.Close(ctx)
	must(bus.Handle(ctx, s, func(ctx context.Context, c ImportRow) (string, error) {
		return fmt.Sprintf("row %d by session %s", c.Row, s.ID()), nil
	}))
	other, err := b.Session(ctx, "import-43")
	must(err)
	defer other.Close(ctx)

	for row, scope := range []bus.Scope{b, s, other} {
		who, err := bus.Execute(ctx, scope, ImportRow{Row: row})
		must(err)
		fmt.Println(who)
	}
	_, err = b.Session(ctx, "import-42")
	fmt.Println(errors.Is(err, bus.ErrSessionOpen))
	// Output:
	// row 0 by the bus, in session ""
	// row 1 by session import-42
	// row 2 by the bus, in session "import-43"
	// true
}

// A process takes part in a session that is open in another.
func ExampleContextWithSession() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "imports"})
	must(err)
	defer b.Close(ctx)
	s, err := b.Session(ctx, "import-42")
	must(err)
	defer s.Close(ctx)
	must(bus.Handle(ctx, s, func(_ context.Context, c ImportRow) (string, error) {
		return fmt.Sprintf("row %d by session %s", c.Row, s.ID()), nil
	}))

	ctx = bus.ContextWithSession(ctx, "import-42")
	who, err := bus.Execute(ctx, b, ImportRow{Row: 7})
	fmt.Println(who, err)
	// Output: row 7 by session import-42 <nil>
}

// SessionFrom tells a listener of the bus which session an event is of.
func ExampleSessionFrom() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "imports"})
	must(err)
	defer b.Close(ctx)
	heard := make(chan string)
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e RowImported) error {
		heard <- fmt.Sprintf("row %d of session %q", e.Row, bus.SessionFrom(ctx))
		return nil
	})
	must(err)
	must(bus.Publish(ctx, b, RowImported{Row: 1}))
	fmt.Println(<-heard)
	must(bus.Publish(bus.ContextWithSession(ctx, "import-42"), b, RowImported{Row: 2}))
	fmt.Println(<-heard)
	// Output:
	// row 1 of session ""
	// row 2 of session "import-42"
}

// Whoever wants to know hears of every session that ends, also of those whose
// process died.
func ExampleSessionEnded() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "imports"})
	must(err)
	defer b.Close(ctx)
	ended := make(chan bus.SessionEnded)
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e bus.SessionEnded) error {
		ended <- e
		return nil
	})
	must(err)

	err = bus.InSession(ctx, b, "import-42", func(context.Context, *bus.Session) error {
		return errors.New("row 17 is not UTF-8")
	})
	e := <-ended
	fmt.Println(e.ID, e.Reason+":", e.Err)
	fmt.Println(err)
	// Output:
	// import-42 failed: row 17 is not UTF-8
	// row 17 is not UTF-8
}

// Sessions lists what is open, in all processes.
func ExampleBus_Sessions() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "imports"})
	must(err)
	defer b.Close(ctx)
	for _, id := range []string{"import-42", "import-43"} {
		s, err := b.Session(ctx, id)
		must(err)
		defer s.Close(ctx)
	}
	all, err := b.Sessions(ctx)
	must(err)
	for _, s := range all {
		fmt.Println(s.ID, "of", s.Service)
	}
	// Output:
	// import-42 of imports
	// import-43 of imports
}
