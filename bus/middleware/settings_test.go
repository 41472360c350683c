package middleware_test

import (
	"context"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

// Every setting that breaks its rule is an error of the registration that names
// the constructor, the setting and the place.
func TestSettingsThatAreWrong(t *testing.T) {
	var noTimings *middleware.Timings
	get := func(context.Context) string { return "" }
	set := func(ctx context.Context, _ string) context.Context { return ctx }
	tests := []struct {
		m    bus.Middleware
		want string
	}{
		{middleware.Logging(nil), "Logging: the logger is nil"},
		{noTimings.Middleware, "Timings: the *Timings is nil"},
		{middleware.Timeout(0), "Timeout: 0s is not positive"},
		{middleware.Timeout(-1), "Timeout: -1ns is not positive"},
		{middleware.Retry(resilience.Retry{MaxRetries: -2}), "Retry: retry: MaxRetries is -2"},
		{middleware.Retry(resilience.Retry{}, middleware.OnlyIf(nil)), "Retry: the function of OnlyIf is nil"},
		{middleware.Validate(nil), "Validate: the function is nil"},
		{middleware.ValidateType[*slog.Logger](nil), "ValidateType: the function for *slog.Logger is nil"},
		{middleware.Commands(nil), "Commands: the middleware is nil"},
		{middleware.Events(nil), "Events: the middleware is nil"},
		{middleware.Events(middleware.Timeout(0)), "Timeout: 0s is not positive"},
		{middleware.RateLimit(0, 1), "RateLimit: the limit of 0 a second"},
		{middleware.RateLimit(-1, 1), "RateLimit: the limit of -1 a second"},
		{middleware.RateLimit(rate.Limit(math.NaN()), 1), "RateLimit: the limit of NaN a second"},
		{middleware.RateLimit(1, 0), "RateLimit: the burst of 0"},
		{middleware.RateLimit(1, 1, middleware.MaxLimits(0)), "RateLimit: MaxLimits(0)"},
		{middleware.Recover(middleware.OnPanic(nil)), "Recover: the function of OnPanic is nil"},
		{middleware.Correlation("", get, set), `Correlation: header key ""`},
		{middleware.Correlation("a b", get, set), `Correlation: header key "a b"`},
		{middleware.Correlation("a:b", get, set), `Correlation: header key "a:b"`},
		{middleware.Correlation("nats-id", get, set), `Correlation: header key "nats-id" is reserved`},
		{middleware.Correlation("Jitney-X", get, set), `Correlation: header key "Jitney-X" is reserved`},
		{middleware.Correlation("content-TYPE", get, set), "reserved"},
		{middleware.Correlation("X", nil, set), "Correlation: X needs both functions"},
		{middleware.Correlation("X", get, nil), "Correlation: X needs both functions"},
		{middleware.Deduplicate(0), "Deduplicate: the window of 0s"},
		{middleware.Deduplicate(time.Minute, middleware.DedupSize(-5)), "Deduplicate: DedupSize(-5)"},
		{middleware.Deduplicate(time.Minute, middleware.DedupStore(nil, nil)), "Deduplicate: the store of DedupStore is nil"},
		{middleware.Limit(0), "Limit: 0 is not positive"},
	}
	tr := memory.New(memory.Config{})
	defer tr.Close(t.Context())
	for _, tt := range tests {
		require.NotNil(t, tt.m, tt.want)
		fine := middleware.RequireSession()
		for what, cfg := range map[string]bus.Config{
			"Sending":   {Sending: []bus.Middleware{fine, tt.m}},
			"Receiving": {Receiving: []bus.Middleware{fine, tt.m}},
		} {
			_, err := bus.New(tr, cfg)
			require.Equal(t, bus.CodeInvalid, bus.CodeOf(err), tt.want)
			require.ErrorContains(t, err, "Config."+what+"[1] cannot be built: middleware.")
			require.ErrorContains(t, err, tt.want)
		}
	}
}

// What fits is what the bus would take: it has the last word on headers.
func TestCorrelationTakesTheKeysThatTheBusTakes(t *testing.T) {
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "s"})
	require.NoError(t, err)
	defer b.Close(t.Context())
	for _, key := range []string{
		"X", "request_id", "Request-Id", "NATS", "natsy-x", "", " ", "a b", "ä", "a\n", "a:b", "~", "!",
		"Nats-", "nats-x", "Jitney-", "JITNEY-y", "jitneyx", "Status", "status", "Statuses", "Description", "Content-Type", "Content-Types",
	} {
		m := middleware.Correlation(key, func(context.Context) string { return "" }, func(ctx context.Context, _ string) context.Context { return ctx })
		_, err := bus.New(memory.New(memory.Config{}), bus.Config{Sending: []bus.Middleware{m}})
		sent := bus.Publish(t.Context(), b, userCreated{}, bus.WithHeader(key, "v"))
		require.Equal(t, sent == nil, err == nil, "key %q: bus %v, middleware %v", key, sent, err)
	}
}
