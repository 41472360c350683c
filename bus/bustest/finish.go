package bustest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jitney-bus/jitney/bus"
)

// finish ends the harness, as the last of its test's clean-up.
func (h *Harness) finish() {
	h.t.Helper()
	failed := h.t.Failed()
	if !failed && !h.set.allowPending {
		if err := h.settle(); err != nil {
			h.t.Errorf("bustest: at the end of the test: %v; AllowPending lets it end all the same%s", err, h.report())
		}
	}
	closed := h.close()
	last := h.marks.leave()
	if !h.set.allowFailures {
		if fs := h.journal.unexpected(); len(fs) > 0 {
			h.t.Errorf("bustest: handlers failed, and no query asked for it:%s", failures(fs))
		}
	}
	if !failed { // else what follows may well be its consequence
		h.complainOfFaults()
	}
	if !failed && closed {
		h.complainOfGoroutines(last)
	}
	if h.t.Failed() {
		if text := h.story(); text != "" {
			h.t.Log(text)
		}
	}
}

// close closes what the harness opened, and reports whether it could. A bus that
// the test has closed is left alone: its error was the test's to see.
func (h *Harness) close() bool {
	h.t.Helper()
	ok := true
	complain := func(format string, args ...any) {
		h.t.Helper()
		h.t.Errorf("bustest: "+format, args...)
		ok = false
	}
	h.mu.Lock()
	buses, processes, closers := h.buses, h.processes, h.closers
	h.mu.Unlock()
	for _, m := range slices.Backward(buses) {
		if m.process.isClosed() {
			continue
		}
		if err := m.bus.Close(context.Background()); err != nil {
			complain("%v", err)
		}
	}
	for _, p := range slices.Backward(processes) {
		if p.isClosed() {
			continue
		}
		if !h.set.allowPending {
			complain("the bus on a transport of Harness.Transport is still open: close it before the test ends")
		}
		if err := p.Close(context.Background()); err != nil {
			complain("close the transport: %v", err)
		}
	}
	for _, c := range slices.Backward(closers) {
		if err := c(); err != nil {
			complain("%v", err)
		}
	}
	return ok
}

func (h *Harness) complainOfFaults() {
	h.t.Helper()
	for _, what := range h.faults.unused() {
		h.t.Errorf("bustest: the script never happened: %s", what)
	}
}

func (h *Harness) complainOfGoroutines(last bool) {
	h.t.Helper()
	h.mu.Lock()
	for r := range h.routines {
		h.t.Errorf("bustest: the goroutine that Go started at %s still runs", r.where)
	}
	started := len(h.routines)
	h.mu.Unlock()
	if !last || started > 0 {
		return
	}
	if stacks := h.marks.leaked(h.set.ignored); len(stacks) > 0 {
		h.t.Errorf("bustest: goroutines of this test are still there after its buses have closed:\n\t%s",
			strings.Join(stacks, "\n\t"))
	}
}

// failures lists failed runs, those of one handler and event together.
func failures(es []*entry) string {
	type key struct{ name, id, who string }
	var order []key
	byKey := map[key][]*entry{}
	for _, e := range es {
		k := key{e.Name, e.meta.ID, handlerName(e.Kind, e.Group, e.Handler)}
		switch {
		case e.Stage == bus.StageSent:
			k.who = "its handler"
		case e.Handler == "":
			k.who = "group " + e.Group
		}
		if byKey[k] == nil {
			order = append(order, k)
		}
		byKey[k] = append(byKey[k], e)
	}
	var b strings.Builder
	for _, k := range order {
		runs := byKey[k]
		last := runs[len(runs)-1]
		fmt.Fprintf(&b, "\n\t%s %s: %s: ", k.name, summary(last.value), k.who)
		if len(runs) > 1 {
			fmt.Fprintf(&b, "%d times, at last: ", len(runs))
		}
		b.WriteString(oneLine(last.Err))
	}
	b.WriteString("\nA failure that is meant is asked for with bustest.Failed or DeadLettered, or allowed: see Query.")
	return b.String()
}
