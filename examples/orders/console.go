package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// console writes lines, and on a terminal a progress bar below them. It is safe
// for concurrent use.
type console struct {
	mu       sync.Mutex
	out, err io.Writer
	fd       int // of out, -1 if it is not a terminal
	bar      bool
}

func newConsole(out, err io.Writer) *console {
	c := &console{out: out, err: err, fd: -1}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		c.fd = int(f.Fd())
	}
	return c
}

// terminal reports whether a bar can be drawn.
func (c *console) terminal() bool { return c.fd >= 0 }

// printf writes a line of the program's output.
func (c *console) printf(format string, args ...any) { c.line(c.out, format, args...) }

// warnf writes a line to standard error.
func (c *console) warnf(format string, args ...any) { c.line(c.err, format, args...) }

func (c *console) line(w io.Writer, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	fmt.Fprintf(w, format+"\n", args...)
}

// Write passes log lines on to standard error.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	return c.err.Write(p)
}

// progress shows how far things are: a bar that replaces the last one on a
// terminal, a line elsewhere. total 0 is unknown.
func (c *console) progress(done, total int, text string) {
	if !c.terminal() {
		c.printf("%s", text)
		return
	}
	width, _, err := term.GetSize(c.fd)
	if err != nil {
		width = 80
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	fmt.Fprint(c.out, bar(done, total, text, width))
	c.bar = true
}

// clear removes the bar. c.mu is held.
func (c *console) clear() {
	if c.bar {
		fmt.Fprint(c.out, "\r\x1b[K")
		c.bar = false
	}
}

// bar draws "[=====>    ]  52% text", at most width columns wide.
func bar(done, total int, text string, width int) string {
	const cells = 30
	s := text
	if total > 0 {
		done = min(done, total)
		full := done * cells / total
		s = fmt.Sprintf("[%s%s] %3d%% %s", strings.Repeat("=", full), strings.Repeat(" ", cells-full), done*100/total, text)
	}
	if r := []rune(s); len(r) >= width && width > 0 {
		s = string(r[:width-1])
	}
	return s
}
