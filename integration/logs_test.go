package integration_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
)

// logged is a line of the log.
type logged struct {
	level slog.Level
	text  string
	attrs map[string]slog.Value
}

func (l logged) String() string { return fmt.Sprint(l.level, " ", l.text, " ", l.attrs) }

// logs is a slog.Handler that keeps what it is given.
type logs struct {
	*record[logged]
	with []slog.Attr
}

func (l logs) logger() *slog.Logger { return slog.New(l) }

func (l logs) Handle(_ context.Context, r slog.Record) error {
	line := logged{level: r.Level, text: r.Message, attrs: map[string]slog.Value{}}
	for _, a := range l.with {
		line.attrs[a.Key] = a.Value
	}
	r.Attrs(func(a slog.Attr) bool { line.attrs[a.Key] = a.Value.Resolve(); return true })
	l.add(line)
	return nil
}

func (l logs) WithGroup(string) slog.Handler { return l }

func (logs) Enabled(context.Context, slog.Level) bool { return true }

func (l logs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logs{l.record, slices.Concat(l.with, attrs)}
}

// over returns the lines at a level or above it.
func (l logs) over(level slog.Level) (lines []logged) {
	for _, line := range l.all() {
		if line.level >= level {
			lines = append(lines, line)
		}
	}
	return lines
}

func newLogs() logs { return logs{record: newRecord[logged]()} }
