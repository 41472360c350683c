package filter_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/time/rate"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/filter"
	"github.com/jitney-bus/jitney/transport/memory"
)

type OrderPlaced struct {
	Customer string
	Total    int
}

func (OrderPlaced) MessageName() string { return "order.placed" }

type OrderPaid struct{ Customer string }

func (OrderPaid) MessageName() string { return "order.paid" }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// show prints which of some events f passes.
func show(f bus.Filter, events ...bus.Message) {
	for _, m := range events {
		fmt.Print(f.Pass(&m), " ")
	}
	fmt.Println(f.Name)
}

// Filters of one listener: it hears of large orders of one tenant.
func Example() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "sales"})
	must(err)
	defer b.Close(ctx)

	done := make(chan struct{})
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e OrderPlaced) error {
		fmt.Println("call", e.Customer)
		close(done)
		return nil
	}, bus.WithFilter(
		filter.Header("Tenant", "acme"),
		filter.Where(func(e OrderPlaced) bool { return e.Total >= 1000 }),
	))
	must(err)
	acme := bus.WithHeader("Tenant", "acme")
	must(bus.Publish(ctx, b, OrderPlaced{"ada", 20}, acme))
	must(bus.Publish(ctx, b, OrderPlaced{"bob", 5000}))
	must(bus.Publish(ctx, b, OrderPlaced{"eve", 2000}, acme))
	<-done
	// Output: call eve
}

// A filter that cannot be used is refused when it is registered.
func Example_error() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "sales"})
	must(err)
	defer b.Close(ctx)

	_, err = bus.Subscribe(ctx, b, func(context.Context, OrderPlaced) error { return nil },
		bus.WithFilter(filter.Pattern("order.[")))
	fmt.Println(err)
	// Output: subscribe order.placed: filter pattern(order.[): "order.[" does not compile: syntax error in pattern
}

func ExampleType() {
	show(filter.Type[OrderPlaced](), bus.Message{Name: "order.placed"}, bus.Message{Name: "order.paid"})
	// Output: true false names(order.placed)
}

func ExampleNames() {
	show(filter.Names("order.placed", "order.paid"), bus.Message{Name: "order.paid"}, bus.Message{Name: "order.shipped"})
	// Output: true false names(order.placed, order.paid)
}

func ExamplePattern() {
	show(filter.Pattern("order.*"), bus.Message{Name: "order.placed"}, bus.Message{Name: "order.item.added"}, bus.Message{Name: "user.created"})
	// Output: true true false pattern(order.*)
}

// A private subscription with this filter subscribes to these sessions alone.
func ExampleSessions() {
	f := filter.Sessions("import-1", "import-2")
	show(f, bus.Message{Session: "import-1"}, bus.Message{Session: "import-3"})
	fmt.Println(f.Sessions)
	// Output:
	// true false sessions("import-1", "import-2")
	// [import-1 import-2]
}

func ExampleNotSessions() {
	show(filter.NotSessions("test"), bus.Message{Session: "import-1"}, bus.Message{Session: "test"}, bus.Message{})
	// Output: true false true not sessions("test")
}

func ExampleHeaders() {
	show(filter.Headers("Tenant", "Region"),
		bus.Message{Header: bus.Header{"Tenant": {"acme"}, "Region": {"eu"}}}, bus.Message{Header: bus.Header{"Tenant": {"acme"}}})
	// Output: true false headers(Tenant, Region)
}

func ExampleHeader() {
	show(filter.Header("Region", "eu", "uk"),
		bus.Message{Header: bus.Header{"Region": {"eu"}}}, bus.Message{Header: bus.Header{"Region": {"us"}}}, bus.Message{})
	// Output: true false false header(Region: ["eu" "uk"])
}

func ExampleWhere() {
	show(filter.Where(func(e OrderPlaced) bool { return e.Total >= 1000 }),
		bus.Message{Value: OrderPlaced{"ada", 2000}}, bus.Message{Value: &OrderPlaced{"bob", 20}}, bus.Message{Value: OrderPaid{"eve"}})
	// Output: true false true where(filter_test.OrderPlaced)
}

// Ten events at once, and then one an hour.
func ExampleRateLimit() {
	f := filter.RateLimit(rate.Every(time.Hour), 10)
	passed := 0
	for range 100 {
		if f.Pass(&bus.Message{Attempt: 1}) {
			passed++
		}
	}
	fmt.Println(passed)
	// Output: 10
}

// Every process passes the same events.
func ExampleSample() {
	here, there := filter.Sample(0.3), filter.Sample(0.3)
	for i := range 7 {
		m := &bus.Message{ID: fmt.Sprint("evt-", i)}
		fmt.Println(m.ID, here.Pass(m), there.Pass(m))
	}
	// Output:
	// evt-0 false false
	// evt-1 false false
	// evt-2 true true
	// evt-3 false false
	// evt-4 false false
	// evt-5 false false
	// evt-6 true true
}

func ExampleDebug() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	f := filter.All(filter.Pattern("order.*"), filter.Debug(log)) // only those that are left
	f.Pass(&bus.Message{Name: "user.created", ID: "1"})
	f.Pass(&bus.Message{Name: "order.placed", ID: "2", Group: "sales", Handler: "default", Attempt: 1})
	// Output: level=DEBUG msg="event at filter" name=order.placed id=2 session="" group=sales handler=default attempt=1
}

func ExampleAll() {
	show(filter.All(filter.Pattern("order.*"), filter.Sessions("a")),
		bus.Message{Name: "order.placed", Session: "a"}, bus.Message{Name: "order.placed"})
	// Output: true false all(pattern(order.*), sessions("a"))
}

func ExampleAny() {
	show(filter.Any(filter.Names("order.paid"), filter.Sessions("a")),
		bus.Message{Name: "order.placed", Session: "a"}, bus.Message{Name: "order.placed"})
	// Output: true false any(names(order.paid), sessions("a"))
}

func ExampleNot() {
	show(filter.Not(filter.Headers("Test")), bus.Message{}, bus.Message{Header: bus.Header{"Test": {"1"}}})
	// Output: true false not(headers(Test))
}
