//go:build unix

package process

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/nats"
)

// memberSettings is what a process of a service on one server is told.
type memberSettings struct {
	URL      string
	Sessions []string
}

// open opens a bus of the service by settings in JSON.
func (s *memberSettings) open(ctx context.Context, text []byte, cfg bus.Config) (*bus.Bus, error) {
	if err := json.Unmarshal(text, s); err != nil {
		return nil, err
	}
	tr, err := nats.Open(ctx, nats.Config{URL: s.URL})
	if err != nil {
		return nil, err
	}
	cfg.Service = "svc"
	return bus.New(tr, cfg)
}

type whoAreYou struct{ bus.Command[string] }

type noted struct{ Text string }

// runMember opens sessions, handles jobs and says on standard output what happens to
// it, until it is interrupted.
func runMember(text []byte) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	var s memberSettings
	b, err := s.open(ctx, text, bus.Config{})
	if err != nil {
		return err
	}
	if err := handleJobs(ctx, b); err != nil {
		return err
	}
	for _, id := range s.Sessions {
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
	fmt.Println("ready")
	<-ctx.Done()
	return b.Close(context.WithoutCancel(ctx))
}

// child is a process whose words are waited for.
type child struct {
	*process
	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

// newChild starts a child. Whatever state it is in then, it ends with the test.
func newChild(t *testing.T, role string, s memberSettings) *child {
	t.Helper()
	c := &child{more: make(chan struct{}, 1)}
	c.process = spawn(t, func(_ string, line []byte) {
		c.mu.Lock()
		c.lines = append(c.lines, string(line))
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
	}, role, role, s)
	t.Cleanup(func() {
		c.signal(syscall.SIGCONT)
		c.kill()
	})
	return c
}

// newMember starts a member of the service, and returns when its sessions are open.
func newMember(t *testing.T, url string, sessions ...string) *child {
	t.Helper()
	c := newChild(t, "member", memberSettings{URL: url, Sessions: sessions})
	c.await(time.Minute)
	return c
}

// expect waits until the child has said a line.
func (c *child) expect(line string) {
	c.t.Helper()
	timeout := time.After(time.Minute)
	for !c.said(line) {
		select {
		case <-c.more:
		case <-timeout:
			require.Failf(c.t, "timeout", "the child did not say %q but %q", line, c.all())
		}
	}
}

func (c *child) said(line string) bool { return slices.Contains(c.all(), line) }

func (c *child) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// stop stops the child and returns when it stands still.
func (c *child) stop() {
	c.t.Helper()
	c.signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	for !status.Stopped() {
		_, err := syscall.Wait4(c.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if err != syscall.EINTR {
			require.NoError(c.t, err)
		}
	}
}
