package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/filter"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/resilience"
)

// ImportPayment imports one row of a file.
type ImportPayment struct {
	bus.Command[PaymentID]
	Row   int
	Payee string
	Cents int
}

// Validate is asked before the command is sent and before it is handled.
func (c ImportPayment) Validate() error {
	if c.Cents <= 0 {
		return fmt.Errorf("row %d pays %d cents", c.Row, c.Cents)
	}
	return nil
}

type PaymentID string

// PaymentImported says that a row has become a payment.
type PaymentImported struct {
	ID    PaymentID
	Payee string
	Cents int
}

func (PaymentImported) MessageName() string { return "payment.imported" }

// large is from how many cents on a payment is reviewed.
const large = 1_000_00

// app is what the handlers share.
type app struct {
	log *slog.Logger
	bus *bus.Bus
	// bank books a payment.
	bank func(context.Context, ImportPayment) error

	mu      sync.Mutex
	stored  map[PaymentID]int // each once, however often its event comes
	batches int
	reviews []string
}

// register registers what serves all jobs alike.
func (a *app) register(ctx context.Context, b *bus.Bus) error {
	a.bus = b
	// doc:middleware
	// Middleware, the first outermost: each try has a second, and a row that the
	// bank is too busy for is tried again while its caller waits.
	err := bus.Handle(ctx, b, a.importPayment, bus.WithMiddleware(
		middleware.Logging(a.log),
		middleware.Retry(resilience.Retry{}, middleware.OnlyIf(func(err error) bool { return errors.Is(err, errBusy) })),
		middleware.Timeout(time.Second),
	))
	// doc:end
	if err != nil {
		return err
	}
	// A batch listener: the store likes many rows at once.
	_, err = bus.SubscribeBatch(ctx, b, a.store, bus.WithGroup("ledger"), bus.WithBatchSize(50))
	if err != nil {
		return err
	}
	// doc:filter
	// Two listeners of one group, one after the other, and only for large payments.
	// They begin together, so that no payment is for one of them alone.
	big := filter.Where(func(e PaymentImported) bool { return e.Cents >= large })
	return b.Together(func() error {
		_, err := bus.Subscribe(ctx, b, a.review("check"), bus.WithGroup("review"), bus.WithFilter(big),
			bus.WithName("check"), bus.WithPriority(bus.PriorityHigh))
		if err != nil {
			return err
		}
		_, err = bus.Subscribe(ctx, b, a.review("notify"), bus.WithGroup("review"), bus.WithFilter(big),
			bus.WithName("notify"), bus.WithPriority(bus.PriorityLow))
		return err
	})
	// doc:end
}

// importAll is one job. Its progress is heard by this session alone, and all of it
// before importAll returns.
func (a *app) importAll(ctx context.Context, b *bus.Bus, job string, rows []ImportPayment, progress func(done int)) error {
	// doc:session
	done := 0
	return bus.InSession(ctx, b, job, func(ctx context.Context, s *bus.Session) error {
		_, err := bus.Subscribe(ctx, s, func(context.Context, PaymentImported) error {
			done++
			progress(done)
			return nil
		}, bus.WithConcurrency(1))
		if err != nil {
			return err
		}
		for _, row := range rows {
			if _, err := bus.Execute(ctx, s, row); err != nil {
				return fmt.Errorf("row %d: %w", row.Row, err)
			}
		}
		return nil
	}) // progress has heard of every row
	// doc:end
}

// errBusy is the bank's answer when it has too much to do.
var errBusy = errors.New("bank is busy")

func (a *app) importPayment(ctx context.Context, c ImportPayment) (PaymentID, error) {
	if err := a.bank(ctx, c); err != nil {
		return "", err
	}
	id := PaymentID(fmt.Sprintf("%s/%d", bus.SessionFrom(ctx), c.Row))
	// The event is of the session of the command. Its id makes it one event, also
	// when the handler runs again.
	err := bus.Publish(ctx, a.bus, PaymentImported{ID: id, Payee: c.Payee, Cents: c.Cents},
		bus.WithID(bus.DerivedID(ctx, "imported")))
	return id, err
}

func (a *app) store(_ context.Context, payments []PaymentImported) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stored == nil {
		a.stored = map[PaymentID]int{}
	}
	a.batches++
	for _, p := range payments {
		a.stored[p.ID] = p.Cents
	}
	return nil
}

func (a *app) review(step string) func(context.Context, PaymentImported) error {
	return func(_ context.Context, e PaymentImported) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.reviews = append(a.reviews, fmt.Sprintf("%s %s", step, e.ID))
		return nil
	}
}

func (a *app) totals() (stored, batches, reviews int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.stored), a.batches, len(a.reviews)
}
