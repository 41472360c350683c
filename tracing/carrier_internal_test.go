package tracing

import (
	"context"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"

	"github.com/jitney-bus/jitney/bus"
)

// Whatever a message says of its trace, what is made of it is one that W3C allows, and
// what is written for the next message keeps no message from being sent.
func FuzzCarrier(f *testing.F) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, s := range [][2]string{
		{good, "a=b"}, {good, strings.Repeat("a=b,", 500)}, {"", ""}, {"00-zz", "\x00"}, {"ff" + good[2:], "\xff=\xff"},
		{good + "-more", "a=" + strings.Repeat("x", 5000)}, {strings.Repeat("0", 55), "="}, {"\r\n" + good, "a=b\r\nX: y"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, parent, state string) {
		p := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
		ctx := p.Extract(context.Background(), carrier(bus.Header{"TraceParent": {parent}, "tracestate": {state}, "baggage": {state}, "Empty": {}}))
		out := bus.Header{}
		p.Inject(ctx, carrier(out))
		for key, values := range out {
			require.Equal(t, strings.ToLower(key), key)
			require.Len(t, values, 1)
			require.LessOrEqual(t, len(values[0]), maxValue)
			require.False(t, strings.ContainsFunc(values[0], unicode.IsControl), "%q", values[0])
		}
		// What is set is set only if it can travel.
		carrier(out).Set("tracestate", state)
		require.LessOrEqual(t, len(carrier(out).Get("TraceState")), maxValue)
		require.NotEmpty(t, append(carrier(out).Keys(), "x"))
	})
}
