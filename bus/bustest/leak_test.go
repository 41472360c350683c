package bustest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus/bustest"
)

// leak leaves a goroutine that waits for end.
func leak(end <-chan struct{}) { go wait(end) }

func wait(end <-chan struct{}) { <-end }

// A goroutine that a handler, or the test, leaves behind fails that test and no
// other, also of those that run at the same time.
func TestLeaks(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	inHandler := func(t testing.TB, h *bustest.Harness) {
		subscribe(t, h.Bus, func(context.Context, OrderPlaced) error {
			leak(end)
			leak(end)
			return nil
		})
		publish(t, h.Bus, OrderPlaced{})
	}
	for name, c := range map[string]struct {
		test func(t testing.TB, h *bustest.Harness)
		opts []bustest.Option
		want string
	}{
		"none":         {test: func(testing.TB, *bustest.Harness) {}},
		"in a handler": {test: inHandler, want: "\t2 with this stack:\n\t\tgithub.com/jitney-bus/jitney/bus/bustest_test.wait"},
		"in the test":  {test: func(testing.TB, *bustest.Harness) { leak(end) }, want: "\t1 with this stack:\n\t\tgithub.com/jitney-bus/jitney/bus/bustest_test.wait"},
		"ignored": {test: inHandler, opts: []bustest.Option{
			bustest.IgnoreGoroutines("some.other", "github.com/jitney-bus/jitney/bus/bustest_test.wait"),
		}},
		"of a test that failed otherwise": {test: func(t testing.TB, h *bustest.Harness) { leak(end); t.Errorf("own") }, want: "own"},
		"of two harnesses": {test: func(t testing.TB, h *bustest.Harness) {
			other := bustest.New(t)
			subscribe(t, h.Bus, done[OrderPlaced]) // its goroutines outlive the other harness
			publish(t, h.Bus, OrderPlaced{})
			publish(t, other.Bus, OrderPlaced{})
		}},
		"of the first of two harnesses": {test: func(t testing.TB, h *bustest.Harness) {
			bustest.New(t)
			inHandler(t, h)
		}, want: "\t2 with this stack:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			output, failed := pretendHarness(c.test, c.opts...)
			require.Equal(t, c.want != "", failed, output)
			require.Contains(t, output, c.want)
		})
	}
}

// Go's goroutines are told by where they were started.
func TestGoLeaks(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	output, failed := pretendHarness(func(_ testing.TB, h *bustest.Harness) {
		h.Go(func() { <-end })
	}, bustest.AllowPending())
	require.True(t, failed)
	require.Equal(t, "bustest: the goroutine that Go started at leak_test.go:LINE still runs", anyLine.ReplaceAllString(output, "go:LINE"))
}
