package memory_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Everything that a transport holds is bounded. Where the log is full a publisher
// waits, and learns which group is behind if it may not wait for longer.
func ExampleConfig() {
	ctx := context.Background()
	tr := memory.New(memory.Config{
		MaxEvents:        2,                // that a group has still to settle
		MaxHistory:       100,              // that are there for who begins with the oldest
		MaxPrivate:       1_000,            // for one private listener
		DedupWindow:      10 * time.Second, // for which an ID is remembered
		MaxDedup:         1_000,            // IDs
		MaxDeadLetters:   50,
		MaxDeadLetterAge: 24 * time.Hour,
		DropDeadLetters:  true, // the oldest, instead of refusing the newest
		MaxStore:         64 << 20,
	})
	defer tr.Close(ctx)
	_, err := tr.Subscribe(ctx, transport.Subscription{Name: "user.created", Group: "mailer"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, user := range []string{"ada", "bob", "eve"} {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		err := tr.Publish(ctx, &transport.Message{To: transport.Address{Name: "user.created"}, Value: user})
		var full *transport.BacklogError
		if errors.As(err, &full) {
			fmt.Println(user, "is refused:", full.Group, "holds", full.Limit)
			continue
		}
		fmt.Println(user, err)
	}
	// Output:
	// ada <nil>
	// bob <nil>
	// eve is refused: mailer holds 2
}
