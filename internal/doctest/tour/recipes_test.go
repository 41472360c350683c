package tour_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

type Invoice struct {
	Order string
	Cents int
}

func (Invoice) MessageName() string { return "invoice.issued" }

type ChargeCard struct {
	bus.Command[string]
	Order string
	Cents int
}

func (ChargeCard) MessageName() string { return "card.charge" }

var errNoSum = errors.New("no sum")

// ledger is a table with a key.
type ledger struct {
	mu   sync.Mutex
	rows map[string]int
}

// insertOnce is INSERT … ON CONFLICT DO NOTHING.
func (l *ledger) insertOnce(key string, cents int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.rows[key]; !ok {
		l.rows[key] = cents
	}
	return nil
}

func Example_recipes() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service: "billing",
		Retry:   resilience.Retry{MaxRetries: 1, Initial: time.Millisecond},
	})
	check(err)
	defer b.Close(ctx)
	table := &ledger{rows: map[string]int{}}

	// doc:idempotent-event
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e Invoice) error {
		m, _ := bus.MetaFrom(ctx)
		return table.insertOnce(m.ID, e.Cents) // the second run changes nothing
	}, bus.WithGroup("ledger"))
	// doc:end
	check(err)

	// doc:poison
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, e Invoice) error {
		if e.Cents <= 0 {
			return bus.Permanent(fmt.Errorf("invoice for %s: %w", e.Order, errNoSum)) // no retry helps
		}
		return mailTo(ctx, e.Order)
	}, bus.WithGroup("mailer"))
	// doc:end
	check(err)

	alarms := make(chan bus.DeadLettered, 1)
	// doc:alarm
	_, err = bus.Subscribe(ctx, b, func(ctx context.Context, d bus.DeadLettered) error {
		alarms <- d // page somebody: name, group, handler, code, and the id to look at
		return nil
	}, bus.WithGroup("alarms"))
	// doc:end
	check(err)
	check(bus.Publish(ctx, b, Invoice{Order: "7"}))
	alarm := <-alarms
	fmt.Println(alarm.Name, alarm.Group, alarm.Err)

	// doc:mend
	_, err = b.DeadLetters().Redrive(ctx, alarm.ID, bus.WithEdit(func(e Invoice) (Invoice, error) {
		e.Cents = 1900
		return e, nil
	}))
	// doc:end
	check(err)
	n, err := b.DeadLetters().Count(ctx, bus.DeadLetterFilter{})
	check(err)
	fmt.Println("dead letters left:", n)

	charged := 0
	check(bus.Handle(ctx, b, func(ctx context.Context, c ChargeCard) (string, error) {
		charged++
		return "receipt of " + c.Order, nil
	}))
	// doc:idempotent-command
	charge := func(ctx context.Context, order string, cents int) (string, error) {
		return bus.Execute(ctx, b, ChargeCard{Order: order, Cents: cents},
			bus.WithIdempotencyKey("charge-"+order)) // again after a timeout: the first receipt
	}
	// doc:end
	for range 3 {
		receipt, err := charge(ctx, "7", 1900)
		check(err)
		fmt.Println(receipt)
	}
	fmt.Println("charged", charged, "time")
	// Output:
	// invoice.issued mailer invoice for 7: no sum
	// dead letters left: 0
	// receipt of 7
	// receipt of 7
	// receipt of 7
	// charged 1 time
}

func mailTo(context.Context, string) error { return nil }
