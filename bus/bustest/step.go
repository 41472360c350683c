package bustest

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// sending reports whether e is about the sending of a message.
func (e *entry) sending() bool {
	return e.Stage == bus.StageSent || e.Stage == bus.StageFiltered && e.Group == "" && e.Handler == ""
}

// head is the line of a message that was sent.
func (e *entry) head() string {
	verb := "publish "
	if e.Kind == bus.KindCommand {
		verb = "execute "
	}
	text := verb + e.Name + " " + summary(e.value) + e.inSession() + e.took()
	switch {
	case e.Stage == bus.StageFiltered:
		text += ": filtered"
	case e.Err != nil:
		text += ": " + oneLine(e.Err)
	}
	return text
}

// unsent is the line of a message whose sending was not seen.
func (e *entry) unsent() string {
	return e.Name + " " + summary(e.value) + e.inSession() + " (sent from outside, or its sender still waits)"
}

// step is the line of a step.
func (e *entry) step() string {
	who := handlerName(e.Kind, e.Group, e.Handler)
	if e.Handler == "" && e.Kind == bus.KindEvent {
		who = "group " + e.Group
	}
	scripted := ""
	if e.scripted {
		scripted = " (scripted)"
	}
	switch {
	case e.note != "":
		return e.note
	case e.sending():
		return "again: " + e.head()
	case e.Stage == bus.StageHandled && e.Err == nil:
		return "handled by " + who + e.onAttempt() + e.took()
	case e.Stage == bus.StageHandled:
		return "failed in " + who + e.onAttempt() + e.took() + scripted + ": " + oneLine(e.Err)
	case e.Stage == bus.StageRetrying:
		return "waits " + round(e.Delay).String() + " for " + who
	case e.Stage == bus.StageReturned:
		return "handed back by " + who
	case e.Stage == bus.StageDeadLettered:
		return fmt.Sprintf("dead letter of %s after attempt %d: %s", who, e.Attempt, oneLine(e.Err))
	case e.Stage == bus.StageFiltered:
		return "filtered for " + who
	default:
		return e.Stage.String() + " " + who
	}
}

// line is a step with its message, where it stands alone.
func (e *entry) line() string {
	text := round(e.at).String() + "  "
	if e.sending() {
		return text + e.head()
	}
	return text + e.Name + " " + summary(e.value) + e.inSession() + ": " + e.step()
}

func (e *entry) inSession() string {
	if e.meta.Session == "" {
		return ""
	}
	return fmt.Sprintf(" in session %q", e.meta.Session)
}

func (e *entry) onAttempt() string {
	if e.Attempt <= 1 && e.Err == nil || e.Kind == bus.KindCommand {
		return ""
	}
	return fmt.Sprintf(", attempt %d", e.Attempt)
}

func (e *entry) took() string {
	if d := round(e.Elapsed); d > 0 {
		return " (" + d.String() + ")"
	}
	return ""
}

// summary shows a message in a few words.
func summary(v any) string {
	if v == nil {
		return "(not decoded)"
	}
	const most = 100
	text := ""
	if body, err := json.Marshal(v); err == nil {
		text = string(body)
	} else {
		text = fmt.Sprintf("%+v", v)
	}
	return shorten(text, most)
}

func shorten(text string, most int) string {
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// oneLine shows an error in one line.
func oneLine(err error) string {
	if err == nil {
		return "no error"
	}
	return shorten(err.Error(), 200)
}

// round shortens a duration to what people compare.
func round(d time.Duration) time.Duration {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond)
	case d < time.Second:
		return d.Round(100 * time.Microsecond)
	case d < time.Minute:
		return d.Round(time.Millisecond)
	default:
		return d.Round(time.Second)
	}
}
