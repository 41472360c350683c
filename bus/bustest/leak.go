package bustest

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"
)

// markKey is the runtime/pprof label of a test's goroutines.
const markKey = "bustest"

// marked is the tests that have a harness. It is the one state of the process that
// this package has: a goroutine has one label, so that harnesses of one test must
// share it, and the last that ends looks for what is left.
var marked = struct {
	sync.Mutex
	tests map[testing.TB]*mark
	n     int
}{tests: map[testing.TB]*mark{}}

// mark tells the goroutines of a test.
type mark struct {
	t         testing.TB
	value     string
	labels    context.Context
	harnesses int // guarded by marked
}

// markGoroutine marks the calling goroutine, and those that it will start, as the
// test's.
func markGoroutine(t testing.TB) *mark {
	marked.Lock()
	m := marked.tests[t]
	if m == nil {
		marked.n++
		m = &mark{t: t, value: fmt.Sprintf("%s-%d", t.Name(), marked.n)}
		m.labels = pprof.WithLabels(context.Background(), pprof.Labels(markKey, m.value))
		marked.tests[t] = m
	}
	m.harnesses++
	marked.Unlock()
	m.apply()
	return m
}

// apply marks the calling goroutine. A timer's goroutine inherits nothing, and
// what runs handlers may be one.
func (m *mark) apply() { pprof.SetGoroutineLabels(m.labels) }

// leave is called by each harness as it ends, on the goroutine of the test. It
// reports whether it was the last of its test.
func (m *mark) leave() bool {
	marked.Lock()
	defer marked.Unlock()
	if m.harnesses--; m.harnesses > 0 {
		return false
	}
	delete(marked.tests, m.t)
	pprof.SetGoroutineLabels(context.Background())
	return true
}

// How long a goroutine has to end after everything was closed.
const (
	leakTries = 12
	leakWait  = time.Millisecond // doubled with each try: 4 s in all
)

// leaked returns the stacks of the goroutines that are still there.
func (m *mark) leaked(ignored []string) []string {
	wait := leakWait
	for try := 0; ; try++ {
		stacks := m.stacks(ignored)
		if len(stacks) == 0 || try == leakTries {
			return stacks
		}
		time.Sleep(wait)
		wait *= 2
	}
}

// stacks returns the stacks of all marked goroutines, except the ignored.
func (m *mark) stacks(ignored []string) []string {
	var buf bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&buf, 1); err != nil {
		return nil // cannot happen: a buffer takes it all
	}
	// With debug=1 goroutines of one stack and one set of labels share a block:
	//	2 @ 0x483d4e 0x4168ee
	//	# labels: {"bustest":"TestX-1"}
	//	#	0x5320a4	main.f+0x64	/src/main.go:9
	label := fmt.Sprintf("%q:%q", markKey, m.value)
	var stacks []string
blocks:
	for block := range strings.SplitSeq(buf.String(), "\n\n") {
		head, frames, ok := strings.Cut(block, "# labels: ")
		if !ok {
			continue
		}
		labels, frames, _ := strings.Cut(frames, "\n")
		if !strings.Contains(labels, label) {
			continue
		}
		for _, f := range ignored {
			if strings.Contains(frames, "\t"+f+"+0x") {
				continue blocks
			}
		}
		head = strings.TrimSpace(head)
		count, _, _ := strings.Cut(head[strings.LastIndexByte(head, '\n')+1:], " ")
		stacks = append(stacks, stackText(count, frames))
	}
	return stacks
}

// stackText turns frames of a profile into lines of function and place.
func stackText(count, frames string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s with this stack:", count)
	const most = 12
	for n, line := range strings.Split(strings.TrimSpace(frames), "\n") {
		if n == most {
			b.WriteString("\n\t\t…")
			break
		}
		fields := strings.Fields(strings.TrimPrefix(line, "#"))
		if len(fields) < 3 {
			continue
		}
		function, _, _ := strings.Cut(fields[1], "+0x")
		fmt.Fprintf(&b, "\n\t\t%s  %s", function, fields[2])
	}
	return b.String()
}

// caller is the file and line of a caller, for people.
func caller(skip int) string {
	_, file, line, ok := runtime.Caller(skip)
	if !ok {
		return "an unknown place"
	}
	return fmt.Sprintf("%s:%d", filepath.Base(file), line)
}
