package world

import (
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// Observed starts a process and collects what its observers are told, but for the
// bus's own news of dead letters.
func (w *World) Observed(tr transport.Transport, cfg bus.Config) (*bus.Bus, *Record[bus.Record]) {
	w.Helper()
	told := NewRecord[bus.Record]()
	cfg.Observers = append(cfg.Observers, func(r bus.Record) {
		if r.Name != DeadLettered {
			told.Add(r)
		}
	})
	return w.BusOn(tr, cfg), told
}

// Steps are records in short, with their times in whole seconds.
func Steps(all []bus.Record) (lines []string) {
	for _, r := range all {
		line := fmt.Sprintf("%s %s %s/%s %d", r.Stage, r.Name, r.Group, r.Handler, r.Attempt)
		if r.Elapsed >= time.Second {
			line += fmt.Sprint(" ran ", r.Elapsed.Round(time.Second))
		}
		if r.Delay > 0 {
			line += fmt.Sprint(" in ", r.Delay.Round(time.Second))
		}
		if r.Err != nil {
			line += fmt.Sprint(" ", bus.CodeOf(r.Err))
		}
		lines = append(lines, line)
	}
	return lines
}
