package filter

import (
	"context"
	"log/slog"

	"github.com/jitney-bus/jitney/bus"
)

// Debug passes every event and logs it at slog.LevelDebug: its name, id and
// session, and on the receiving side whose it is to be and which attempt; never
// its body.
func Debug(log *slog.Logger) bus.Filter {
	const label = "debug"
	if log == nil {
		return invalid(label, "the logger is nil")
	}
	return bus.Filter{Name: label, Pass: func(m *bus.Message) bool {
		ctx := context.Background()
		if !log.Enabled(ctx, slog.LevelDebug) {
			return true
		}
		attrs := []slog.Attr{slog.String("name", m.Name), slog.String("id", m.ID), slog.String("session", m.Session)}
		if m.Handler != "" {
			attrs = append(attrs, slog.String("group", m.Group), slog.String("handler", m.Handler), slog.Int("attempt", m.Attempt))
		}
		log.LogAttrs(ctx, slog.LevelDebug, "event at filter", attrs...)
		return true
	}}
}
