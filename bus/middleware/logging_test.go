package middleware_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

// lines returns what was logged, without the time.
func lines(t *testing.T, out *bytes.Buffer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for d := json.NewDecoder(out); d.More(); {
		line := map[string]any{}
		require.NoError(t, d.Decode(&line))
		delete(line, "time")
		all = append(all, line)
	}
	return all
}

func TestLoggingWritesOneLineForEachMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		a := &answers{errs: []error{nil, errOops}}
		f := middleware.Logging(log)(func(ctx context.Context, m *bus.Message) (any, error) {
			time.Sleep(2 * time.Millisecond)
			return a.handle(ctx, m)
		})
		ok := handledEvent()
		ok.Session, ok.Attempt, ok.Value = "s 1", 3, userCreated{Name: "secret"}
		ok.Header = bus.Header{"Token": {"secret"}}
		_, err := f(t.Context(), ok)
		require.NoError(t, err)
		_, err = f(t.Context(), sentCommand())
		require.Equal(t, errOops, err, "as it is")
		v, err := f(t.Context(), sentCommand())
		require.NoError(t, err)
		require.Equal(t, "done", v)
		batch := handledEvent()
		batch.Events = make([]*bus.Message, 7)
		_, err = f(t.Context(), batch)
		require.NoError(t, err)

		require.NotContains(t, out.String(), "secret")
		elapsed := float64(2 * time.Millisecond)
		require.Equal(t, []map[string]any{
			{"level": "DEBUG", "msg": "message handled", "name": "user.created", "kind": "event", "id": "e1", "session": "s 1",
				"group": "mailer", "handler": "default", "attempt": 3.0, "elapsed": elapsed},
			{"level": "WARN", "msg": "message failed", "name": "user.create", "kind": "command", "id": "c1", "elapsed": elapsed, "err": "oops"},
			{"level": "DEBUG", "msg": "message sent", "name": "user.create", "kind": "command", "id": "c1", "elapsed": elapsed},
			{"level": "DEBUG", "msg": "message handled", "name": "user.created", "kind": "event", "id": "e1",
				"group": "mailer", "handler": "default", "batch": 7.0, "attempt": 1.0, "elapsed": elapsed},
		}, lines(t, &out))
	})
}

func TestLoggingOfAChainThatPanics(t *testing.T) {
	var out bytes.Buffer
	f := middleware.Logging(slog.New(slog.NewJSONHandler(&out, nil)))(func(context.Context, *bus.Message) (any, error) { panic("bug") })
	require.PanicsWithValue(t, "bug", func() { _, _ = f(t.Context(), handledCommand()) })
	all := lines(t, &out)
	require.Len(t, all, 1)
	require.Equal(t, "did not return", all[0]["err"])
}

func TestLogLevels(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil)) // from Info on
	a := &answers{errs: []error{errOops, nil, nil}}
	quiet := middleware.Logging(log, middleware.LogLevels(slog.LevelInfo, slog.LevelDebug))(a.handle)
	_, _ = quiet(t.Context(), handledCommand())
	require.Empty(t, lines(t, &out))
	_, _ = quiet(t.Context(), handledCommand())
	require.Equal(t, "INFO", lines(t, &out)[0]["level"])
	_, _ = middleware.Logging(log)(a.handle)(t.Context(), handledCommand())
	require.Empty(t, lines(t, &out))
}
