package world

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
)

// Logged is a line of the log.
type Logged struct {
	Level slog.Level
	Text  string
	Attrs map[string]slog.Value
}

func (l Logged) String() string { return fmt.Sprint(l.Level, " ", l.Text, " ", l.Attrs) }

// Logs is a slog.Handler that keeps what it is given.
type Logs struct {
	*Record[Logged]
	with []slog.Attr
}

// Logger returns a logger that writes to l.
func (l Logs) Logger() *slog.Logger { return slog.New(l) }

// Handle is of slog.Handler.
func (l Logs) Handle(_ context.Context, r slog.Record) error {
	line := Logged{Level: r.Level, Text: r.Message, Attrs: map[string]slog.Value{}}
	for _, a := range l.with {
		line.Attrs[a.Key] = a.Value
	}
	r.Attrs(func(a slog.Attr) bool { line.Attrs[a.Key] = a.Value.Resolve(); return true })
	l.Add(line)
	return nil
}

// WithGroup is of slog.Handler.
func (l Logs) WithGroup(string) slog.Handler { return l }

// Enabled is of slog.Handler.
func (Logs) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs is of slog.Handler.
func (l Logs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return Logs{l.Record, slices.Concat(l.with, attrs)}
}

// Over returns the lines at a level or above it.
func (l Logs) Over(level slog.Level) (lines []Logged) {
	for _, line := range l.All() {
		if line.Level >= level {
			lines = append(lines, line)
		}
	}
	return lines
}

// NewLogs returns an empty one.
func NewLogs() Logs { return Logs{Record: NewRecord[Logged]()} }
