package bustest_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/jitney-bus/jitney/bus/bustest"
)

// fakeT is a test that may fail without failing the one that it stands in.
type fakeT struct {
	testing.TB // what it does not have itself

	mu       sync.Mutex
	failed   bool
	messages []string
	cleanups []func()
}

func (t *fakeT) Helper()                  {}
func (t *fakeT) Name() string             { return "TestFake" }
func (t *fakeT) Context() context.Context { return context.Background() }

func (t *fakeT) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

func (t *fakeT) Log(args ...any) { t.add(false, fmt.Sprint(args...)) }
func (t *fakeT) Errorf(format string, args ...any) {
	t.add(true, fmt.Sprintf(format, args...))
}

func (t *fakeT) Fatalf(format string, args ...any) {
	t.add(true, fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (t *fakeT) add(failed bool, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = t.failed || failed
	t.messages = append(t.messages, message)
}

func (t *fakeT) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// end runs the clean-up, as package testing does: the last first.
func (t *fakeT) end() {
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			t.mu.Unlock()
			return
		}
		f := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		f()
	}
}

// pretend runs a test of a user's and returns all that it printed, and whether it
// failed.
func pretend(f func(t testing.TB)) (output string, failed bool) {
	t := &fakeT{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer t.end()
		f(t)
	}()
	<-done
	return strings.Join(t.messages, "\n"), t.failed
}

// pretendHarness is pretend with a harness.
func pretendHarness(f func(t testing.TB, h *bustest.Harness), opts ...bustest.Option) (output string, failed bool) {
	return pretend(func(t testing.TB) { f(t, bustest.New(t, opts...)) })
}

// inBubble runs f on fake time, so that what is printed is always the same.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
