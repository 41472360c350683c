package resilience_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/resilience"
)

// A limiter between a producer and workers that it must not run away from.
func ExampleAIMD() {
	l := resilience.NewAIMD(250 * time.Millisecond)
	work := make(chan time.Time, 100)
	done := make(chan int)
	go func() {
		n := 0
		for queued := range work {
			l.Observe(time.Since(queued))
			n++
		}
		done <- n
	}()
	for range 3 {
		if _, err := l.Wait(context.Background(), 1); err != nil {
			fmt.Println(err)
		}
		work <- time.Now()
	}
	close(work)
	fmt.Println(<-done, l.Rate())

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err := l.Wait(ctx, 1) // after three at 100 a second
	fmt.Println(err)
	// Output:
	// 3 100
	// rate limited
	// context deadline exceeded
}
