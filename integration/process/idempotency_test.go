//go:build unix

package process

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/nats"
)

// longJob is a command that takes a child for as long as the test wants.
type longJob struct {
	bus.Command[string]
	Name string
}

func (longJob) MessageName() string { return "test.long_job" }

// handleJobs is what a child does with them.
func handleJobs(ctx context.Context, b *bus.Bus) error {
	return bus.Handle(ctx, b, func(ctx context.Context, j longJob) (string, error) {
		fmt.Println("job", j.Name)
		<-ctx.Done()
		fmt.Println("cancelled", context.Cause(ctx))
		return "", ctx.Err()
	})
}

// survivor is a process that does the job at once, and how often.
type survivor struct {
	*bus.Bus
	others []*bus.Bus // which handle the same
	mu     sync.Mutex
	keys   []string
}

func newSurvivor(t *testing.T, url string) *survivor {
	t.Helper()
	open := func() *bus.Bus {
		tr, err := nats.Open(t.Context(), nats.Config{URL: url})
		require.NoError(t, err)
		b, err := bus.New(tr, bus.Config{Service: "svc"})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
		return b
	}
	return &survivor{Bus: open(), others: []*bus.Bus{open(), open()}}
}

func (s *survivor) serve(t *testing.T) {
	t.Helper()
	for _, b := range append(s.others, s.Bus) {
		require.NoError(t, bus.Handle(t.Context(), b, func(ctx context.Context, j longJob) (string, error) {
			m, _ := bus.MetaFrom(ctx)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.keys = append(s.keys, m.IdempotencyKey)
			return fmt.Sprint(j.Name, " by the survivor ", len(s.keys)), nil
		}))
	}
}

func (s *survivor) ran() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.keys...)
}

// execute asks for the job in the background, for long enough that not each of its
// tries is given to a process that is stopped.
func (s *survivor) execute(t *testing.T) <-chan string {
	done := make(chan string, 1)
	go func() {
		result, err := bus.Execute(t.Context(), s, longJob{Name: "a"}, bus.WithIdempotencyKey("job a"), bus.WithTimeout(2*time.Minute))
		if err != nil {
			result = err.Error()
		}
		done <- result
	}()
	return done
}

// The process that runs a command is killed: its caller, who waits, has it run by
// another, and so has who asks again.
func TestIdempotentCommandOfAKilledProcess(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(fmt.Sprint(signal), func(t *testing.T) {
			t.Parallel()
			s := natstest.Server(t)
			one := newSurvivor(t, s.URL())
			p := newMember(t, s.URL())
			first := one.execute(t)
			p.expect("job a")
			if signal == syscall.SIGSTOP {
				p.stop()
			} else {
				p.signal(signal)
			}
			gone := time.Now()
			one.serve(t)
			second := one.execute(t)
			require.Equal(t, "a by the survivor 1", <-first)
			require.Equal(t, "a by the survivor 1", <-second)
			took := time.Since(gone)
			require.Greater(t, took, 9*time.Second, "the claim holds for a while")
			t.Logf("taken over %v after the end", took.Round(time.Millisecond))

			if signal == syscall.SIGSTOP { // it comes back, and finds the key taken
				p.signal(syscall.SIGCONT)
				p.expect("cancelled " + bus.ErrLeaseLost.Error())
				time.Sleep(2 * time.Second)
			}
			require.Equal(t, "a by the survivor 1", <-one.execute(t))
			require.Equal(t, []string{"job a"}, one.ran())
		})
	}
}
