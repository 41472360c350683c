//go:build unix

package process

import (
	"encoding/json"
	"fmt"
	"sort"
	"sync"
	"testing"
)

// record is one thing that one process has seen.
type record struct {
	What    string // see the constants
	ID      string // of the event or command
	Group   string `json:",omitempty"` // the group, or the session of a listener
	Session string `json:",omitempty"` // of the message
	Attempt int    `json:",omitempty"`
	Text    string `json:",omitempty"` // an outcome, a code, a result
	At      int64  // by the clock of the machine that all share

	by string // the process
}

const (
	trying    = "pub.begin"   // Publish was called
	published = "pub.ok"      // and returned nil
	doubted   = "pub.unknown" // or something else: it may be stored
	began     = "run.begin"   // a listener began
	ended     = "run.end"     // and returned
	heard     = "heard"       // a listener of a session
	asked     = "cmd.begin"   // Execute was called
	answered  = "cmd.ok"      // and has returned a result
	refused   = "cmd.error"   // or an error
	executing = "exec.begin"  // a command's handler began
	executed  = "exec.end"    // and returned
	fault     = "fault"
	buried    = "dead"   // a dead letter, found at the end
	stored    = "stored" // an event, found in the stream at the end
)

// history is what all processes have seen.
type history struct {
	mu   sync.Mutex
	all  []record
	dead map[string]bool // processes that were killed
	errs []string
}

func newHistory() *history { return &history{dead: map[string]bool{}} }

func (h *history) line(by string, text []byte) {
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		h.mu.Lock()
		h.errs = append(h.errs, fmt.Sprintf("%s wrote %q", by, text))
		h.mu.Unlock()
		return
	}
	h.add(by, r)
}

func (h *history) add(by string, r record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.by = by
	h.all = append(h.all, r)
}

func (h *history) killed(by string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead[by] = true
}

func (h *history) count(what string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.all {
		if r.What == what {
			n++
		}
	}
	return n
}

// unfinished are the events that are surely stored and that some group has neither
// handled nor given up.
func (h *history) unfinished(groups []string) (missing []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := map[string]bool{}
	for _, r := range h.all {
		if r.What == ended && r.Text == "done" || r.What == buried {
			done[r.Group+" "+r.ID] = true
		}
	}
	for _, r := range h.all {
		for _, g := range groups {
			if key := g + " " + r.ID; r.What == published && !done[key] {
				missing = append(missing, key)
			}
		}
	}
	sort.Strings(missing)
	return missing
}

// violations are what happened and must not.
func (h *history) violations(groups []string) (bad []string) {
	for _, key := range h.unfinished(groups) {
		bad = append(bad, key+": stored, and neither handled nor a dead letter")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	bad = append(bad, h.errs...)
	wrong := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }

	sort.SliceStable(h.all, func(i, j int) bool { return h.all[i].At < h.all[j].At })
	tried, ok, inStream := map[string]bool{}, map[string]bool{}, map[string]int{}
	results := map[string]string{}
	executions := map[string][]*record{} // that have not ended
	runs := map[string]int{}
	graves := map[string]int{}
	for i := range h.all {
		r := &h.all[i]
		switch r.What {
		case trying:
			tried[r.ID] = true
		case published:
			ok[r.ID] = true
		}
	}
	for i := range h.all {
		r := &h.all[i]
		switch r.What {
		case began:
			if !tried[r.ID] {
				wrong("%s handled %s, which nobody published", r.Group, r.ID)
			}
		case heard:
			if r.Group != r.Session {
				wrong("session %s heard %s of session %q", r.Group, r.ID, r.Session)
			}
		case executing:
			if _, done := results[r.ID]; done && keyed(r.ID) {
				wrong("command %s ran after its caller had the result", r.ID)
			}
			for _, o := range executions[r.ID] {
				if !h.dead[o.by] {
					wrong("command %s ran in %s while it ran in %s", r.ID, r.by, o.by)
				}
			}
			executions[r.ID] = append(executions[r.ID], r)
			if runs[r.ID]++; !keyed(r.ID) && runs[r.ID] > 1 {
				wrong("command %s ran %d times for one Execute", r.ID, runs[r.ID])
			}
		case executed:
			for k, o := range executions[r.ID] {
				if o.by == r.by {
					executions[r.ID] = append(executions[r.ID][:k:k], executions[r.ID][k+1:]...)
					break
				}
			}
		case answered:
			if first, known := results[r.ID]; known && first != r.Text {
				wrong("command %s had the results %q and %q", r.ID, first, r.Text)
			}
			results[r.ID] = r.Text
			if owner(r.Text) != r.ID {
				wrong("command %s got the result of another: %q", r.ID, r.Text)
			}
			if runs[r.ID] == 0 {
				wrong("command %s was answered and did not run", r.ID)
			}
		case buried:
			if graves[r.Group+" "+r.ID]++; graves[r.Group+" "+r.ID] > 1 {
				wrong("%s %s: two dead letters of one failure", r.Group, r.ID)
			}
			if !poison(r.ID) {
				wrong("%s %s: a dead letter after %d attempts of what a second run handles: %s", r.Group, r.ID, r.Attempt, r.Text)
			}
		case stored:
			inStream[r.ID]++
		}
	}
	if h.has(stored) {
		for id := range ok {
			if inStream[id] == 0 {
				wrong("%s: Publish returned nil, and it is not in the stream", id)
			}
		}
		for id, n := range inStream {
			if n > 1 {
				wrong("%s: stored %d times", id, n)
			}
			if !tried[id] {
				wrong("%s: in the stream, and nobody published it", id)
			}
		}
	}
	bad = append(bad, h.disorder()...)
	sort.Strings(bad)
	return bad
}

// disorder compares the order of each publisher's events in the stream, which were
// published one after the other with one key, with the order of their numbers.
func (h *history) disorder() (bad []string) {
	last := map[string]int{}
	for _, r := range h.all { // those of the stream have its sequence as their time
		if r.What != stored {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(r.Text, "%d", &n); err != nil {
			continue
		}
		if n < last[r.Group] {
			bad = append(bad, fmt.Sprintf("%s: stored after number %d of its publisher", r.ID, last[r.Group]))
		}
		last[r.Group] = max(last[r.Group], n)
	}
	return bad
}

func (h *history) has(what string) bool {
	for _, r := range h.all {
		if r.What == what {
			return true
		}
	}
	return false
}

// report logs what happened, in numbers.
func (h *history) report(t *testing.T) {
	n := map[string]int{}
	for _, r := range h.all {
		n[r.What]++
	}
	t.Logf("%d published, %d in doubt, %d runs, %d heard in sessions, %d commands, %d answered, %d executed, %d dead letters, %d faults",
		n[published], n[doubted], n[began], n[heard], n[asked], n[answered], n[executing], n[buried], n[fault])
}
