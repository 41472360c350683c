package tour_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

// doc:event
type UserRenamed struct{ ID, Name string }

func (UserRenamed) MessageName() string { return "user.renamed" }

// doc:end

func Example_events() {
	ctx, b := open()
	defer b.Close(ctx)
	heard := make(chan string, 8)
	index := func(ctx context.Context, e UserRenamed) error { heard <- "index"; return nil }
	notify := func(ctx context.Context, e UserRenamed) error { heard <- "notify"; return nil }
	audit := func(ctx context.Context, e UserRenamed) error { heard <- "audit"; return nil }
	refresh := func(ctx context.Context, e UserRenamed) error { heard <- "refresh"; return nil }

	// doc:event

	// Two handlers of one group, the service's: one dispatch, higher priority first.
	// They begin together, so that neither misses what has been waiting.
	err := b.Together(func() error {
		_, err := bus.Subscribe(ctx, b, index, bus.WithName("index"), bus.WithPriority(100))
		if err == nil {
			_, err = bus.Subscribe(ctx, b, notify, bus.WithName("notify"), bus.WithConcurrency(4))
		}
		return err
	})
	// doc:end
	check(err)
	// doc:event

	// A group of its own, which begins with the oldest event that is stored.
	_, err = bus.Subscribe(ctx, b, audit, bus.WithGroup("audit"), bus.WithStart(bus.All()))
	// doc:end
	check(err)
	// doc:event

	// No group: every process gets its own copy, while it lives.
	sub, err := bus.Subscribe(ctx, b, refresh, bus.WithPrivate())
	// doc:end
	check(err)

	// doc:event

	err = bus.Publish(ctx, b, UserRenamed{ID: "u1", Name: "Alice"})
	// doc:end
	check(err)
	seen := map[string]bool{}
	for range 4 {
		seen[<-heard] = true
	}
	fmt.Println(seen)
	check(sub.Close(ctx))
	// Output: map[audit:true index:true notify:true refresh:true]
}

func Example_publish() {
	ctx, b := open()
	defer b.Close(ctx)

	// doc:publish
	err := bus.Publish(ctx, b, UserRenamed{ID: "u1", Name: "Alice"},
		bus.WithID("rename-u1-7"),           // stored once, if published again within 2 minutes
		bus.WithKey("u1"),                   // in order with others of this key
		bus.WithDelay(30*time.Second),       // heard in 30 seconds
		bus.WithHeader("Tenant", "example")) // for handlers: Meta.Header

	err = bus.PublishAll(ctx, b, UserRenamed{ID: "u2"}, UserRenamed{ID: "u3"})
	// doc:end
	fmt.Println(err)
	// Output: <nil>
}

func publishAll(ctx context.Context, b *bus.Bus, renames []UserRenamed) error {
	// doc:async
	for _, r := range renames {
		if _, err := bus.PublishAsync(ctx, b, r); err != nil { // blocks while 10,000 are queued
			return err
		}
	}
	return b.Flush(ctx) // what failed, if nobody has asked the event's own handle
	// doc:end
}

func Example_batches() {
	ctx, b := open()
	defer b.Close(ctx)
	indexed := make(chan string, 8)
	index := func(_ context.Context, e UserRenamed) error {
		if e.ID == "" {
			return bus.Permanent(errUnknown)
		}
		indexed <- e.ID
		return nil
	}
	// doc:batch
	_, err := bus.SubscribeBatch(ctx, b, func(ctx context.Context, events []UserRenamed) error {
		failed := bus.ItemErrors{}
		for i, e := range events {
			if err := index(ctx, e); err != nil {
				failed[i] = err // this one again, not the others
			}
		}
		return failed
	}, bus.WithGroup("index"), bus.WithBatchSize(500), bus.WithLinger(time.Second))
	// doc:end
	check(err)
	check(publishAll(ctx, b, []UserRenamed{{ID: "u1"}, {}, {ID: "u2"}}))
	fmt.Println(<-indexed, <-indexed)
	// Output: u1 u2
}

func Example_metadata() {
	ctx, b := open()
	defer b.Close(ctx)
	done := make(chan string, 1)
	_, err := bus.Subscribe(ctx, b, func(ctx context.Context, e UserRenamed) error {
		// doc:metadata
		m, _ := bus.MetaFrom(ctx) // name, id, group, attempt, correlation and causation ids, headers

		// A handler may run again. What it publishes keeps its id, and is stored once.
		err := bus.Publish(ctx, b, MailQueued{To: e.ID}, bus.WithID(bus.DerivedID(ctx, "mail")))
		// doc:end
		done <- fmt.Sprint(m.Name, " ", m.Group, " ", m.Attempt)
		return err
	})
	check(err)
	check(bus.Publish(ctx, b, UserRenamed{ID: "u1"}))
	fmt.Println(<-done)
	// Output: user.renamed accounts 1
}

// MailQueued is another event.
type MailQueued struct{ To string }

func (MailQueued) MessageName() string { return "mail.queued" }

var (
	errDown    = errors.New("mail server is down")
	errUnknown = errors.New("no such user")
)

func Example_retry() {
	ctx := context.Background()
	tr := memory.New(memory.Config{})
	b, err := bus.New(tr, bus.Config{Service: "mailer"})
	check(err)
	defer b.Close(ctx)
	send := func(context.Context, UserRenamed) error { return errUnknown }

	// doc:retry
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e UserRenamed) error {
		switch err := send(ctx, e); {
		case err == nil:
			return nil // done
		case errors.Is(err, errUnknown):
			return bus.Permanent(err) // a dead letter at once
		case errors.Is(err, errDown):
			return bus.RetryAfter(time.Minute, err) // again, after this delay
		default:
			return err // again, after the policy's delay
		}
	}, bus.WithRetry(resilience.Retry{MaxRetries: 5, Initial: time.Second, Max: time.Minute}))
	// doc:end
	check(err)
	paged := make(chan string, 1)
	call := func(_ context.Context, text string) error { paged <- text; return nil }
	// doc:alarm
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e bus.DeadLettered) error {
		return call(ctx, fmt.Sprintf("%s failed at %s/%s: %s", e.Name, e.Group, e.Handler, e.Err))
	}, bus.WithGroup("alarms"))
	// doc:end
	check(err)
	check(bus.Publish(ctx, b, UserRenamed{ID: "u1", Name: "Alice"}))
	fmt.Println(<-paged)

	// doc:dead
	page, err := b.DeadLetters().List(ctx, bus.DeadLetterQuery{Newest: true, Limit: 10})
	for _, d := range page.Letters {
		fmt.Println(d.Name, d.Group, d.Handler, d.Attempts, d.Code, d.Err)
	}
	// doc:end
	check(err)

	// doc:redrive
	report, err := b.DeadLetters().RedriveAll(ctx, bus.DeadLetterFilter{
		Name: "user.renamed", Code: bus.CodeFailed,
	}, bus.WithRedriveRate(50), // a second; WithDryRun shows what would be done
		bus.WithEdit(func(e UserRenamed) (UserRenamed, error) { // if it is the event that is wrong
			e.ID = strings.ToLower(e.ID)
			return e, nil
		}))
	fmt.Println(report.Redriven, "of", len(report.Results))
	// doc:end
	check(err)
	// Output:
	// user.renamed failed at mailer/default: no such user
	// user.renamed mailer default 1 failed no such user
	// 1 of 1
}

// doc:middleware
func timing(next bus.Func) bus.Func {
	return func(ctx context.Context, m *bus.Message) (any, error) {
		began := time.Now()
		result, err := next(ctx, m)
		record(m.Kind, m.Name, m.Attempt, time.Since(began), err)
		return result, err
	}
}

// doc:end

func record(k bus.Kind, name string, attempt int, d time.Duration, err error) {
	fmt.Println(k, name, attempt, d >= 0, err)
}

func Example_middleware() {
	ctx := context.Background()
	// doc:middleware

	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service:   "accounts",
		Receiving: []bus.Middleware{timing}, // around every handler; Sending is around Execute and Publish
	})
	// doc:end
	check(err)
	defer b.Close(ctx)
	check(bus.HandleNone(ctx, b, func(context.Context, DeleteUser) error { return nil }))
	check(bus.Do(ctx, b, DeleteUser{ID: "u1"}))
	// Output: command user.delete 1 true <nil>
}
