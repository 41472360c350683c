//go:build unix

package process

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/nats"
)

// leases is how long the sessions of a dead process may stay: two leases.
const leases = 20 * time.Second

// parent is a bus of the test's process, which survives, and what it hears.
type parent struct {
	*bus.Bus
	t     *testing.T
	mu    sync.Mutex
	ended []bus.SessionEnded
}

func newParent(t *testing.T, url string) *parent {
	t.Helper()
	tr, err := nats.Open(t.Context(), nats.Config{URL: url})
	require.NoError(t, err)
	b, err := bus.New(tr, bus.Config{Service: "svc"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	p := &parent{Bus: b, t: t}
	require.NoError(t, bus.Handle(t.Context(), b, func(context.Context, whoAreYou) (string, error) { return "the bus", nil }))
	_, err = bus.Subscribe(t.Context(), b, func(_ context.Context, e bus.SessionEnded) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended = append(p.ended, e)
		return nil
	}, bus.WithPrivate())
	require.NoError(t, err)
	return p
}

func (p *parent) ends() []bus.SessionEnded {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]bus.SessionEnded(nil), p.ended...)
}

// ask executes a command in a session.
func (p *parent) ask(session string, within time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(bus.ContextWithSession(p.t.Context(), session), within)
	defer cancel()
	return bus.Execute(ctx, p.Bus, whoAreYou{})
}

func (p *parent) open() int {
	p.t.Helper()
	all, err := p.Sessions(p.t.Context())
	require.NoError(p.t, err)
	return len(all)
}

func TestSessionsOfAKilledProcessEnd(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	one, two := newParent(t, s.URL()), newParent(t, s.URL())
	sessions := []string{"a", "b", "c"}
	p := newMember(t, s.URL(), sessions...)
	require.Equal(t, 3, one.open())
	who, err := one.ask("a", 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, "the child", who)
	require.NoError(t, bus.Publish(bus.ContextWithSession(t.Context(), "b"), one, noted{"one"}))
	p.expect("heard b one")

	p.signal(syscall.SIGKILL)
	died := time.Now()
	for _, parent := range []*parent{one, two} {
		for len(parent.ends()) < 3 || parent.open() > 0 {
			require.Less(t, time.Since(died), leases, "%v", parent.ends())
			time.Sleep(50 * time.Millisecond)
		}
	}
	t.Logf("ended %v after the kill", time.Since(died).Round(time.Millisecond))
	who, err = one.ask("a", 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, "the bus", who)
	time.Sleep(2 * time.Second) // for what the other survivor might publish as well
	for _, parent := range []*parent{one, two} {
		ends := parent.ends()
		require.Len(t, ends, 3)
		for _, e := range ends {
			require.Equal(t, bus.EndExpired, e.Reason)
			require.Contains(t, sessions, e.ID)
		}
	}
}

// A process that is stopped for less than its lease finds everything as it was.
func TestSessionsOfAStoppedProcessStay(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	one := newParent(t, s.URL())
	p := newMember(t, s.URL(), "a")
	for range 2 {
		p.stop()
		stopped := time.Now()
		_, err := one.ask("a", 2*time.Second)
		require.Equal(t, bus.CodeTimeout, bus.CodeOf(err), "not the bus's handler: %v", err)
		require.NoError(t, bus.Publish(bus.ContextWithSession(t.Context(), "a"), one, noted{"meanwhile"}))
		time.Sleep(9*time.Second - time.Since(stopped))
		p.signal(syscall.SIGCONT)
		p.expect("heard a meanwhile")
		who, err := one.ask("a", 10*time.Second)
		require.NoError(t, err)
		require.Equal(t, "the child", who)
		time.Sleep(3 * time.Second) // longer than was left of the lease
	}
	require.Empty(t, one.ends())
	require.Equal(t, 1, one.open())
	require.False(t, p.said("ended a"))
	p.signal(syscall.SIGINT)
	p.expect("ended a")
}

// One that is stopped for longer runs nothing of its sessions when it goes on,
// though the command waits for it in its socket.
func TestSessionsOfAProcessStoppedTooLongEnd(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	one := newParent(t, s.URL())
	p := newMember(t, s.URL(), "a")
	p.stop()
	stopped := time.Now()
	answer := make(chan string, 1)
	go func() {
		who, err := one.ask("a", time.Minute)
		if err != nil {
			who = err.Error()
		}
		answer <- who
	}()
	for len(one.ends()) == 0 {
		require.Less(t, time.Since(stopped), leases)
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(time.Second)
	p.signal(syscall.SIGCONT)
	p.expect("ended a")
	require.Equal(t, "the bus", <-answer, "the child refused the command, and then the session had no handler")
	time.Sleep(2 * time.Second)
	require.False(t, p.said("ran a"))
	require.Len(t, one.ends(), 1)
	require.Equal(t, bus.EndExpired, one.ends()[0].Reason)
}
