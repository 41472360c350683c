package bus

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// tableWidth is how wide a printed description is at most, in characters.
const tableWidth = 80

// String prints the description as a table, at most 80 characters wide: a line for
// each handler, and below it what is said of this handler alone. Names that are too
// long for their column are cut; the fields have them whole.
func (d Description) String() string {
	var out strings.Builder
	details(&out, [][2]string{
		{"service", d.Service},
		{"sending", strings.Join(d.Sending, " > ")},
		{"publish", d.PublishFilter},
		{"receive", d.ReceiveFilter},
		{"retry", d.Retry},
		{"breaker", d.CommandBreaker},
	})
	if len(d.Handlers) == 0 {
		return out.String() + "handlers   none\n"
	}
	rows := [][]string{{"KIND", "NAME", "GROUP", "HANDLER", "PRIO", "CONC"}}
	for _, h := range d.Handlers {
		rows = append(rows, h.row())
	}
	lines := aligned(rows)
	out.WriteString("\n" + lines[0] + "\n")
	for i, h := range d.Handlers {
		out.WriteString(lines[i+1] + "\n")
		details(&out, h.details(d.Retry))
	}
	return out.String()
}

func (h HandlerDescription) row() []string {
	group, handler, priority := h.Group, h.Handler, strconv.Itoa(h.Priority)
	switch {
	case h.Kind == KindCommand:
		group, priority = "-", "-"
	case h.Session != "":
		group = "(session)"
	case h.Private:
		group = "(private)"
	}
	if handler == "" {
		handler = "-"
	}
	return []string{h.Kind.String(), h.Name, group, handler, priority, strconv.Itoa(h.Concurrency)}
}

// details are the lines below a handler's row. The retry policy of most is the
// bus's.
func (h HandlerDescription) details(retry string) [][2]string {
	var chain []string
	for _, l := range h.Chain {
		name := l.Name
		if l.Own {
			name += " (own)"
		}
		chain = append(chain, name)
	}
	if h.Kind == KindEvent && h.Retry == retry {
		retry = ""
	} else {
		retry = h.Retry
	}
	return [][2]string{
		{"  session", h.Session},
		{"  type", h.Type},
		{"  batch", h.Batch},
		{"  queue", h.Queue},
		{"  retry", retry},
		{"  breaker", h.Breaker},
		{"  filter", strings.Join(h.Filters, " and ")},
		{"  chain", strings.Join(chain, " > ")},
		{"  at", strings.Join(h.Places, ", ")},
	}
}

// aligned returns the rows as lines of aligned cells.
func aligned(rows [][]string) []string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	const gap = 2
	total := gap * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for ; total > tableWidth; total-- { // the widest column gives way
		widths[slices.Index(widths, slices.Max(widths))]--
	}
	var out strings.Builder
	t := tabwriter.NewWriter(&out, 0, 0, gap, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if utf8.RuneCountInString(cell) > widths[i] {
				row[i] = string([]rune(cell)[:widths[i]-1]) + "…"
			}
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush() // a strings.Builder takes everything
	return strings.Split(out.String(), "\n")
}

// details writes labelled lines; a value that is too long goes on in the next line,
// and an empty one is left out.
func details(out *strings.Builder, fields [][2]string) {
	const indent = 11
	for _, f := range fields {
		label := f[0]
		for _, line := range wrap(printable(f[1]), tableWidth-indent) {
			fmt.Fprintf(out, "%-*s%s\n", indent, label, line)
			label = ""
		}
	}
}

// wrap breaks s into lines of at most width characters, between words where it can.
func wrap(s string, width int) (lines []string) {
	var line []rune
	flush := func() {
		if len(line) > 0 {
			lines = append(lines, string(line))
		}
		line = nil
	}
	for word := range strings.FieldsSeq(s) {
		rest := []rune(word)
		if len(line) > 0 && len(line)+1+len(rest) > width {
			flush()
		}
		if len(line) > 0 {
			line = append(line, ' ')
		}
		for len(rest) > width-len(line) {
			n := width - len(line)
			line = append(line, rest[:n]...)
			rest = rest[n:]
			flush()
		}
		line = append(line, rest...)
	}
	flush()
	return lines
}
