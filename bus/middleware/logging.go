package middleware

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// LogOption is an option of Logging.
type LogOption interface{ log(*logOptions) }

type logOptions struct{ success, failure slog.Level }

type logOption func(*logOptions)

func (f logOption) log(o *logOptions) { f(o) }

// LogLevels sets the level of messages that succeed and of those that fail.
// Default: slog.LevelDebug and slog.LevelWarn.
func LogLevels(success, failure slog.Level) LogOption {
	return logOption(func(o *logOptions) { o.success, o.failure = success, failure })
}

// Logging writes one line for each message, on either chain: "message handled" or
// "message sent" if the rest of the chain succeeded, "message failed" if not. The
// attributes are name, kind, id, elapsed and, where there is one, session, group,
// handler, batch (how many events), attempt (on the receiving side) and err. Bodies and headers are never
// written. The logger gets the message's context, so that a slog.Handler may add
// what Correlation put there.
//
// A failed run is in the log of Config.Logger as well; this one has the times, the
// sending side and the successes.
func Logging(log *slog.Logger, opts ...LogOption) bus.Middleware {
	if log == nil {
		return invalid("Logging", "the logger is nil; use slog.Default or one of your own")
	}
	o := logOptions{success: slog.LevelDebug, failure: slog.LevelWarn}
	for _, opt := range opts {
		opt.log(&o)
	}
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (v any, err error) {
			began := time.Now()
			err = errNoReturn
			defer func() { o.write(ctx, log, m, time.Since(began), err) }()
			return next(ctx, m)
		}
	}
}

// errNoReturn stands for the outcome of a chain that panicked or ended its
// goroutine: the bus makes an error of that further out.
var errNoReturn = errors.New("did not return")

func (o *logOptions) write(ctx context.Context, log *slog.Logger, m *bus.Message, elapsed time.Duration, err error) {
	level, text := o.success, "message handled"
	switch {
	case err != nil:
		level, text = o.failure, "message failed"
	case sending(m):
		text = "message sent"
	}
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs, slog.String("name", m.Name), slog.String("kind", m.Kind.String()), slog.String("id", m.ID))
	for _, a := range []slog.Attr{
		slog.String("session", m.Session), slog.String("group", m.Group), slog.String("handler", m.Handler),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	if m.Events != nil {
		attrs = append(attrs, slog.Int("batch", len(m.Events)))
	}
	if !sending(m) {
		attrs = append(attrs, slog.Int("attempt", m.Attempt))
	}
	attrs = append(attrs, slog.Duration("elapsed", elapsed))
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	log.LogAttrs(ctx, level, text, attrs...)
}
