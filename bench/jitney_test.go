package bench

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
	jitneynats "github.com/jitney-bus/jitney/transport/nats"
)

func natsBus(b *testing.B, url, service string) *bus.Bus {
	b.Helper()
	tr, err := jitneynats.Open(b.Context(), jitneynats.Config{URL: url})
	require.NoError(b, err)
	m, err := bus.New(tr, bus.Config{Service: service})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, m.Close(context.Background())) })
	return m
}

func memoryBus(b *testing.B) *bus.Bus {
	b.Helper()
	m, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "bench"})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, m.Close(context.Background())) })
	return m
}

func handlePlace(_ context.Context, c Place) (Receipt, error) { return receipt(c.Order), nil }
