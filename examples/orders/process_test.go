package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asProgram makes the test binary run the program instead of the tests, so that
// a process of it is a process of the program, with the race detector if the
// tests have it.
const asProgram = "ORDERS_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main() // exits
	}
	os.Exit(m.Run())
}

// process is a role in a process of its own.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // closed when it has ended and all its output is read

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed when a line comes, and replaced
}

// start runs a role. The process ends with the test at the latest.
func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	p := &process{t: t, name: name, cmd: exec.Command(path, args...), done: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.cmd.Stderr = p.cmd.Stdout
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go p.read(out)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.done
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, p.output())
		}
	})
	return p
}

func (p *process) read(out io.Reader) {
	defer close(p.done)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
	_ = p.cmd.Wait() // its status is asked for
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n") + "\n"
}

// expect waits for a line that matches and accept likes, and returns what the
// pattern's groups match.
func (p *process) expect(ctx context.Context, pattern string, accept func(groups []string) bool) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for i := 0; ; {
		p.mu.Lock()
		news, more := p.lines[i:], p.more
		i = len(p.lines)
		p.mu.Unlock()
		for _, l := range news {
			if groups := re.FindStringSubmatch(l); groups != nil && (accept == nil || accept(groups)) {
				return groups
			}
		}
		select {
		case <-more:
			continue
		default:
		}
		select {
		case <-more:
		case <-p.done:
			require.FailNow(p.t, "process ended", "%s ended without a line like %q", p.name, pattern)
		case <-ctx.Done():
			require.FailNow(p.t, "timeout", "%s wrote no line like %q", p.name, pattern)
		}
	}
}

// status waits for the end of the process.
func (p *process) status(ctx context.Context) status {
	p.t.Helper()
	select {
	case <-p.done:
	case <-ctx.Done():
		require.FailNow(p.t, "timeout", "%s does not end", p.name)
	}
	return status(p.cmd.ProcessState.ExitCode())
}

// stop ends the process as a user does, and expects it to end well.
func (p *process) stop(ctx context.Context) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(p.t, statusDone, p.status(ctx), p.name)
}

// atLeast accepts a number from n on.
func atLeast(n int) func([]string) bool {
	return func(groups []string) bool {
		got, err := strconv.Atoi(strings.ReplaceAll(groups[1], ",", ""))
		return err == nil && got >= n
	}
}

// TestKilledWorker is what the example is for: two workers share an import, one
// is killed in the middle, and every row is imported and counted once.
func TestKilledWorker(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("Windows has no SIGTERM; the processes are killed at the end")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	server := start(t, "server", "server", "-listen", "127.0.0.1:0", "-dir", t.TempDir())
	url := server.expect(ctx, `^server: listening on (nats://127\.0\.0\.1:\d+)$`, nil)[1]
	role := func(name string, args ...string) *process {
		return start(t, name, append([]string{"-url", url}, args...)...)
	}
	// The victim is slow, so that the kill hits rows under way: soon most of what
	// the import waits for is with it.
	victim := role("victim", "worker", "-name", "victim", "-work", "300ms")
	survivor := role("survivor", "worker", "-name", "survivor", "-work", "10ms")
	victim.expect(ctx, "is ready", nil)
	survivor.expect(ctx, "is ready", nil)
	report := role("report", "report", "-job", "kill", "-every", "20ms")
	report.expect(ctx, "following job kill", nil)
	imports := role("import", "import", "-job", "kill", "-timeout", "1s", "-")

	// The last row is held back until the victim is dead, so that the import
	// cannot be over by then.
	rows := bytes.TrimSuffix(sample, []byte("\n"))
	end := bytes.LastIndexByte(rows, '\n') + 1
	killed, fed := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := imports.in.Write(rows[:end])
		if err == nil {
			<-killed
			_, err = imports.in.Write(rows[end:])
		}
		imports.in.Close()
		fed <- err
	}()
	report.expect(ctx, `^report: ([\d,]+) orders`, atLeast(150))
	killing := victim.cmd.Process.Kill() // SIGKILL
	close(killed)
	require.NoError(t, killing)
	require.NoError(t, <-fed)

	require.Equal(t, statusDone, imports.status(ctx))
	require.Equal(t, statusDone, report.status(ctx))
	require.Contains(t, imports.output(), "2,000 rows: 2,000 imported, 0 rejected, 0 given up")
	require.Contains(t, report.output(), "report: 2,000 of 2,000 imported rows seen, 0 missing, 0 rejected, 0 given up\n")
	require.Regexp(t, `report: job kill: 2,000 orders, \d+ duplicates\n`, report.output())
	// What the orders are worth is what one process counts: none is there twice.
	require.Contains(t, report.output(), "EUR   1,063 orders         213,923.35\n")
	// The kill hit rows under way, and both workers had a share.
	imports.expect(ctx, `given up, ([\d,]+) sent again`, atLeast(1))
	report.expect(ctx, `victim imported ([\d,]+)`, atLeast(1))
	report.expect(ctx, `survivor imported ([\d,]+)`, atLeast(1))
	victim.status(ctx)

	// The log outlives the report: another, later, counts the same.
	late := role("late report", "report", "-job", "kill")
	require.Equal(t, statusDone, late.status(ctx))
	require.Contains(t, late.output(), "2,000 of 2,000 imported rows seen, 0 missing")
	if runtime.GOOS != "windows" {
		survivor.stop(ctx)
		server.stop(ctx)
		require.Regexp(t, `worker: survivor handled [\d,]+ rows\n`, survivor.output())
	}
}

// TestRejectedRowsOverNATS checks the exit status of both ends, and that a
// report without a job follows the next import.
func TestRejectedRowsOverNATS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server := start(t, "server", "server", "-listen", "127.0.0.1:0")
	url := server.expect(ctx, `listening on (nats://\S+)$`, nil)[1]
	worker := start(t, "worker", "worker", "-url", url)
	worker.expect(ctx, "is ready", nil)
	report := start(t, "report", "report", "-url", url)
	report.expect(ctx, "waiting for an import to start", nil)
	imports := start(t, "import", "import", "-url", url, filepath.Join("testdata", "bad.csv"))
	require.Equal(t, statusRejected, imports.status(ctx))
	require.Equal(t, statusRejected, report.status(ctx))
	require.Contains(t, imports.output(), "line 8: unknown currency \"XBT\"\n")
	require.Contains(t, report.output(), "4 of 4 imported rows seen, 0 missing, 8 rejected, 0 given up\n")
}
