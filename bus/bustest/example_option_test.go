package bustest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

func ExampleWithConfig() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.WithConfig(bus.Config{
			Service: "shop", Retry: resilience.Retry{MaxRetries: resilience.NoRetries},
		}))
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { return errors.New("no") })
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		fmt.Println(bustest.Failed[OrderPlaced](h).One().Meta.Group)
	})
	// Output: shop
}

func ExampleWithDriver() {
	example(func(t testing.TB) {
		// The test has one process, so its transport may be a driver's own.
		h := bustest.New(t, bustest.WithDriver(func(context.Context) (transport.Transport, error) {
			return memory.New(memory.Config{MaxEvents: 1}), nil
		}))
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}, bus.WithDelay(time.Hour)))
		err := bus.Publish(t.Context(), h.Bus, OrderPlaced{}, bus.WithDelay(time.Hour), bus.WithTimeout(time.Millisecond))
		fmt.Println(bus.CodeOf(err))
	})
	// Output: backlog
}

func ExampleWithTimeout() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.WithTimeout(10*time.Second))
		h.Wait()
	})
	// Output:
}

func ExampleAllowFailures() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.AllowFailures())
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error { panic("oh") })
		must(err)
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
	})
	// Output:
}

func ExampleAllowPending() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.AllowPending())
		_, err := bus.Subscribe(t.Context(), h.Bus, func(context.Context, OrderPlaced) error {
			return bus.RetryAfter(time.Hour, errors.New("later"))
		})
		must(err)
		bustest.Failed[OrderPlaced](h).Allow()
		must(bus.Publish(t.Context(), h.Bus, OrderPlaced{}))
		// The test ends now, not in an hour.
	})
	// Output:
}

func ExampleWithoutBus() {
	example(func(t testing.TB) {
		h := bustest.New(t, bustest.WithoutBus())
		fmt.Println(h.Bus == nil)
	})
	// Output: true
}

func ExampleIgnoreGoroutines() {
	example(func(t testing.TB) {
		bustest.New(t, bustest.IgnoreGoroutines("database/sql.(*DB).connectionOpener"))
	})
	// Output:
}
