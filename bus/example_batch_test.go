package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Welcomed is what the batch handler of an example publishes.
type Welcomed struct{ ID UserID }

// What is queued is stored in batches; the handle tells what became of one event.
func ExamplePublishAsync() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{BatchTimeout: 10 * time.Millisecond})
	must(err)
	defer b.Close(ctx)

	p, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"}, bus.WithID("signup-1"))
	must(err)
	fmt.Println(p.ID(), p.Wait(ctx))

	_, err = bus.PublishAsync(ctx, b, CreateUser{Name: "ada"}) // what is wrong with an event is told at once
	fmt.Println(err)
	// Output:
	// signup-1 <nil>
	// publish user.create: bus_test.CreateUser is a command: send it with Execute
}

// An import publishes many events and asks once whether all are stored.
func ExampleBus_Flush() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{BatchSize: 100, BatchTimeout: time.Minute})
	must(err)
	defer b.Close(ctx)

	for i := range 250 {
		_, err := bus.PublishAsync(ctx, b, UserCreated{ID: UserID(fmt.Sprint("user-", i))})
		must(err)
	}
	fmt.Println(b.Flush(ctx)) // does not wait for the minute
	// Output: <nil>
}

func ExamplePending_Done() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	p, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"})
	must(err)
	select {
	case <-p.Done():
		fmt.Println("result:", p.Err())
	case <-time.After(10 * time.Second):
		fmt.Println("no result yet")
	}
	// Output: result: <nil>
}

func ExamplePending_Err() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	first, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"})
	must(err)
	second, err := bus.PublishAsync(ctx, b, UserCreated{ID: "bob"})
	must(err)
	must(b.Flush(ctx))
	fmt.Println(first.Err(), second.Err())
	// Output: <nil> <nil>
}

// Wait bounds the wait, not the event.
func ExamplePending_Wait() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{BatchTimeout: time.Hour})
	must(err)
	defer b.Close(ctx)

	p, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"})
	must(err)
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	fmt.Println(bus.CodeOf(p.Wait(short)))
	must(b.Flush(ctx))
	fmt.Println(p.Wait(ctx))
	// Output:
	// timeout
	// <nil>
}

// The id of an event whose outcome is not known makes it safe to publish again.
func ExamplePending_ID() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	event := UserCreated{ID: "ada"}
	p, err := bus.PublishAsync(ctx, b, event, bus.WithID("signup-1"))
	must(err)
	if err := p.Wait(ctx); err != nil {
		err = bus.Publish(ctx, b, event, bus.WithID(p.ID())) // stored once
		fmt.Println("again:", err)
	}
	fmt.Println(errors.Is(p.Err(), bus.ErrOutOfOrder))
	// Output: false
}

// A batch handler writes many rows with one statement.
func ExampleSubscribeBatch() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "reports"})
	must(err)
	defer b.Close(ctx)

	rows := make(chan int)
	_, err = bus.SubscribeBatch(ctx, b, func(_ context.Context, events []UserCreated) error {
		rows <- len(events)
		return nil
	})
	must(err)
	for i := range 250 {
		_, err := bus.PublishAsync(ctx, b, UserCreated{ID: UserID(fmt.Sprint("user-", i))})
		must(err)
	}
	fmt.Println(<-rows, <-rows, <-rows)
	// Output: 100 100 50
}

// One bad event does not make the others run again.
func ExampleItemErrors() {
	ctx := context.Background()
	tr := memory.New(memory.Config{})
	b, err := bus.New(tr, bus.Config{Service: "reports"})
	must(err)

	done := make(chan struct{})
	_, err = bus.SubscribeBatch(ctx, b, func(_ context.Context, events []UserCreated) error {
		defer close(done)
		failed := bus.ItemErrors{}
		for i, e := range events {
			if e.ID == "" {
				failed[i] = bus.Permanent(errors.New("it has no id"))
			}
		}
		fmt.Println(len(events), "events,", len(failed), "failed")
		return failed
	}, bus.WithBatchSize(3))
	must(err)
	must(bus.PublishAll(ctx, b, UserCreated{"ada"}, UserCreated{}, UserCreated{"bob"}))
	<-done
	must(b.Close(ctx))
	// Output: 3 events, 1 failed
}

func ExampleMetaAt() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "reports"})
	must(err)
	defer b.Close(ctx)

	lines := make(chan string)
	_, err = bus.SubscribeBatch(ctx, b, func(ctx context.Context, events []UserCreated) error {
		for i, e := range events {
			m, _ := bus.MetaAt(ctx, i)
			lines <- fmt.Sprintf("%s by %s, attempt %d", e.ID, m.Header("Admin"), m.Attempt)
		}
		return nil
	}, bus.WithBatchSize(2))
	must(err)
	must(bus.Publish(ctx, b, UserCreated{"ada"}, bus.WithHeader("Admin", "eve")))
	must(bus.Publish(ctx, b, UserCreated{"bob"}, bus.WithHeader("Admin", "kim")))
	fmt.Println(<-lines)
	fmt.Println(<-lines)
	// Output:
	// ada by eve, attempt 1
	// bob by kim, attempt 1
}

// What is sent with an item's context is caused by that event, and its derived id is
// the same when the event comes again, in whatever batch.
func ExampleItemContext() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	causes := make(chan string)
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, _ Welcomed) error {
		m, _ := bus.MetaFrom(ctx)
		causes <- m.CausationID
		return nil
	}, bus.WithConcurrency(1))
	must(err)
	_, err = bus.SubscribeBatch(ctx, b, func(ctx context.Context, events []UserCreated) error {
		for i, e := range events {
			item := bus.ItemContext(ctx, i)
			id := bus.DerivedID(item, "welcomed")
			if err := bus.Publish(item, b, Welcomed(e), bus.WithID(id)); err != nil {
				return err
			}
		}
		return nil
	}, bus.WithBatchSize(2))
	must(err)
	must(bus.Publish(ctx, b, UserCreated{"ada"}, bus.WithID("first")))
	must(bus.Publish(ctx, b, UserCreated{"bob"}, bus.WithID("second")))
	fmt.Println(<-causes, <-causes)
	// Output: first second
}

func ExampleWithBatchSize() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "reports"})
	must(err)
	defer b.Close(ctx)

	batches := make(chan []UserCreated)
	_, err = bus.SubscribeBatch(ctx, b, func(_ context.Context, events []UserCreated) error {
		batches <- events
		return nil
	}, bus.WithBatchSize(2))
	must(err)
	must(bus.PublishAll(ctx, b, UserCreated{"ada"}, UserCreated{"bob"}, UserCreated{"eve"}, UserCreated{"kim"}))
	fmt.Println(<-batches, <-batches)
	// Output: [{ada} {bob}] [{eve} {kim}]
}

func ExampleWithBatchBytes() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{Codec: codec.JSON}), bus.Config{Service: "reports"})
	must(err)
	defer b.Close(ctx)

	batches := make(chan []UserCreated)
	_, err = bus.SubscribeBatch(ctx, b, func(_ context.Context, events []UserCreated) error {
		batches <- events
		return nil
	}, bus.WithBatchBytes(30), bus.WithLinger(10*time.Millisecond)) // one is 12 bytes, {"ID":"ada"}
	must(err)
	must(bus.PublishAll(ctx, b, UserCreated{"ada"}, UserCreated{"bob"}, UserCreated{"eve"}))
	fmt.Println(<-batches, <-batches)
	// Output: [{ada} {bob}] [{eve}]
}

// A batch that is not full is handled when its time is over.
func ExampleWithLinger() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "reports"})
	must(err)
	defer b.Close(ctx)

	batches := make(chan []UserCreated)
	_, err = bus.SubscribeBatch(ctx, b, func(_ context.Context, events []UserCreated) error {
		batches <- events
		return nil
	}, bus.WithLinger(20*time.Millisecond))
	must(err)
	must(bus.PublishAll(ctx, b, UserCreated{"ada"}, UserCreated{"bob"}))
	fmt.Println(<-batches)
	// Output: [{ada} {bob}]
}

// A middleware looks at each event of a batch, and keeps some from the handler.
func ExampleMessage_Refuse() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "reports"})
	must(err)
	defer b.Close(ctx)

	onlyOnce := func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			for _, e := range m.Events {
				if e.Header.Get("Replayed") != "" {
					e.Refuse(nil) // done
				}
			}
			return next(ctx, m)
		}
	}
	batches := make(chan []UserCreated)
	_, err = bus.SubscribeBatch(ctx, b, func(_ context.Context, events []UserCreated) error {
		batches <- events
		return nil
	}, bus.WithBatchSize(2), bus.WithMiddleware(onlyOnce))
	must(err)
	must(bus.Publish(ctx, b, UserCreated{"ada"}, bus.WithHeader("Replayed", "yes")))
	must(bus.Publish(ctx, b, UserCreated{"bob"}))
	fmt.Println(<-batches)
	// Output: [{bob}]
}

// A middleware further in does not look at what another one has taken out.
func ExampleMessage_Refused() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "reports"})
	must(err)

	refuse := func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			m.Events[0].Refuse(bus.Permanent(errors.New("too old")))
			return next(ctx, m)
		}
	}
	look := func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			for i, e := range m.Events {
				refused, err := e.Refused()
				fmt.Println(i, refused, err)
			}
			return next(ctx, m)
		}
	}
	done := make(chan struct{})
	_, err = bus.SubscribeBatch(ctx, b, func(context.Context, []UserCreated) error {
		close(done)
		return nil
	}, bus.WithBatchSize(2), bus.WithMiddleware(refuse, look))
	must(err)
	must(bus.PublishAll(ctx, b, UserCreated{"ada"}, UserCreated{"bob"}))
	<-done
	must(b.Close(ctx))
	// Output:
	// 0 true too old
	// 1 false <nil>
}
