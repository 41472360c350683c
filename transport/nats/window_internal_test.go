package nats

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// However many publish, a bounded number is on its way; the others wait outside, and
// none is forgotten when it gives up.
func TestPublishesOnTheirWayAreBounded(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		tr, err := Open(t.Context(), Config{Server: s})
		require.NoError(t, err)
		defer tr.Close(context.Background())
		require.NoError(t, tr.link.jetStream().DeleteStream(t.Context(), tr.names.events())) // nobody answers
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range 3 * windowSize {
			wg.Go(func() {
				err := tr.Publish(ctx, &transport.Message{To: transport.Address{Name: "user.created"}, ID: newToken()})
				if err == nil {
					t.Error("stored by nobody")
				}
			})
		}
		onTheWay := func() (slots, waiting int) {
			tr.win.mu.Lock()
			defer tr.win.mu.Unlock()
			return len(tr.win.slots), len(tr.win.waiting)
		}
		for range 9 {
			time.Sleep(time.Second)
			slots, waiting := onTheWay()
			require.Equal(t, windowSize, slots)
			require.Equal(t, windowSize, waiting)
		}
		wg.Wait()
		slots, waiting := onTheWay()
		require.Zero(t, slots)
		require.Zero(t, waiting)
	})
}
