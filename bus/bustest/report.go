package bustest

import (
	"fmt"
	"slices"
	"strings"
)

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
