package memory

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func TestCatchUpLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		tr := New(Config{})
		got, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done"})
		require.NoError(t, err)
		src := got.(*privateSource)
		require.NoError(t, tr.Publish(ctx, &transport.Message{To: transport.Address{Name: "a.done"}}))
		for range 10 {
			short, cancel := context.WithTimeout(ctx, time.Second)
			require.ErrorIs(t, src.CatchUp(short, 0), context.DeadlineExceeded)
			cancel()
		}
		require.Empty(t, src.q.catching)
		d, err := src.Next(ctx)
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- src.CatchUp(ctx, 0) }()
		synctest.Wait()
		require.Len(t, src.q.catching, 1)
		require.NoError(t, d.Ack(ctx))
		require.NoError(t, <-done)
		require.Empty(t, src.q.catching)
		require.NoError(t, tr.Close(ctx))
	})
}

// What a reader loses by falling behind is not waited for.
func TestCatchUpWithDroppedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		tr := New(Config{MaxPrivate: 2})
		got, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done"})
		require.NoError(t, err)
		src := got.(*privateSource)
		publish := func(n int) {
			for range n {
				require.NoError(t, tr.Publish(ctx, &transport.Message{To: transport.Address{Name: "a.done"}}))
			}
		}
		publish(3) // the first is dropped
		require.EqualValues(t, 1, tr.Stats().Dropped)
		done := make(chan error, 1)
		go func() { done <- src.CatchUp(ctx, 0) }()
		synctest.Wait()
		publish(1)
		synctest.Wait()
		require.Empty(t, done)
		publish(1) // now both that it waits for are
		require.NoError(t, <-done)
		for range 2 {
			d, err := src.Next(ctx)
			require.NoError(t, err)
			require.NoError(t, d.Ack(ctx))
		}
		require.NoError(t, src.CatchUp(ctx, 0))
		require.NoError(t, tr.Close(ctx))
	})
}
