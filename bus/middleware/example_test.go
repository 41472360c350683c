package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/time/rate"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

type createUser struct {
	bus.Command[string]
	Name string
}

func (createUser) MessageName() string { return "user.create" }

type userCreated struct{ Name string }

func (userCreated) MessageName() string { return "user.created" }

func create(_ context.Context, c createUser) (string, error) { return "id-" + c.Name, nil }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// open returns a bus in this process.
func open(cfg bus.Config) *bus.Bus {
	cfg.Service = "accounts"
	b, err := bus.New(memory.New(memory.Config{}), cfg)
	must(err)
	return b
}

// printer logs without what differs from run to run.
func printer() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "elapsed" {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func ExampleLogging() {
	ctx := context.Background()
	b := open(bus.Config{Receiving: []bus.Middleware{middleware.Logging(printer())}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(_ context.Context, c createUser) (string, error) {
		if c.Name == "" {
			return "", errors.New("name is empty")
		}
		return "id-" + c.Name, nil
	}))
	_, _ = bus.Execute(ctx, b, createUser{Name: "ada"}, bus.WithID("c1"))
	_, _ = bus.Execute(ctx, b, createUser{}, bus.WithID("c2"))
	// Output:
	// level=DEBUG msg="message handled" name=user.create kind=command id=c1 handler=accounts attempt=1
	// level=WARN msg="message failed" name=user.create kind=command id=c2 handler=accounts attempt=1 err="name is empty"
}

// The sending side, with a line that a production logger shows.
func ExampleLogLevels() {
	ctx := context.Background()
	b := open(bus.Config{Sending: []bus.Middleware{
		middleware.Logging(printer(), middleware.LogLevels(slog.LevelInfo, slog.LevelError)),
	}})
	defer b.Close(ctx)
	must(bus.Publish(ctx, b, userCreated{Name: "ada"}, bus.WithID("e1")))
	_, _ = bus.Execute(ctx, b, createUser{}, bus.WithID("c1"))
	// Output:
	// level=INFO msg="message sent" name=user.created kind=event id=e1
	// level=ERROR msg="message failed" name=user.create kind=command id=c1 err="execute user.create: nobody handles \"user.create\"; is the service that does running?"
}

func ExampleTimings() {
	ctx := context.Background()
	var times middleware.Timings
	b := open(bus.Config{Receiving: []bus.Middleware{times.Middleware}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	for range 10 {
		_, err := bus.Execute(ctx, b, createUser{Name: "ada"})
		must(err)
	}
	for _, t := range times.Snapshot() {
		fmt.Println(t.Kind, t.Name, t.Count, t.Failures, t.Min <= t.P50 && t.P50 <= t.P99 && t.P99 <= t.Max)
	}
	// Output: command user.create 10 0 true
}

// Middleware is a method, so that the times stay at hand.
func ExampleTimings_Middleware() {
	ctx := context.Background()
	var times middleware.Timings
	b := open(bus.Config{})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create, bus.WithMiddleware(times.Middleware)))
	_, err := bus.Execute(ctx, b, createUser{Name: "ada"})
	must(err)
	fmt.Println(times.Snapshot()[0].Count)
	// Output: 1
}

func ExampleTimings_Snapshot() {
	ctx := context.Background()
	var sending middleware.Timings
	b := open(bus.Config{Sending: []bus.Middleware{sending.Middleware}})
	defer b.Close(ctx)
	must(bus.Publish(ctx, b, userCreated{}))
	_, _ = bus.Execute(ctx, b, createUser{}) // nobody handles it
	for _, t := range sending.Snapshot() {
		fmt.Println(t.Name, t.Count, t.Failures)
	}
	// Output:
	// user.create 1 1
	// user.created 1 0
}

func ExampleTimeout() {
	ctx := context.Background()
	b := open(bus.Config{})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(ctx context.Context, _ createUser) (string, error) {
		<-ctx.Done() // a query that takes too long
		return "", ctx.Err()
	}, bus.WithMiddleware(middleware.Timeout(10*time.Millisecond))))
	_, err := bus.Execute(ctx, b, createUser{})
	fmt.Println(err)
	// Output: execute user.create: the handler of user.create took longer than 10ms: context deadline exceeded
}

func ExampleRetry() {
	ctx := context.Background()
	b := open(bus.Config{})
	defer b.Close(ctx)
	runs := 0
	must(bus.Handle(ctx, b, func(context.Context, createUser) (string, error) {
		if runs++; runs < 3 {
			return "", errors.New("deadlock")
		}
		return fmt.Sprintf("done in run %d", runs), nil
	}, bus.WithMiddleware(middleware.Retry(resilience.Retry{Initial: time.Millisecond}))))
	fmt.Println(bus.Execute(ctx, b, createUser{}))
	// Output: done in run 3 <nil>
}

func ExampleOnlyIf() {
	ctx := context.Background()
	b := open(bus.Config{})
	defer b.Close(ctx)
	errDeadlock := errors.New("deadlock")
	transient := func(err error) bool { return errors.Is(err, errDeadlock) }
	runs := 0
	must(bus.Handle(ctx, b, func(context.Context, createUser) (string, error) {
		runs++
		return "", errors.New("the table does not exist")
	}, bus.WithMiddleware(middleware.Retry(resilience.Retry{}, middleware.OnlyIf(transient)))))
	_, err := bus.Execute(ctx, b, createUser{})
	fmt.Println(runs, err)
	// Output: 1 execute user.create: the table does not exist
}

func ExampleValidate() {
	ctx := context.Background()
	tenant := middleware.Validate(func(_ context.Context, m *bus.Message) error {
		if m.Header.Get("Tenant") == "" {
			return errors.New("no Tenant header")
		}
		return nil
	})
	b := open(bus.Config{Sending: []bus.Middleware{tenant}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	fmt.Println(bus.Execute(ctx, b, createUser{Name: "ada"}, bus.WithHeader("Tenant", "t-7")))
	_, err := bus.Execute(ctx, b, createUser{Name: "ada"})
	fmt.Println(bus.CodeOf(err), err)
	// Output:
	// id-ada <nil>
	// invalid execute user.create: no Tenant header
}

func ExampleValidateType() {
	ctx := context.Background()
	b := open(bus.Config{Receiving: []bus.Middleware{
		middleware.ValidateType(func(_ context.Context, c createUser) error {
			if len(c.Name) > 5 {
				return errors.New("the name is longer than 5 letters")
			}
			return nil
		}),
	}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	_, err := bus.Execute(ctx, b, createUser{Name: "augusta"})
	fmt.Println(bus.CodeOf(err), err)
	// Output: invalid execute user.create: the name is longer than 5 letters
}

func ExampleRequireSession() {
	ctx := context.Background()
	b := open(bus.Config{Sending: []bus.Middleware{middleware.Events(middleware.RequireSession())}})
	defer b.Close(ctx)
	fmt.Println(bus.Publish(ctx, b, userCreated{}))
	fmt.Println(bus.Publish(bus.ContextWithSession(ctx, "import-42"), b, userCreated{}))
	// Output:
	// publish user.created: it belongs to no session; send it on a bus.Session, or with bus.ContextWithSession
	// <nil>
}

func ExampleCommands() {
	ctx := context.Background()
	b := open(bus.Config{Sending: []bus.Middleware{middleware.Commands(middleware.Logging(printer()))}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	must(bus.Publish(ctx, b, userCreated{}, bus.WithID("e1")))
	_, err := bus.Execute(ctx, b, createUser{}, bus.WithID("c1"))
	must(err)
	// Output: level=DEBUG msg="message sent" name=user.create kind=command id=c1
}

func ExampleEvents() {
	ctx := context.Background()
	b := open(bus.Config{Sending: []bus.Middleware{middleware.Events(middleware.Logging(printer()))}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	must(bus.Publish(ctx, b, userCreated{}, bus.WithID("e1")))
	_, err := bus.Execute(ctx, b, createUser{}, bus.WithID("c1"))
	must(err)
	// Output: level=DEBUG msg="message sent" name=user.created kind=event id=e1
}

// Ten a second on average; the third waits for its turn.
func ExampleRateLimit() {
	ctx := context.Background()
	b := open(bus.Config{})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create, bus.WithMiddleware(middleware.RateLimit(rate.Every(100*time.Millisecond), 2))))
	began := time.Now()
	for range 3 {
		_, err := bus.Execute(ctx, b, createUser{Name: "ada"})
		must(err)
	}
	fmt.Println(time.Since(began) > 50*time.Millisecond)
	// Output: true
}

// A limit for each message name, on the sending side.
func ExamplePerName() {
	ctx := context.Background()
	b := open(bus.Config{Sending: []bus.Middleware{
		middleware.RateLimit(rate.Every(time.Hour), 1, middleware.PerName(), middleware.Reject()),
	}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	_, err := bus.Execute(ctx, b, createUser{Name: "ada"})
	fmt.Println(err, bus.Publish(ctx, b, userCreated{}))
	_, err = bus.Execute(ctx, b, createUser{Name: "ada"})
	fmt.Println(bus.CodeOf(err))
	// Output:
	// <nil> <nil>
	// busy
}

// No session can use up what the others may do.
func ExamplePerSession() {
	ctx := context.Background()
	b := open(bus.Config{Receiving: []bus.Middleware{
		middleware.RateLimit(rate.Every(time.Hour), 1, middleware.PerSession(), middleware.Reject()),
	}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	for _, session := range []string{"one", "one", "two"} {
		_, err := bus.Execute(bus.ContextWithSession(ctx, session), b, createUser{Name: "ada"})
		fmt.Printf("%s %q\n", session, bus.CodeOf(err))
	}
	// Output:
	// one ""
	// one "busy"
	// two ""
}

// A hundred sessions at most have a limit of their own; then the one that has been
// quiet for longest begins anew.
func ExampleMaxLimits() {
	ctx := context.Background()
	limit := middleware.RateLimit(1, 1, middleware.PerSession(), middleware.MaxLimits(100))
	b := open(bus.Config{Receiving: []bus.Middleware{middleware.Commands(limit)}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	fmt.Println(bus.Execute(bus.ContextWithSession(ctx, "one"), b, createUser{Name: "ada"}))
	// Output: id-ada <nil>
}

// At most two charges at once, in this process; others wait.
func ExampleLimit() {
	ctx := context.Background()
	b := open(bus.Config{Receiving: []bus.Middleware{middleware.Limit(2)}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	fmt.Println(bus.Execute(ctx, b, createUser{Name: "ada"}))
	// Output: id-ada <nil>
}

func ExampleReject() {
	ctx := context.Background()
	b := open(bus.Config{})
	defer b.Close(ctx)
	begun, finish := make(chan struct{}), make(chan struct{})
	must(bus.Handle(ctx, b, func(context.Context, createUser) (string, error) {
		close(begun)
		<-finish
		return "done", nil
	}, bus.WithMiddleware(middleware.Limit(1, middleware.Reject()))))
	first := make(chan string)
	go func() {
		id, err := bus.Execute(ctx, b, createUser{})
		must(err)
		first <- id
	}()
	<-begun
	_, err := bus.Execute(ctx, b, createUser{})
	fmt.Println(bus.CodeOf(err), err)
	close(finish)
	fmt.Println(<-first)
	// Output:
	// busy execute user.create: all 1 slots of the limit of the handler of user.create are taken; nothing ran
	// done
}

// Recover lets the middleware outside it see a panic of those inside it.
func ExampleRecover() {
	ctx := context.Background()
	broken := func(bus.Func) bus.Func {
		return func(context.Context, *bus.Message) (any, error) { panic("bug") }
	}
	b := open(bus.Config{Receiving: []bus.Middleware{
		middleware.Logging(printer()), middleware.Recover(), broken,
	}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, create))
	_, err := bus.Execute(ctx, b, createUser{}, bus.WithID("c1"))
	fmt.Println(bus.CodeOf(err))
	// Output:
	// level=WARN msg="message failed" name=user.create kind=command id=c1 handler=accounts attempt=1 err="panic: bug"
	// panic
}

func ExampleOnPanic() {
	ctx := context.Background()
	alert := func(_ context.Context, m *bus.Message, value any, stack string) {
		fmt.Println(m.Name, m.ID, "panicked:", value, len(stack) > 0)
	}
	b := open(bus.Config{Receiving: []bus.Middleware{middleware.Recover(middleware.OnPanic(alert))}})
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(context.Context, createUser) (string, error) { panic("bug") }))
	_, err := bus.Execute(ctx, b, createUser{}, bus.WithID("c1"))
	fmt.Println(err)
	// Output:
	// user.create c1 panicked: bug true
	// execute user.create: panic: bug
}

type requestIDKey struct{}

func requestIDFrom(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

func withRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

func ExampleCorrelation() {
	ctx := context.Background()
	requestID := middleware.Correlation("Request-Id", requestIDFrom, withRequestID)
	b := open(bus.Config{Sending: []bus.Middleware{requestID}, Receiving: []bus.Middleware{requestID}})
	defer b.Close(ctx)

	done := make(chan string)
	_, err := bus.Subscribe(ctx, b, func(ctx context.Context, _ userCreated) error {
		done <- requestIDFrom(ctx)
		return nil
	})
	must(err)
	must(bus.Handle(ctx, b, func(ctx context.Context, c createUser) (string, error) {
		return requestIDFrom(ctx), bus.Publish(ctx, b, userCreated{Name: c.Name})
	}))
	fmt.Println(bus.Execute(withRequestID(ctx, "r-7"), b, createUser{Name: "ada"}))
	fmt.Println(<-done, "in what the handler sends, too")
	// Output:
	// r-7 <nil>
	// r-7 in what the handler sends, too
}

// A sender that repeats itself after the log has forgotten the first time.
func ExampleDeduplicate() {
	ctx := context.Background()
	tr := memory.New(memory.Config{DedupWindow: time.Nanosecond})
	b, err := bus.New(tr, bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)
	names := make(chan string)
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e userCreated) error {
		names <- e.Name
		return nil
	}, bus.WithConcurrency(1), bus.WithMiddleware(middleware.Deduplicate(time.Hour)))
	must(err)
	for range 3 {
		must(bus.Publish(ctx, b, userCreated{Name: "ada"}, bus.WithID("user-1")))
	}
	must(bus.Publish(ctx, b, userCreated{Name: "bob"}, bus.WithID("user-2")))
	fmt.Println(<-names, <-names)
	// Output: ada bob
}

// A thousand events are remembered, for an hour at most.
func ExampleDedupSize() {
	ctx := context.Background()
	once := middleware.Deduplicate(time.Hour, middleware.DedupSize(1000))
	b := open(bus.Config{Receiving: []bus.Middleware{once}})
	defer b.Close(ctx)
	done := make(chan string)
	_, err := bus.Subscribe(ctx, b, func(_ context.Context, e userCreated) error { done <- e.Name; return nil })
	must(err)
	must(bus.Publish(ctx, b, userCreated{Name: "ada"}))
	fmt.Println(<-done)
	// Output: ada
}

// What one process has handled, the others know.
func ExampleDedupStore() {
	ctx := context.Background()
	tr := memory.New(memory.Config{DedupWindow: time.Nanosecond})
	once := func() bus.Middleware { // each process makes its own, on the same store
		return middleware.Deduplicate(time.Hour, middleware.DedupStore(tr.Store(), slog.Default()))
	}
	b, err := bus.New(tr, bus.Config{Service: "mailer"})
	must(err)
	defer b.Close(ctx)
	names := make(chan string)
	listen := func(_ context.Context, e userCreated) error { names <- e.Name; return nil }
	sub, err := bus.Subscribe(ctx, b, listen, bus.WithMiddleware(once()))
	must(err)
	must(bus.Publish(ctx, b, userCreated{Name: "ada"}, bus.WithID("user-1")))
	fmt.Println(<-names)
	must(sub.Close(ctx)) // and this is the next process
	_, err = bus.Subscribe(ctx, b, listen, bus.WithConcurrency(1), bus.WithMiddleware(once()))
	must(err)
	must(bus.Publish(ctx, b, userCreated{Name: "ada"}, bus.WithID("user-1")))
	must(bus.Publish(ctx, b, userCreated{Name: "bob"}, bus.WithID("user-2")))
	fmt.Println(<-names)
	// Output:
	// ada
	// bob
}
