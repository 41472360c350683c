// Command plot draws what the benchmarks beside it print: one picture for each kind
// of work, with a group of bars for each case and a bar for each library.
//
//	go test -run '^$' -bench . -count 6 | go run ./plot -dir ../docs/benchmarks
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	dir := flag.String("dir", "../docs/benchmarks", "folder of the pictures")
	unit := flag.String("unit", "cpu-ns/op", "which figure to draw")
	flag.Parse()
	if err := run(os.Stdin, *dir, *unit); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, dir, unit string) error {
	charts, err := read(in, unit)
	if err != nil {
		return err
	}
	if len(charts) == 0 {
		return fmt.Errorf("no line with %q; pipe the output of go test -bench into it", unit)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range charts {
		path := filepath.Join(dir, strings.ToLower(c.name)+".svg")
		if err := os.WriteFile(path, c.svg(unit), 0o644); err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}

// chart is what one benchmark function has measured.
type chart struct {
	name  string
	cases []*group
}

// group is one case, such as a number in flight.
type group struct {
	name string
	libs []*bar
}

type bar struct {
	lib string
	all []float64 // one a run
}

// least is the figure of the run that was disturbed the least.
func (b *bar) least() float64 { return slices.Min(b.all) }

var line = regexp.MustCompile(`^Benchmark([A-Za-z]+)/(?:(.*)/)?lib=([^-\s]+)(?:-\d+)?\s+\d+\s+(.*)$`)

// read collects the figures, in the order in which they come.
func read(in io.Reader, unit string) ([]*chart, error) {
	var charts []*chart
	s := bufio.NewScanner(in)
	for s.Scan() {
		m := line.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		v, ok := figure(m[4], unit)
		if !ok {
			continue
		}
		c := find(&charts, func(c *chart) bool { return c.name == m[1] }, func() *chart { return &chart{name: m[1]} })
		g := find(&c.cases, func(g *group) bool { return g.name == m[2] }, func() *group { return &group{name: m[2]} })
		b := find(&g.libs, func(b *bar) bool { return b.lib == m[3] }, func() *bar { return &bar{lib: m[3]} })
		b.all = append(b.all, v)
	}
	return charts, s.Err()
}

func find[T any](in *[]*T, is func(*T) bool, make func() *T) *T {
	if i := slices.IndexFunc(*in, is); i >= 0 {
		return (*in)[i]
	}
	*in = append(*in, make())
	return (*in)[len(*in)-1]
}

// figure finds "<number> <unit>" among a line's figures.
func figure(s, unit string) (float64, bool) {
	fields := strings.Fields(s)
	for i := 1; i < len(fields); i++ {
		if fields[i] == unit {
			v, err := strconv.ParseFloat(fields[i-1], 64)
			return v, err == nil
		}
	}
	return 0, false
}

const (
	width, left, right = 760, 230, 130
	barHeight, gap     = 18, 14
	top                = 56
)

var colours = map[string]string{"jitney": "#2f6fde", "nats.go": "#7a8794", "go": "#7a8794", "watermill": "#e08a2e"}

// svg draws the bars of each group from its own zero to its own longest, so that a
// case that takes a thousand times as long as another one does not hide it. It is
// legible on light and dark pages.
func (c *chart) svg(unit string) []byte {
	height := top + gap
	for _, g := range c.cases {
		height += len(g.libs)*barHeight + gap
	}
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(&w, `<rect width="%d" height="%d" rx="6" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(&w, `<text x="16" y="24" font-size="15" font-weight="bold" fill="#222222">%s</text>`+"\n", escape(c.name))
	fmt.Fprintf(&w, `<text x="16" y="42" fill="#555555">%s, least of the runs; shorter is better; each case to its own scale</text>`+"\n", escape(unit))
	y := top
	for _, g := range c.cases {
		longest := 0.0
		for _, b := range g.libs {
			longest = max(longest, b.least())
		}
		fmt.Fprintf(&w, `<text x="16" y="%d" fill="#222222">%s</text>`+"\n", y+13, escape(strings.ReplaceAll(g.name, "/", ", ")))
		for _, b := range g.libs {
			v := b.least()
			length := 1.0
			if longest > 0 {
				length = max(1, v/longest*(width-left-right))
			}
			colour := colours[b.lib]
			if colour == "" {
				colour = "#888888"
			}
			fmt.Fprintf(&w, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, y, length, barHeight-4, colour)
			fmt.Fprintf(&w, `<text x="%.1f" y="%d" fill="#222222">%s %s</text>`+"\n", left+length+6, y+11, escape(b.lib), quantity(v, unit))
			y += barHeight
		}
		y += gap
	}
	w.WriteString("</svg>\n")
	return w.Bytes()
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// quantity prints nanoseconds in a unit that a person reads.
func quantity(v float64, unit string) string {
	if !strings.Contains(unit, "ns") {
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f ms", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1f µs", v/1e3)
	case v >= 1e3:
		return fmt.Sprintf("%.2f µs", v/1e3)
	default:
		return fmt.Sprintf("%.0f ns", v)
	}
}
