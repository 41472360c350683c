package middleware_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

func TestRecoverMakesAnErrorOfAPanic(t *testing.T) {
	var told []any
	var stacks string
	tell := middleware.OnPanic(func(_ context.Context, m *bus.Message, value any, stack string) {
		told = append(told, m.ID, value)
		stacks += stack
	})
	f := middleware.Recover(tell, tell)(func(context.Context, *bus.Message) (any, error) { panic(errOops) })
	_, err := f(t.Context(), handledCommand())
	require.EqualError(t, err, "panic: oops")
	require.ErrorIs(t, err, errOops)
	_, stack, ok := bus.PanicOf(err)
	require.True(t, ok)
	require.Contains(t, stack, "recover_test.go")
	require.Equal(t, []any{"c1", errOops, "c1", errOops}, told)
	require.Contains(t, stacks, "recover_test.go")
}

func TestRecoverLetsTheRestPass(t *testing.T) {
	told := 0
	f := middleware.Recover(middleware.OnPanic(func(context.Context, *bus.Message, any, string) { told++ }))((&answers{errs: repeat(errOops, 1)}).handle)
	_, err := f(t.Context(), handledCommand())
	require.Equal(t, errOops, err)
	v, err := f(t.Context(), handledCommand())
	require.NoError(t, err)
	require.Equal(t, "done", v)
	require.Zero(t, told)
}
