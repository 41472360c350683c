//go:build unix

package process

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/nats"
)

// runCrasher handles events in the group of its service, and is killed by one that says
// so, in the middle of its handler.
func runCrasher(text []byte) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	b, err := new(memberSettings).open(ctx, text, bus.Config{AckWait: time.Second})
	if err != nil {
		return err
	}
	_, err = bus.Subscribe(ctx, b, func(_ context.Context, e noted) error {
		fmt.Println("begins", e.Text)
		if e.Text == "poison" {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {} // it takes a moment
		}
		fmt.Println("ends", e.Text)
		return nil
	}, bus.WithConcurrency(1))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return b.Close(context.WithoutCancel(ctx))
}

// An event that kills every process that handles it becomes a dead letter unrun, after
// its attempts and two more, and the process that found it lives. Those that died with
// it every time are handled.
func TestEventThatKillsItsProcessesIsDeadLettered(t *testing.T) {
	t.Parallel()
	s := natstest.Server(t)
	tr, err := nats.Open(t.Context(), nats.Config{URL: s.URL()})
	require.NoError(t, err)
	ops, err := bus.New(tr, bus.Config{Service: "ops"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ops.Close(context.Background())) })
	told := make(chan bus.DeadLettered, 10)
	_, err = bus.Subscribe(t.Context(), ops, func(_ context.Context, e bus.DeadLettered) error { told <- e; return nil })
	require.NoError(t, err)

	p := newChild(t, "crasher", memberSettings{URL: s.URL()})
	p.await(time.Minute) // its group is there
	const beside = 7     // in the buffers of the processes that die
	require.NoError(t, bus.Publish(t.Context(), ops, noted{"poison"}, bus.WithID("poison")))
	for i := range beside {
		require.NoError(t, bus.Publish(t.Context(), ops, noted{fmt.Sprint("beside-", i)}))
	}
	runs, handled := 0, map[string]bool{}
	note := func() {
		for i := range beside {
			if line := fmt.Sprint("ends beside-", i); p.said(line) {
				handled[line] = true
			}
		}
	}
	var e bus.DeadLettered
	for stop := time.After(time.Minute); e.ID == ""; {
		select {
		case <-p.out:
		case e = <-told:
		case <-stop:
			require.Fail(t, "it neither dies nor is dead-lettered", "%d runs; %q", runs, p.all())
		}
		if p.said("begins poison") {
			runs++
		}
		note()
		if e.ID == "" {
			p = newChild(t, "crasher", memberSettings{URL: s.URL()})
		}
	}
	require.NoError(t, bus.Publish(t.Context(), ops, noted{"behind"}))
	p.expect("ends behind")
	for stop := time.Now().Add(time.Minute); len(handled) < beside; note() {
		require.True(t, time.Now().Before(stop), "%v of %d handled", handled, beside)
		time.Sleep(50 * time.Millisecond)
	}
	require.Equal(t, []any{"poison", "svc", "", bus.CodeFailed}, []any{e.MessageID, e.Group, e.Handler, e.Code})
	require.Contains(t, e.Err, "may be ending the process")
	require.Equal(t, 6, runs, "four attempts and two more")
	require.Equal(t, 6, e.Attempts)
	require.Empty(t, told)
	_, err = ops.DeadLetters().Get(t.Context(), e.ID)
	require.NoError(t, err)
}
