package middleware_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

func TestCorrelation(t *testing.T) {
	got := "not called"
	f := middleware.Correlation("Request-Id", requestIDFrom, withRequestID)(func(ctx context.Context, _ *bus.Message) (any, error) {
		got = requestIDFrom(ctx)
		return nil, nil
	})
	run := func(ctx context.Context, m *bus.Message) {
		t.Helper()
		_, err := f(ctx, m)
		require.NoError(t, err)
	}
	for _, m := range []*bus.Message{sentCommand(), sentEvent()} {
		run(withRequestID(t.Context(), "r1"), m)
		require.Equal(t, bus.Header{"Request-Id": {"r1"}}, m.Header)
		run(withRequestID(t.Context(), "r2"), m)
		require.Equal(t, bus.Header{"Request-Id": {"r1"}}, m.Header, "what is set stays")
		m.Header = bus.Header{}
		run(t.Context(), m)
		require.Empty(t, m.Header)
	}
	for _, m := range []*bus.Message{handledCommand(), handledEvent()} {
		run(t.Context(), m)
		require.Empty(t, got)
		m.Header = bus.Header{"Request-Id": {"r1"}}
		run(t.Context(), m)
		require.Equal(t, "r1", got)
		run(withRequestID(t.Context(), "own"), handledCommand())
		require.Equal(t, "own", got, "without the header the context is left alone")
	}
}
