package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// halted is a transport that stores nothing for a while, as one whose log is full
// or whose broker is away.
type halted struct {
	transport.Transport
	reached, open chan struct{}
}

func newHalted() *halted {
	return &halted{memory.New(memory.Config{}), make(chan struct{}, 100), make(chan struct{})}
}

func (h *halted) Publish(ctx context.Context, ms ...*transport.Message) error {
	h.reached <- struct{}{}
	<-h.open
	return h.Transport.Publish(ctx, ms...)
}

// The newest are worth more than the oldest: positions, prices, progress.
func Example_dropOldest() {
	ctx := context.Background()
	tr := newHalted()
	b, err := bus.New(tr, bus.Config{
		QueueSize: 2, BatchSize: 1,
		Backpressure: bus.Backpressure{Strategy: bus.DropOldest},
	})
	must(err)
	defer b.Close(ctx)

	var all []*bus.Pending
	for _, id := range []UserID{"ada", "bob", "cyd", "dan"} {
		p, err := bus.PublishAsync(ctx, b, UserCreated{ID: id})
		must(err) // it never waits and never fails for want of room
		all = append(all, p)
		if id == "ada" {
			<-tr.reached // on its way: it leaves the queue to the others
		}
	}
	close(tr.open)
	for _, p := range all {
		fmt.Println(errors.Is(p.Wait(ctx), bus.ErrDropped))
	}
	// Output:
	// false
	// true
	// false
	// false
}

// Whoever can say no to its own caller wants to know at once.
func Example_rejectNew() {
	ctx := context.Background()
	tr := newHalted()
	b, err := bus.New(tr, bus.Config{
		QueueSize: 2, BatchSize: 1,
		Backpressure: bus.Backpressure{Strategy: bus.RejectNew},
	})
	must(err)
	defer b.Close(ctx)

	for _, id := range []UserID{"ada", "bob", "cyd", "dan"} {
		_, err := bus.PublishAsync(ctx, b, UserCreated{ID: id})
		fmt.Println(id, errors.Is(err, bus.ErrRejected), err != nil && bus.CodeOf(err) == bus.CodeBacklog)
		if id == "ada" {
			<-tr.reached
		}
	}
	close(tr.open)
	// Output:
	// ada false false
	// bob false false
	// cyd false false
	// dan true true
}

// Backpressure is raised when a queue is nearly full, and cleared when half of it
// is free again.
func ExampleBackpressure() {
	ctx := context.Background()
	changes := make(chan bus.QueueStats, 2)
	tr := newHalted()
	b, err := bus.New(tr, bus.Config{
		QueueSize: 10, BatchSize: 1,
		Backpressure: bus.Backpressure{High: 0.8, Low: 0.5, OnChange: func(s bus.QueueStats) { changes <- s }},
	})
	must(err)
	defer b.Close(ctx)

	for range 9 { // one is on its way, eight are queued
		_, err := bus.PublishAsync(ctx, b, UserCreated{ID: "ada"})
		must(err)
	}
	<-tr.reached
	s := <-changes
	fmt.Println(s.Queue, s.Active, s.Size, "of", s.Capacity, "by", s.Strategy)
	close(tr.open)
	s = <-changes
	fmt.Println(s.Queue, s.Active, s.Size, "of", s.Capacity, "by", s.Strategy)
	// Output:
	// publish true 8 of 10 by block
	// publish false 5 of 10 by block
}

// A bus that publishes no faster than its events are handled begins with 100 a
// second. Who cannot wait for a turn is told so at once.
func Example_adaptiveRateLimit() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Backpressure: bus.Backpressure{Strategy: bus.AdaptiveRateLimit, TargetLag: 100 * time.Millisecond},
	})
	must(err)
	defer b.Close(ctx)

	signups := make([]any, 200)
	for i := range signups {
		signups[i] = UserCreated{ID: UserID(fmt.Sprint("user-", i))}
	}
	must(bus.PublishAll(ctx, b, signups...)) // two seconds of turns

	err = bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithTimeout(100*time.Millisecond))
	fmt.Println(err)
	fmt.Println(errors.Is(err, bus.ErrRejected))
	// Output:
	// publish user.created: not sent, its turn would come too late: rejected, because too many events wait
	// true
}

// A view that shows the latest state need not catch up with what it missed.
func ExampleWithQueue() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	shown, next := make(chan string), make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		shown <- fmt.Sprintf("%s, after %d that were missed", e.ID, m.Missed)
		<-next // it takes its time
		return nil
	}, bus.WithPrivate(), bus.WithConcurrency(1), bus.WithQueue(2, bus.DropOldest))
	must(err)

	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(<-shown)
	for _, id := range []UserID{"bob", "cyd", "dan", "eve"} {
		must(bus.Publish(ctx, b, UserCreated{ID: id})) // never waits for the view
	}
	for b.Stats().Queues[1].Enqueued < 5 { // they are on their way to it
		time.Sleep(time.Millisecond)
	}
	close(next)
	fmt.Println(<-shown)
	fmt.Println(<-shown)
	// Output:
	// ada, after 0 that were missed
	// dan, after 2 that were missed
	// eve, after 0 that were missed
}
