package bus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/filter"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

func audit(next bus.Func) bus.Func { return next }

// Everything that a message meets, as a table. With NATS it has the subjects too.
func ExampleBus_Describe() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{
		Service:   "accounts",
		Sending:   []bus.Middleware{audit},
		Receiving: []bus.Middleware{middleware.Recover(), audit},
	})
	must(err)
	defer b.Close(ctx)

	must(bus.Handle(ctx, b, createUser, bus.WithMiddleware(middleware.Timeout(time.Second))))
	welcome := func(context.Context, UserCreated) error { return nil }
	_, err = bus.Subscribe(ctx, b, welcome, bus.WithName("welcome"), bus.WithPriority(100),
		bus.WithRetry(resilience.Retry{MaxRetries: 5, Initial: time.Minute, Max: time.Hour}))
	must(err)
	_, err = bus.Subscribe(ctx, b, welcome, bus.WithName("count"), bus.WithFilter(filter.Sample(0.1)))
	must(err)
	_, err = bus.SubscribeBatch(ctx, b, func(context.Context, []UserCreated) error { return nil }, bus.WithGroup("search"))
	must(err)

	fmt.Print(b.Describe())
	// Output:
	// service    accounts
	// sending    bus_test.audit
	// retry      3 retries after 100ms, doubling up to 10s, full jitter
	//
	// KIND     NAME          GROUP     HANDLER   PRIO  CONC
	// command  user.create   -         accounts  -     64
	//   type     bus_test.CreateUser
	//   chain    middleware.Recover > bus_test.audit > middleware.Timeout (own)
	// event    user.created  accounts  welcome   100   16
	//   type     bus_test.UserCreated
	//   retry    5 retries after 1m, doubling up to 1h, full jitter
	//   chain    middleware.Recover > bus_test.audit
	// event    user.created  accounts  count     50    16
	//   type     bus_test.UserCreated
	//   filter   sample(0.1)
	//   chain    middleware.Recover > bus_test.audit
	// event    user.created  search    default   50    1
	//   type     []bus_test.UserCreated
	//   batch    up to 100 events or 1 MiB, or after 100ms
	//   chain    middleware.Recover > bus_test.audit
}

// A Description is plain data.
func ExampleDescription() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Receiving: []bus.Middleware{audit}})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, createUser, bus.WithConcurrency(8), bus.WithMiddleware(middleware.Recover())))

	text, err := json.MarshalIndent(b.Describe(), "", "  ")
	must(err)
	fmt.Println(string(text))
	// Output:
	// {
	//   "retry": "3 retries after 100ms, doubling up to 10s, full jitter",
	//   "handlers": [
	//     {
	//       "kind": "command",
	//       "name": "user.create",
	//       "type": "bus_test.CreateUser",
	//       "priority": 0,
	//       "concurrency": 8,
	//       "chain": [
	//         {
	//           "name": "bus_test.audit"
	//         },
	//         {
	//           "name": "middleware.Recover",
	//           "own": true
	//         }
	//       ]
	//     }
	//   ]
	// }
}
