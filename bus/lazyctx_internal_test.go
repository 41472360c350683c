package bus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type ctxKey struct{}

func TestLazyContextBehavesLikeAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), ctxKey{}, "v"))
		defer cancel(nil)
		end := time.Now().Add(time.Minute)
		c := &lazyContext{parent: parent, deadline: end}
		got, ok := c.Deadline()
		require.True(t, ok)
		require.Equal(t, end, got)
		require.NoError(t, c.Err())
		require.Equal(t, "v", c.Value(ctxKey{}))

		child, cancelChild := context.WithTimeout(c, time.Hour)
		defer cancelChild()
		<-child.Done()
		require.Equal(t, end, time.Now(), "the child ends with it")
		require.ErrorIs(t, c.Err(), context.DeadlineExceeded)
		require.ErrorIs(t, context.Cause(child), context.DeadlineExceeded)
	})
}

func TestLazyContextEndsWithoutDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &lazyContext{parent: t.Context(), deadline: time.Now().Add(time.Second)}
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, c.Err(), context.DeadlineExceeded, "nobody asked for Done")
		<-c.Done()
	})
}

func TestLazyContextAbort(t *testing.T) {
	boom := errors.New("boom")
	c := &lazyContext{parent: t.Context()}
	c.abort(boom)
	c.abort(errors.New("second"))
	<-c.Done()
	require.ErrorIs(t, c.Err(), context.Canceled)
	require.Equal(t, boom, context.Cause(c))
	require.Equal(t, boom, c.aborted())
}

func TestLazyContextEnd(t *testing.T) {
	for name, first := range map[string]func(*lazyContext){
		"unused":    func(*lazyContext) {},
		"asked for": func(c *lazyContext) { c.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			c := &lazyContext{parent: t.Context(), deadline: time.Now().Add(time.Hour)}
			first(c)
			c.end()
			<-c.Done()
			require.ErrorIs(t, c.Err(), context.Canceled)
		})
	}
}

func TestLazyContextFollowsItsParent(t *testing.T) {
	parent, cancel := context.WithCancelCause(t.Context())
	c := &lazyContext{parent: parent}
	cancel(ErrStopped)
	require.ErrorIs(t, c.Err(), context.Canceled)
	<-c.Done()
	require.Equal(t, ErrStopped, context.Cause(c))
}

func TestLazyContextHasTheEarlierDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		want, _ := early.Deadline()
		for _, c := range []*lazyContext{
			{parent: early},
			{parent: early, deadline: time.Now().Add(time.Hour)},
			{parent: early, timeout: time.Hour},
		} {
			got, ok := c.Deadline()
			require.True(t, ok)
			require.Equal(t, want, got)
			<-c.Done()
			require.Equal(t, want, time.Now())
			require.ErrorIs(t, c.Err(), context.DeadlineExceeded)
			c.end()
		}
	})
}

func TestLazyContextEndsWithItsParentsDeadline(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ parent, own, want time.Duration }{
		{time.Second, time.Hour, time.Second},
		{time.Hour, time.Second, time.Second},
		{time.Hour, 0, time.Hour},
	} {
		parent, cancel := context.WithDeadline(t.Context(), now.Add(c.parent))
		defer cancel()
		l := &lazyContext{parent: parent}
		if c.own > 0 {
			l.deadline = now.Add(c.own)
		}
		for range 2 { // before and after it is a real one
			d, ok := l.Deadline()
			require.True(t, ok)
			require.Equal(t, now.Add(c.want), d)
			l.Done()
		}
		l.end()
	}
}
