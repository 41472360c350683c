package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

func ExampleSubscribe() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	done := make(chan struct{})
	sub, err := bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
		fmt.Println("welcome,", e.ID)
		close(done)
		return nil
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	<-done
	must(sub.Close(ctx)) // otherwise it lives as long as the bus
	// Output: welcome, ada
}

// Nobody needs to listen; what is wrong with an event is told before it is sent.
func ExamplePublish() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	fmt.Println(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(bus.Publish(ctx, b, CreateUser{Name: "ada"}))
	// Output:
	// <nil>
	// publish user.create: bus_test.CreateUser is a command: send it with Execute
}

func ExamplePublishAll() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	ids := make(chan UserID)
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
		ids <- e.ID
		return nil
	}, bus.WithConcurrency(1))
	must(err)
	must(bus.PublishAll(ctx, b, UserCreated{"ada"}, UserCreated{"bob"}, UserCreated{"eve"}))
	fmt.Println(<-ids, <-ids, <-ids)

	err = bus.PublishAll(ctx, b, UserCreated{"kim"}, nil)
	fmt.Println(err)
	// Output:
	// ada bob eve
	// event 2 of 2: publish: event is nil
}

// Each group gets every event; the members of a group share them.
func ExampleWithGroup() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	mail, audit := make(chan string), make(chan string)
	for group, out := range map[string]chan string{"mailer": mail, "audit": audit} {
		_, err := bus.Subscribe(ctx, b, func(ctx context.Context, e UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			out <- fmt.Sprintf("%s: %s", m.Group, e.ID)
			return nil
		}, bus.WithGroup(group))
		must(err)
	}
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(<-mail)
	fmt.Println(<-audit)
	// Output:
	// mailer: ada
	// audit: ada
}

// Every private listener gets a copy of its own, for instance to empty a cache
// in each process.
func ExampleWithPrivate() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	copies := make(chan UserID)
	for range 3 {
		_, err := bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
			copies <- e.ID
			return nil
		}, bus.WithPrivate())
		must(err)
	}
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(<-copies, <-copies, <-copies)
	// Output: ada ada ada
}

// Handlers of one event in one group: the higher priority runs first, and each
// has a name.
func ExampleBus_Together() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)

	ran := make(chan string)
	must(b.Together(func() error {
		for _, name := range []string{"index", "notify"} {
			_, err := bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
				ran <- name
				return nil
			}, bus.WithName(name))
			if err != nil {
				return err
			}
			must(bus.Publish(ctx, b, UserCreated{ID: "ada"})) // between the two
		}
		return nil
	}))
	n := map[string]int{}
	for range 4 {
		n[<-ran]++
	}
	fmt.Println(n)
	// Output: map[index:2 notify:2]
}

func ExampleWithPriority() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)

	ran := make(chan string)
	for name, priority := range map[string]int{"index": bus.PriorityLow, "store": bus.PriorityHigh, "count": bus.PriorityNormal} {
		_, err := bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
			ran <- name
			return nil
		}, bus.WithName(name), bus.WithPriority(priority))
		must(err)
	}
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(<-ran, <-ran, <-ran)
	// Output: store count index
}

// The check fails once, and the listener of lower priority waits for it.
func ExampleStopPropagation() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "accounts", Retry: resilience.Retry{Initial: time.Millisecond},
	})
	must(err)
	defer b.Close(ctx)

	done := make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, _ UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		fmt.Println("check", m.Attempt)
		if m.Attempt == 1 {
			return bus.StopPropagation(errors.New("the fraud service is away"))
		}
		return nil
	}, bus.WithName("check"), bus.WithPriority(bus.PriorityHigh))
	must(err)
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, _ UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		fmt.Println("welcome", m.Attempt)
		close(done)
		return nil
	}, bus.WithName("welcome"))
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	<-done
	// Output:
	// check 1
	// check 2
	// welcome 1
}

// Only the handler that failed runs again.
func ExampleWithName() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "accounts", Retry: resilience.Retry{Initial: time.Millisecond},
	})
	must(err)
	defer b.Close(ctx)

	ran := make(chan string)
	for name, priority := range map[string]int{"store": 2, "index": 1} {
		_, err := bus.Subscribe(ctx, b, func(ctx context.Context, _ UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			ran <- fmt.Sprint(m.Handler, " ", m.Attempt)
			if name == "index" && m.Attempt == 1 {
				return errors.New("index is locked")
			}
			return nil
		}, bus.WithName(name), bus.WithPriority(priority))
		must(err)
	}
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(<-ran, <-ran, <-ran)
	// Output: store 1 index 1 index 2
}

func ExampleWithRetry() {
	ctx := context.Background()
	tr := memory.New(memory.Config{})
	b, err := bus.New(tr, bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	attempts := make(chan int)
	sub, err := bus.Subscribe(ctx, b, func(ctx context.Context, _ UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		attempts <- m.Attempt
		return errors.New("mail server is down")
	}, bus.WithRetry(resilience.Retry{MaxRetries: 2, Initial: time.Millisecond, Base: 1.5}))
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(<-attempts, <-attempts, <-attempts)

	must(sub.Close(ctx))
	dead, err := tr.DeadLetters().List(ctx, transport.DeadLetterQuery{})
	must(err)
	fmt.Println(dead[0].Message.To.Name, "after", dead[0].Attempts, "attempts:", dead[0].Error)
	// Output:
	// 1 2 3
	// user.created after 3 attempts: mail server is down
}

// The policy of a message stands under its name, and that of a handler with it. This
// one tries twice at once, gives up after a minute, and does not repeat what is final.
func ExampleConfig_retries() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "mailer",
		Retries: map[string]resilience.Retry{"user.created": {
			MaxRetries: 5, Immediate: 2, Within: time.Minute,
			Final: []error{io.EOF, resilience.Type[*json.SyntaxError]()},
		}},
	})
	must(err)
	defer b.Close(ctx)

	attempts := make(chan int)
	sub, err := bus.Subscribe(ctx, b, func(ctx context.Context, _ UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		attempts <- m.Attempt
		if m.Attempt < 3 {
			return errors.New("somebody was faster")
		}
		return fmt.Errorf("read the template: %w", io.EOF)
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println(<-attempts, <-attempts, <-attempts)

	must(sub.Close(ctx))
	dead, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{})
	must(err)
	fmt.Println("dead after", dead.Letters[0].Attempts, "attempts:", dead.Letters[0].Err)
	// Output:
	// 1 2 3
	// dead after 3 attempts: read the template: EOF
}

// An error that no retry will mend makes a dead letter at once.
func ExamplePermanent() {
	ctx := context.Background()
	tr := memory.New(memory.Config{})
	b, err := bus.New(tr, bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	ran := make(chan struct{})
	sub, err := bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		ran <- struct{}{}
		return bus.Permanent(errors.New("no such address"))
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	<-ran
	must(sub.Close(ctx))
	dead, err := tr.DeadLetters().List(ctx, transport.DeadLetterQuery{})
	must(err)
	fmt.Println(dead[0].Attempts, dead[0].Error)
	// Output: 1 no such address
}

// A handler that knows when to try again says so.
func ExampleRetryAfter() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	times := make(chan time.Time)
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, _ UserCreated) error {
		times <- time.Now()
		if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
			return bus.RetryAfter(20*time.Millisecond, errors.New("too many requests"))
		}
		return nil
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	first, second := <-times, <-times
	fmt.Println(second.Sub(first) >= 20*time.Millisecond)
	// Output: true
}

func ExampleWithDelay() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	heard := make(chan time.Time)
	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		heard <- time.Now()
		return nil
	})
	must(err)
	published := time.Now()
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithDelay(20*time.Millisecond)))
	fmt.Println("waited:", (<-heard).Sub(published) >= 20*time.Millisecond)
	// Output: waited: true
}

func ExampleWithAt() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	heard := make(chan time.Time)
	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		heard <- time.Now()
		return nil
	})
	must(err)
	at := time.Now().Add(20 * time.Millisecond)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithAt(at)))
	fmt.Println("early:", (<-heard).Before(at))
	// Output: early: false
}

// An id that the caller chose makes it safe to publish again.
func ExampleWithID() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	heard := make(chan UserID)
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
		heard <- e.ID
		return nil
	}, bus.WithConcurrency(1))
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithID("row-17")))
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}, bus.WithID("row-17"))) // stored already
	must(bus.Publish(ctx, b, UserCreated{ID: "bob"}, bus.WithID("row-18")))
	fmt.Println(<-heard, <-heard)
	// Output: ada bob
}

// A retry that publishes again does not store the event twice.
func ExampleDerivedID() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "accounts", Retry: resilience.Retry{Initial: time.Millisecond},
	})
	must(err)
	defer b.Close(ctx)

	type WelcomeSent struct{ To UserID }
	sent, tried := make(chan UserID, 10), make(chan int)
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e WelcomeSent) error {
		sent <- e.To
		return nil
	}, bus.WithConcurrency(1))
	must(err)
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e UserCreated) error {
		id := bus.DerivedID(ctx, "welcome")
		if err := bus.Publish(ctx, b, WelcomeSent{To: e.ID}, bus.WithID(id)); err != nil {
			return err
		}
		m, _ := bus.MetaFrom(ctx)
		tried <- m.Attempt
		if m.Attempt < 3 {
			return errors.New("what follows fails")
		}
		return nil
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	fmt.Println("attempts:", <-tried, <-tried, <-tried)
	must(bus.Publish(ctx, b, WelcomeSent{To: "the next one"}))
	fmt.Println("sent to", <-sent, "and then to", <-sent)
	// Output:
	// attempts: 1 2 3
	// sent to ada and then to the next one
}

// Events of one key are stored in the order in which they were published. With
// one run at a time they are handled in that order.
func ExampleWithKey() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	seen := make(chan string)
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		seen <- m.Key + "/" + string(e.ID)
		return nil
	}, bus.WithConcurrency(1))
	must(err)
	for _, id := range []UserID{"ada", "bob"} {
		must(bus.Publish(ctx, b, UserCreated{ID: id}, bus.WithKey("tenant-7")))
	}
	fmt.Println(<-seen, <-seen)
	// Output: tenant-7/ada tenant-7/bob
}

func ExampleWithHeader() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)

	headers := make(chan bus.Header)
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, _ UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		headers <- m.Headers()
		return nil
	})
	must(err)
	must(bus.Publish(ctx, b, UserCreated{ID: "ada"},
		bus.WithHeader("Tenant", "t-7"), bus.WithHeader("Tag", "a"), bus.WithHeader("Tag", "b")))
	fmt.Println(<-headers)
	fmt.Println(bus.Publish(ctx, b, UserCreated{}, bus.WithHeader("Nats-Msg-Id", "x")))
	// Output:
	// map[Tag:[a b] Tenant:[t-7]]
	// publish user.created: header key "Nats-Msg-Id": the prefix "Nats-" is reserved
}

// A counter is done with an event long before the broker has sent the next one, so
// it has them sent ahead.
func ExampleWithPrefetch() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "statistics"})
	must(err)
	defer b.Close(ctx)

	var users atomic.Int64
	counted := make(chan int64, 3)
	_, err = bus.Subscribe(ctx, b, func(context.Context, UserCreated) error {
		counted <- users.Add(1)
		return nil
	}, bus.WithConcurrency(1), bus.WithPrefetch(500))
	must(err)

	must(bus.PublishAll(ctx, b, UserCreated{ID: "ada"}, UserCreated{ID: "bob"}, UserCreated{ID: "cyd"}))
	fmt.Println(<-counted, <-counted, <-counted)
	// Output: 1 2 3
}

// A new group begins now unless it says otherwise.
func ExampleWithStart() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
	must(err)
	defer b.Close(ctx)

	must(bus.Publish(ctx, b, UserCreated{ID: "ada"}))
	between := time.Now()
	must(bus.Publish(ctx, b, UserCreated{ID: "bob"}))

	listen := func(group string, opts ...bus.SubscribeOption) <-chan UserID {
		heard := make(chan UserID, 10)
		_, err := bus.Subscribe(ctx, b, func(_ context.Context, e UserCreated) error {
			heard <- e.ID
			return nil
		}, append(opts, bus.WithGroup(group), bus.WithConcurrency(1))...)
		must(err)
		return heard
	}
	all := listen("all", bus.WithStart(bus.All()))
	since := listen("since", bus.WithStart(bus.Since(between)))
	now := listen("now")
	must(bus.Publish(ctx, b, UserCreated{ID: "eve"}))
	fmt.Println("all:", <-all, <-all, <-all)
	fmt.Println("since:", <-since, <-since)
	fmt.Println("now:", <-now)
	// Output:
	// all: ada bob eve
	// since: bob eve
	// now: eve
}
