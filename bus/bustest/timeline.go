package bustest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// Timeline returns what has happened so far as a tree of causes: below each
// message its steps and the messages that its handlers sent, in order of time.
// Times are since New, durations follow what they are of.
func (h *Harness) Timeline() string {
	return strings.Join(timeline(h.journal.all()), "\n")
}

// most bounds what is printed of a timeline: its first and its last lines.
const (
	mostFirst = 100
	mostLast  = 300
)

// report is what follows the message of a failed assertion: what is on its way,
// and the timeline.
func (h *Harness) report() string {
	var b strings.Builder
	if lines := h.ledger.pending(); len(lines) > 0 {
		b.WriteString("\nstill on its way:\n\t" + strings.Join(lines, "\n\t"))
	}
	if lines := h.ledger.unattended(); len(lines) > 0 {
		b.WriteString("\nnot waited for:\n\t" + strings.Join(lines, "\n\t"))
	}
	if text := h.story(); text != "" {
		b.WriteString("\n" + text)
	}
	return b.String()
}

// story is the timeline, told once, or "" if it was told or nothing has happened.
func (h *Harness) story() string {
	es := h.journal.all()
	if len(es) == 0 || h.told.Swap(true) {
		return ""
	}
	lines := timeline(es)
	if n := len(lines); n > mostFirst+mostLast {
		lines = slices.Concat(lines[:mostFirst],
			[]string{fmt.Sprintf("… %d lines …", n-mostFirst-mostLast)}, lines[n-mostLast:])
	}
	return "timeline:\n\t" + strings.Join(lines, "\n\t")
}

// node is one message of the tree.
type node struct {
	id, cause string
	sent      *entry   // its first sending; nil if that was not seen
	steps     []*entry // all others
	caused    []*node
}

// timeline draws the tree.
func timeline(es []*entry) []string {
	nodes := map[string]*node{}
	var all []*node
	for _, e := range es {
		n := nodes[e.meta.ID]
		if n == nil || e.meta.ID == "" {
			n = &node{id: e.meta.ID, cause: e.meta.CausationID}
			nodes[e.meta.ID] = n
			all = append(all, n)
		}
		if n.sent == nil && e.sending() {
			n.sent = e
		} else {
			n.steps = append(n.steps, e)
		}
	}
	var roots []*node
	for _, n := range all {
		if c := nodes[n.cause]; c != nil && n.cause != "" && !c.isUnder(n, nodes) {
			c.caused = append(c.caused, n)
		} else {
			roots = append(roots, n)
		}
	}
	var rows []row
	for _, n := range roots {
		rows = append(rows, n.draw()...)
	}
	return layOut(rows)
}

// isUnder reports whether n was caused by top. Ids that a test chose may go round.
func (n *node) isUnder(top *node, nodes map[string]*node) bool {
	for seen := map[*node]bool{}; n != nil && !seen[n]; n = nodes[n.cause] {
		if n == top {
			return true
		}
		seen[n] = true
		if n.cause == "" {
			break
		}
	}
	return false
}

// row is one line of the tree with those below it.
type row struct {
	at    time.Duration
	who   string // of steps at one time, those of one handler stay together
	order uint64
	text  string
	below []row
	run   *entry // a handler's run
}

// behind sorts behind every handler.
const behind = "\xff"

// who tells where a step stands among those of one time.
func (e *entry) who() string {
	switch {
	case e.sending():
		return behind
	case e.note != "" && e.Group != "":
		return e.Group + "/" + behind
	case e.note != "":
		return ""
	default:
		return handlerName(e.Kind, e.Group, e.Handler)
	}
}

// draw returns n's row. What n caused is below the run that did so, or beside the
// runs if that cannot be told, because several ran at once.
func (n *node) draw() []row {
	var below []row
	for _, e := range n.steps {
		r := row{at: e.at, who: e.who(), order: e.order, text: e.step()}
		if e.Stage == bus.StageHandled {
			r.run = e
		}
		below = append(below, r)
	}
	steps := len(below)
	for _, c := range n.caused {
		for _, r := range c.draw() {
			if by := only(below[:steps], r.order); by != nil {
				by.below = append(by.below, r)
			} else {
				below = append(below, r)
			}
		}
	}
	head := row{below: below, who: behind} // after the steps of what caused it
	switch {
	case n.sent != nil:
		head.at, head.order, head.text = n.sent.at, n.sent.order, n.sent.head()
	case n.id == "":
		return below
	default:
		head.at, head.order, head.text = below[0].at, below[0].order, n.steps[0].unsent()
	}
	for _, r := range below { // an Execute is told of when it returns
		head.at, head.order = min(head.at, r.at), min(head.order, r.order)
	}
	return []row{head}
}

// only returns the one run that was going on at that point, or nil.
func only(steps []row, order uint64) *row {
	var found *row
	for i := range steps {
		if r := steps[i].run; r != nil && r.order < order && order < r.told {
			if found != nil {
				return nil
			}
			found = &steps[i]
		}
	}
	return found
}

// layOut turns rows into lines.
func layOut(rows []row) []string {
	var times, texts []string
	var walk func([]row, int)
	walk = func(rows []row, depth int) {
		slices.SortStableFunc(rows, func(a, b row) int {
			return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.who, b.who), cmp.Compare(a.order, b.order))
		})
		for _, r := range rows {
			times = append(times, round(r.at).String())
			texts = append(texts, strings.Repeat("  ", depth)+r.text)
			walk(r.below, depth+1)
		}
	}
	walk(rows, 0)
	width := 0
	for _, t := range times {
		width = max(width, len(t))
	}
	lines := make([]string, len(times))
	for i := range times {
		lines[i] = fmt.Sprintf("%*s  %s", width, times[i], texts[i])
	}
	return lines
}

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
