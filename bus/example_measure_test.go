package bus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// slowest keeps the longest run of each handler.
type slowest struct {
	all map[bus.HandlerKey]*atomic.Int64
}

func (s slowest) Handler(key bus.HandlerKey) bus.Timings {
	longest := new(atomic.Int64)
	s.all[key] = longest
	return bus.Timings{Run: func(d time.Duration) {
		longest.Store(max(longest.Load(), int64(d)))
	}}
}

// A meter is asked once for each handler what to tell times to, so that nothing has
// to be looked up for a message. Package metrics has one for Prometheus.
func ExampleBus_Measure() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)
	must(bus.Handle(ctx, b, func(context.Context, CreateUser) (UserID, error) {
		time.Sleep(time.Millisecond)
		return "user-alice", nil
	}))

	s := slowest{map[bus.HandlerKey]*atomic.Int64{}}
	stop := b.Measure(s)
	defer stop()
	_, err = bus.Execute(ctx, b, CreateUser{Name: "alice"})
	must(err)
	for key, longest := range s.all {
		fmt.Println(key.Kind, key.Name, time.Duration(longest.Load()) >= time.Millisecond)
	}
	// Output: command user.create true
}
