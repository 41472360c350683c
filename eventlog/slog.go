package eventlog

import (
	"context"
	"log/slog"
)

// Slog is a Sink that writes each entry as a line of log: what ended well at the
// level ok, such as slog.LevelInfo, and what did not at failed. The message is
// "command" or "event" with the stage, the attributes have the names that they have
// as JSON.
func Slog(log *slog.Logger, ok, failed slog.Level) Sink {
	return Func(func(e Entry) error {
		level := ok
		if e.Code != "" {
			level = failed
		}
		ctx := context.Background()
		if !log.Enabled(ctx, level) {
			return nil
		}
		attrs := append(make([]slog.Attr, 0, 12), slog.String("outcome", string(e.Outcome)), slog.String("name", e.Name), slog.String("id", e.ID))
		for _, a := range []slog.Attr{
			slog.String("session", e.Session), slog.String("correlation_id", e.CorrelationID), slog.String("causation_id", e.CausationID),
			slog.String("group", e.Group), slog.String("handler", e.Handler),
		} {
			if a.Value.String() != "" {
				attrs = append(attrs, a)
			}
		}
		if e.Attempt > 0 {
			attrs = append(attrs, slog.Int("attempt", e.Attempt))
		}
		attrs = append(attrs, slog.Duration("elapsed", e.Elapsed))
		if e.Delay > 0 {
			attrs = append(attrs, slog.Duration("delay", e.Delay))
		}
		if e.Code != "" {
			attrs = append(attrs, slog.String("code", string(e.Code)), slog.String("err", e.Err))
		}
		r := slog.NewRecord(e.Time, level, e.Kind.String()+" "+e.Stage.String(), 0)
		r.AddAttrs(attrs...)
		return log.Handler().Handle(ctx, r)
	})
}
