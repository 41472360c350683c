//go:build unix

// Package process_test tests the bus with processes that are killed and stopped:
// real time, a real server over TCP, real signals.
package process_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/nats"
)

// A child is this test binary again, told by its environment what to be.
const (
	childURL      = "JITNEY_TEST_URL"
	childSessions = "JITNEY_TEST_SESSIONS"
	childCrashes  = "JITNEY_TEST_CRASHES"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		run := func() error { return child(url, strings.Fields(os.Getenv(childSessions))) }
		if os.Getenv(childCrashes) != "" {
			run = func() error { return crasher(url) }
		}
		if err := run(); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// They wait for leases, not for processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	natstest.Main(m)
}

type whoAreYou struct{ bus.Command[string] }

type noted struct{ Text string }

// child opens sessions, handles jobs and says on standard output what happens to it, until
// standard input ends.
func child(url string, ids []string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the parent is gone, or wants an end
		cancel()
	}()
	tr, err := nats.Open(ctx, nats.Config{URL: url})
	if err != nil {
		return err
	}
	b, err := bus.New(tr, bus.Config{Service: "svc"})
	if err != nil {
		return err
	}
	if err := handleJobs(ctx, b); err != nil {
		return err
	}
	for _, id := range ids {
		s, err := b.Session(ctx, id)
		if err != nil {
			return err
		}
		err = bus.Handle(ctx, s, func(ctx context.Context, _ whoAreYou) (string, error) {
			fmt.Println("ran", id)
			return "the child", nil
		})
		if err != nil {
			return err
		}
		if _, err := bus.Subscribe(ctx, s, func(_ context.Context, e noted) error {
			fmt.Println("heard", id, e.Text)
			return nil
		}); err != nil {
			return err
		}
		go func() {
			<-s.Done()
			fmt.Println("ended", id)
		}()
	}
	fmt.Println("open")
	<-ctx.Done()
	return b.Close(context.WithoutCancel(ctx))
}

// process is a child as its parent sees it.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer

	mu    sync.Mutex
	lines []string
	more  chan struct{}
	ended chan struct{} // closed when its output ends
}

func spawn(t *testing.T, url string, sessions ...string) *process {
	t.Helper()
	p := start(t, childURL+"="+url, childSessions+"="+strings.Join(sessions, " "))
	p.wait("open")
	return p
}

func spawnCrasher(t *testing.T, url string) *process {
	t.Helper()
	return start(t, childURL+"="+url, childCrashes+"=1")
}

func start(t *testing.T, env ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0]), more: make(chan struct{}, 1), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // whatever state it is in
		_ = p.cmd.Process.Kill()
		<-p.ended
		_ = p.cmd.Wait()
	})
	return p
}

// wait waits until the child has said a line.
func (p *process) wait(line string) {
	p.t.Helper()
	timeout := time.After(time.Minute)
	for !p.said(line) {
		select {
		case <-p.more:
		case <-timeout:
			require.Failf(p.t, "timeout", "the child did not say %q but %q", line, p.all())
		}
	}
}

func (p *process) said(line string) bool {
	for _, l := range p.all() {
		if l == line {
			return true
		}
	}
	return false
}

func (p *process) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// stop stops the child and returns when it stands still.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	for !status.Stopped() {
		_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if err != syscall.EINTR {
			require.NoError(p.t, err)
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}
