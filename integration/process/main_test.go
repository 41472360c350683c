//go:build unix

package process

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "which faults, and when; 0 chooses one")
	faultsFlag = flag.String("faults", "", "the faults of TestFaults, separated by commas")
	soakFlag   = flag.Bool("soak", false, "run TestSoak, which takes half an hour")
)

// A child is this test binary again, told by its environment what to be.
const roleEnv, settingsEnv = "JITNEY_TEST_ROLE", "JITNEY_TEST_SETTINGS"

var roles = map[string]func(settings []byte) error{
	"node": runNode, "handler": runHandler, "publisher": runPublisher, // of a cluster
	"member": runMember, "crasher": runCrasher, // of one server
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		go func() { // its parent has gone, however that came
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(3)
		}()
		if err := roles[role]([]byte(os.Getenv(settingsEnv))); err != nil {
			fmt.Fprintln(os.Stderr, role, "failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// They wait for leases and servers, not for processors.
	natstest.SideBySide(8)
	natstest.Main(m)
}

// process is a child that runs.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   chan struct{} // closed when its output has ended
	ready chan struct{}
}

// spawn starts a child. Each line that it writes, but "ready", is given to hear.
func spawn(t *testing.T, hear func(name string, line []byte), role, name string, settings any) *process {
	t.Helper()
	text, err := json.Marshal(settings)
	require.NoError(t, err)
	p := &process{t: t, name: name, cmd: exec.Command(os.Args[0]), out: make(chan struct{}), ready: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleEnv+"="+role, settingsEnv+"="+string(text))
	p.cmd.Stderr = os.Stderr
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.out)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			if s.Text() == "ready" {
				close(p.ready)
				continue
			}
			hear(p.name, s.Bytes())
		}
	}()
	return p
}

// await waits until the child says that it is ready.
func (p *process) await(timeout time.Duration) {
	p.t.Helper()
	select {
	case <-p.ready:
	case <-p.out:
		require.Fail(p.t, "ended before it was ready", p.name)
	case <-time.After(timeout):
		require.Fail(p.t, "not ready", p.name)
	}
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// kill ends it at once, and returns when nothing of it is left.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.out
	_ = p.cmd.Wait()
}

// wait waits for its end.
func (p *process) wait(timeout time.Duration) bool {
	select {
	case <-p.out:
		_ = p.cmd.Wait()
		return true
	case <-time.After(timeout):
		return false
	}
}

// say writes a record, in one piece.
func say(r record) {
	r.At = time.Now().UnixNano()
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	sayMu.Lock()
	defer sayMu.Unlock()
	_, _ = os.Stdout.Write(append(line, '\n'))
}

var sayMu sync.Mutex
