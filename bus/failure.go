package bus

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
)

// Each failure of a message has one line in the log, which says everything that is
// needed to find the message and what has become of it. Who writes it is who knows
// that: a run that is made again, or whose caller has its error, is told of as it
// ends; one that makes a dead letter when that is stored, or refused; one whose
// lease has ended when it is given up.

// failureLine is the line of one.
type failureLine struct {
	level slog.Level
	text  string
	attrs []slog.Attr
	err   error
	code  Code   // "" for that of err
	dead  string // the dead letter, if it is stored
}

// log writes the line. A panic is an error of the program, whatever becomes of the
// message.
func (b *Bus) logFailure(f failureLine) {
	var p *panicError
	panicked := errors.As(f.err, &p)
	if panicked {
		f.level = slog.LevelError
	}
	ctx := context.Background()
	if !b.log.Enabled(ctx, f.level) {
		return
	}
	attrs := append(f.attrs, slog.Bool("dead_lettered", f.dead != ""))
	if f.dead != "" {
		attrs = append(attrs, slog.String("dead_letter", f.dead))
	}
	attrs = append(attrs, slog.String("code", string(cmp.Or(f.code, codeOfRun(f.err)))), slog.Any("err", f.err))
	if panicked {
		attrs = append(attrs, slog.String("stack", p.stack))
	}
	b.log.LogAttrs(ctx, f.level, f.text, attrs...)
}

// codeOfRun is CodeOf, for the error of a handler.
func codeOfRun(err error) Code {
	if panicked(err) != nil {
		return CodePanic
	}
	return CodeOf(err)
}

// messageAttrs is what every line about a message has.
func messageAttrs(kind Kind, name, id, session, group, handler string, attempt int) []slog.Attr {
	return append(make([]slog.Attr, 0, 16),
		slog.String("kind", kind.String()), slog.String("name", name), slog.String("id", id), slog.String("session", session),
		slog.String("group", group), slog.String("handler", handler), slog.Int("attempt", attempt))
}

func (k *call) attrs() []slog.Attr {
	attrs := messageAttrs(k.who.kind, k.who.name, k.id(), k.envelope().Session, k.who.group, k.who.handler, int(k.attempt))
	if k.events > 0 {
		attrs = append(attrs, slog.Int("events", int(k.events)))
	}
	return attrs
}

// attrs is for a line about the event and one handler, "" for none.
func (f *flight) attrs(handler string, attempt int) []slog.Attr {
	return messageAttrs(KindEvent, f.r.key.name, f.id, f.m.Session, f.r.key.group, handler, attempt)
}

// allAttrs is for a line about the event and all that were to handle it.
func (f *flight) allAttrs() []slog.Attr {
	var names []string
	attempt := 0
	for _, run := range f.runs {
		names = append(names, run.l.name)
		attempt = max(attempt, run.attempt)
	}
	return f.attrs(strings.Join(names, ","), attempt)
}

// logCommand tells of a command that failed, as its caller is told; attempt 0 says
// that nothing ran.
func (b *Bus) logCommand(k *call, err error) {
	text := "handler failed"
	switch {
	case panicked(err) != nil:
		text = "handler panicked"
	case k.attempt == 0:
		text = "command refused; nothing ran"
	}
	b.logFailure(failureLine{level: slog.LevelWarn, text: text, attrs: k.attrs(), err: err})
}

// logRetry tells of a run that failed and is made again.
func (b *Bus) logRetry(k *call, err error, v verdict) {
	text := "handler failed"
	if panicked(err) != nil {
		text = "handler panicked"
	}
	b.logFailure(failureLine{level: slog.LevelWarn, text: text, attrs: append(k.attrs(), slog.Duration("retry_in", v.delay)), err: err})
}

// logLost tells of the listeners whose lease has ended while they had the event.
func (f *flight) logLost() {
	const text = "lease on a delivery lost; another process handles the event"
	told := false
	for _, run := range f.runs {
		if run.verdict.fate == fateLost {
			f.r.b.logFailure(failureLine{level: slog.LevelWarn, text: text, attrs: f.attrs(run.l.name, run.attempt), err: lostErr(run.err)})
			told = true
		}
	}
	if !told {
		f.r.b.logFailure(failureLine{level: slog.LevelWarn, text: text, attrs: f.allAttrs(), err: ErrLeaseLost})
	}
}

// lostErr is why a run was given up: what it returned, if it was made.
func lostErr(err error) error {
	if err == nil {
		return ErrLeaseLost
	}
	return err
}

// logUnburied tells of a failure whose dead letter is refused.
func (f *flight) logUnburied(text, handler string, attempt int, cause, refused error) {
	f.r.b.logFailure(failureLine{
		level: slog.LevelError, text: text,
		attrs: append(f.attrs(handler, attempt), slog.Any("refused", refused)), err: cause,
	})
}

const unburied = "dead letter not stored; the event stays with its group"

// logUnsettled tells of a delivery that could not be settled.
func (f *flight) logUnsettled(text, settle string, err error) {
	f.r.b.logFailure(failureLine{
		level: slog.LevelWarn, text: text, attrs: append(f.allAttrs(), slog.String("settle", settle)), err: err,
	})
}
