package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// logger hands the server's reports to slog. It remembers the first fatal one,
// since only a server of its own may end the process.
type logger struct {
	log *slog.Logger

	mu    sync.Mutex
	first error
}

func (l *logger) report(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, "nats server reports", "report", fmt.Sprintf(format, v...))
	}
}

func (l *logger) Noticef(format string, v ...any) { l.report(slog.LevelDebug, format, v) }
func (l *logger) Warnf(format string, v ...any)   { l.report(slog.LevelWarn, format, v) }
func (l *logger) Errorf(format string, v ...any)  { l.report(slog.LevelError, format, v) }
func (l *logger) Debugf(format string, v ...any)  { l.report(slog.LevelDebug, format, v) }
func (l *logger) Tracef(format string, v ...any)  { l.report(slog.LevelDebug, format, v) }

func (l *logger) Fatalf(format string, v ...any) {
	l.report(slog.LevelError, format, v)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = fmt.Errorf(format, v...)
	}
}

// fatal returns the first fatal report, or nil.
func (l *logger) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}
