package bustest

import (
	"cmp"
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
		if n.isUnheard() {
			continue
		}
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

// isUnheard reports whether n is the bus's news of a dead letter, of which the tree
// tells already, and nobody listens for it.
func (n *node) isUnheard() bool {
	return n.sent != nil && n.sent.Name == deadLettered && n.sent.Err == nil && len(n.steps) == 0
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
