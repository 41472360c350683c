package command_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
)

// everyWay runs f for each of the ways that a command takes to its handler. The context of exec ends
// after the given time, if it can.
func everyWay(t *testing.T, f func(w *world.World, b *bus.Bus, exec func(timeout time.Duration, c tryIt) (int, error)), cfg bus.Config) {
	pass := func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) { return next(ctx, m) }
	}
	for name, way := range map[string]struct {
		cfg    func(*bus.Config)
		caller bool // executes on another bus
		never  bool // ctx has no Done
	}{
		"no done":       {never: true},
		"with a done":   {},
		"sending chain": {cfg: func(c *bus.Config) { c.Sending = []bus.Middleware{pass} }},
		"receiving":     {cfg: func(c *bus.Config) { c.Receiving = []bus.Middleware{pass} }},
		"transport":     {caller: true},
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				c := cfg
				if way.cfg != nil {
					way.cfg(&c)
				}
				if way.never {
					c.ExecuteTimeout = time.Minute
				}
				tr := w.Open()
				b := w.Bare(tr, c)
				from := b
				if way.caller && !w.InProcess {
					from = w.Bus(bus.Config{Service: "caller"})
				}
				f(w, b, func(timeout time.Duration, c tryIt) (int, error) {
					if way.never && timeout == time.Minute {
						return bus.Execute(context.Background(), from, c)
					}
					ctx, cancel := context.WithTimeout(w.Context(), timeout)
					defer cancel()
					return bus.Execute(ctx, from, c)
				})
			})
		})
	}
}

type tryIt struct {
	bus.Command[int]
	Fail  int    // so many times
	Error string // how
}

func (tryIt) MessageName() string { return "test.try" }

func (c tryIt) Validate() error {
	if c.Error == "invalid" {
		return world.ErrOops
	}
	return nil
}

var errTaken = errors.New("name is taken")

type hopeless struct{}

func (hopeless) Error() string       { return "hopeless" }
func (hopeless) Unrecoverable() bool { return true }

// trying is a handler that fails as it is told, and notes its runs.
func trying(ran *world.Record[string], began *time.Time) func(context.Context, tryIt) (int, error) {
	return func(ctx context.Context, c tryIt) (int, error) {
		m, _ := bus.MetaFrom(ctx)
		ran.Add(fmt.Sprintf("%d %v", m.Attempt, time.Since(*began).Round(time.Second)))
		if m.Attempt > c.Fail {
			return m.Attempt, nil
		}
		switch c.Error {
		case "panic":
			panic("boom")
		case "permanent":
			return 0, bus.Permanent(world.ErrOops)
		case "final":
			return 0, fmt.Errorf("read: %w", io.EOF)
		case "hopeless":
			return 0, hopeless{}
		case "registered":
			return 0, fmt.Errorf("create: %w", errTaken)
		case "refused":
			return 0, &bus.Error{Code: bus.CodeInvalid, Message: "no"}
		case "after":
			return 0, bus.RetryAfter(5*time.Second, world.ErrOops)
		case "deadline":
			<-ctx.Done()
			return 0, ctx.Err()
		case "own deadline":
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return 0, world.ErrOops
	}
}

// commands are tried at once, after 1 s and after 2 s.
var patient = resilience.Retry{MaxRetries: 3, Immediate: 1, Initial: time.Second, Jitter: resilience.NoJitter, Final: []error{io.EOF}}

func TestCommandsAreRetriedWithinTheDeadline(t *testing.T) {
	cases := []struct {
		name    string
		cmd     tryIt
		timeout time.Duration
		runs    []string
		took    time.Duration
		code    bus.Code // "" for success
	}{
		{"at once", tryIt{Fail: 1}, time.Minute, []string{"1 0s", "2 0s"}, 0, ""},
		{"in the end", tryIt{Fail: 3}, time.Minute, []string{"1 0s", "2 0s", "3 1s", "4 3s"}, 3 * time.Second, ""},
		{"never", tryIt{Fail: 9}, time.Minute, []string{"1 0s", "2 0s", "3 1s", "4 3s"}, 3 * time.Second, bus.CodeFailed},
		{"panic", tryIt{Fail: 9, Error: "panic"}, time.Minute, []string{"1 0s", "2 0s", "3 1s", "4 3s"}, 3 * time.Second, bus.CodePanic},
		{"past the deadline", tryIt{Fail: 9}, 2500 * time.Millisecond, []string{"1 0s", "2 0s", "3 1s"}, time.Second, bus.CodeFailed},
		{"at the deadline", tryIt{Fail: 9}, time.Second, []string{"1 0s", "2 0s"}, 0, bus.CodeFailed},
		{"retry after", tryIt{Fail: 1, Error: "after"}, time.Minute, []string{"1 0s", "2 5s"}, 5 * time.Second, ""},
		{"retry after the deadline", tryIt{Fail: 1, Error: "after"}, 5 * time.Second, []string{"1 0s"}, 0, bus.CodeFailed},
		{"permanent", tryIt{Fail: 1, Error: "permanent"}, time.Minute, []string{"1 0s"}, 0, bus.CodeFailed},
		{"final", tryIt{Fail: 1, Error: "final"}, time.Minute, []string{"1 0s"}, 0, bus.CodeFailed},
		{"unrecoverable", tryIt{Fail: 1, Error: "hopeless"}, time.Minute, []string{"1 0s"}, 0, bus.CodeFailed},
		{"registered", tryIt{Fail: 1, Error: "registered"}, time.Minute, []string{"1 0s"}, 0, bus.CodeFailed},
		{"invalid", tryIt{Fail: 1, Error: "invalid"}, time.Minute, nil, 0, bus.CodeInvalid},
		{"called invalid by the handler", tryIt{Fail: 1, Error: "refused"}, time.Minute, []string{"1 0s"}, 0, bus.CodeInvalid},
		{"the caller's deadline", tryIt{Fail: 9, Error: "deadline"}, 10 * time.Second, []string{"1 0s"}, 10 * time.Second, bus.CodeTimeout},
		{"a deadline of the handler's", tryIt{Fail: 1, Error: "own deadline"}, 10 * time.Second, []string{"1 0s", "2 1s"}, time.Second, ""},
	}
	everyWay(t, func(w *world.World, b *bus.Bus, exec func(time.Duration, tryIt) (int, error)) {
		ran := world.NewRecord[string]()
		began := time.Now()
		require.NoError(w, bus.Handle(w.Context(), b, trying(ran, &began)))
		world.Settle(time.Second)
		for _, c := range cases {
			ran.Reset()
			began = time.Now()
			n, err := exec(c.timeout, c.cmd)
			require.InDelta(w, c.took.Seconds(), time.Since(began).Seconds(), 0.1, c.name)
			require.Equal(w, c.runs, ran.All(), c.name)
			require.Equal(w, c.code, bus.CodeOf(err), "%s: %v", c.name, err)
			if c.code == "" {
				require.Equal(w, len(c.runs), n, c.name)
			} else if c.code != bus.CodeTimeout {
				var e *bus.Error
				require.ErrorAs(w, err, &e, c.name)
				require.Equal(w, len(c.runs), e.Attempts, c.name)
			}
			world.Settle(time.Minute)
			require.Equal(w, c.runs, ran.All(), "%s: nothing runs later", c.name)
		}
	}, bus.Config{CommandRetry: &patient, Errors: map[string]error{"user.taken": errTaken}})
}

func TestCommandsAreNotRetriedByDefault(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Retry: resilience.Retry{Immediate: 3}})
		ran := world.NewRecord[string]()
		began := time.Now()
		require.NoError(w, bus.Handle(w.Context(), b, trying(ran, &began)))
		_, err := bus.Execute(w.Context(), b, tryIt{Fail: 1})
		require.ErrorContains(w, err, "oops")
		require.Len(w, ran.All(), 1)
	})
}

func TestPoliciesOfCommands(t *testing.T) {
	none := resilience.Retry{MaxRetries: resilience.NoRetries}
	once := resilience.Retry{MaxRetries: 1, Immediate: 1}
	for name, c := range map[string]struct {
		cfg  bus.Config
		opts []bus.HandleOption
		want int
	}{
		"the handler's":                {bus.Config{}, []bus.HandleOption{bus.WithRetry(once)}, 2},
		"the bus's":                    {bus.Config{CommandRetry: &once}, nil, 2},
		"by name":                      {bus.Config{Retries: map[string]resilience.Retry{"test.try": once, "a": {}}}, nil, 2},
		"by name, not for this one":    {bus.Config{CommandRetry: &none, Retries: map[string]resilience.Retry{"a": once}}, nil, 1},
		"the handler's before by name": {bus.Config{Retries: map[string]resilience.Retry{"test.try": once}}, []bus.HandleOption{bus.WithRetry(none)}, 1},
		"by name before the bus's":     {bus.Config{CommandRetry: &once, Retries: map[string]resilience.Retry{"test.try": none}}, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(c.cfg)
				ran := world.NewRecord[string]()
				began := time.Now()
				require.NoError(w, bus.Handle(w.Context(), b, trying(ran, &began), c.opts...))
				_, err := bus.Execute(w.Context(), b, tryIt{Fail: 9})
				require.ErrorContains(w, err, "oops")
				require.Len(w, ran.All(), c.want)
			})
		})
	}
}

// The limit of time of a command, and what is observed of its retries.
func TestRetriesOfCommandsAreObserved(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		steps := world.NewRecord[string]()
		lines := world.NewLogs()
		b := w.Bus(bus.Config{
			Logger: lines.Logger(),
			Observers: []bus.Observer{func(r bus.Record) {
				if r.Stage != bus.StageSent {
					steps.Add(fmt.Sprintf("%v %d/%d %v %v %v", r.Stage, r.Attempt, r.Meta().Attempt, r.Delay, r.Err, r.Value() != nil))
				}
			}},
		})
		ran := world.NewRecord[string]()
		began := time.Now()
		require.NoError(w, bus.Handle(w.Context(), b, trying(ran, &began), bus.WithRetry(resilience.Retry{
			MaxRetries: 9, Initial: time.Second, Jitter: resilience.NoJitter, Within: 6 * time.Second,
		})))
		_, err := bus.Execute(w.Context(), b, tryIt{Fail: 9})
		require.ErrorContains(w, err, "oops")
		require.Equal(w, []string{
			"handled 1/1 0s oops true", "retrying 1/1 1s oops true",
			"handled 2/2 0s oops true", "retrying 2/2 2s oops true",
			"handled 3/3 0s oops true",
		}, steps.All()[:5])
		world.Settle(time.Second)
		failures := 0
		for _, l := range lines.All() {
			if l.Text == "handler failed" || l.Text == "command dead-lettered" {
				failures++
			}
		}
		require.Equal(w, 3, failures, "one line for each failure")
		s := b.Stats().Handlers[0]
		require.Equal(w, []uint64{3, 3, 2}, []uint64{s.Executions, s.Failures, s.Retries})
	})
}

// Close ends the wait for a retry at once. The caller has the last error, and what
// waited is neither run again nor a dead letter.
func TestShutdownEndsTheWaitOfACommand(t *testing.T) {
	for name, end := range map[string]func(w *world.World, b *bus.Bus, s *bus.Session) error{
		"bus":     func(w *world.World, b *bus.Bus, s *bus.Session) error { return b.Close(context.Background()) },
		"session": func(w *world.World, b *bus.Bus, s *bus.Session) error { return s.Close(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				keeper := w.BusOn(tr, bus.Config{Service: "keeper"})
				policy := resilience.Retry{MaxRetries: 9, Initial: 10 * time.Second, Jitter: resilience.NoJitter}
				stages := world.NewRecord[bus.Stage]()
				lines := world.NewLogs()
				b := w.Bus(bus.Config{CommandRetry: &policy, Capture: bus.CaptureFailures, Logger: lines.Logger(), Observers: []bus.Observer{func(r bus.Record) {
					if r.Kind == bus.KindCommand && r.Stage != bus.StageSent {
						stages.Add(r.Stage)
					}
				}}})
				s, err := b.Session(w.Context(), "s")
				require.NoError(w, err)
				ran := world.NewRecord[string]()
				began := time.Now()
				require.NoError(w, bus.Handle(w.Context(), s, trying(ran, &began)))
				// A listener that finishes and waits for the command keeps nobody waiting.
				done := world.NewRecord[error]()
				_, err = bus.Subscribe(w.Context(), s, func(ctx context.Context, e world.UserCreated) error {
					_, err := bus.Execute(ctx, s, tryIt{Fail: 99})
					done.Add(err)
					return nil
				})
				require.NoError(w, err)
				require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{}))
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
					defer cancel()
					_, err := bus.Execute(ctx, s, tryIt{Fail: 99})
					done.Add(err)
				}()
				world.Settle(15 * time.Second)
				closing := time.Now()
				require.NoError(w, end(w, b, s))
				require.Less(w, time.Since(closing), 3*time.Second)
				for _, err := range done.Wait(w, 2) {
					require.ErrorContains(w, err, "oops")
					var e *bus.Error
					require.ErrorAs(w, err, &e)
					require.Equal(w, 2, e.Attempts)
				}
				require.Len(w, ran.All(), 4)
				failures := 0
				for _, l := range lines.All() {
					if l.Text == "handler failed" {
						failures++
					}
				}
				require.Equal(w, 4, failures, "one line for each failure")
				require.Equal(w, bus.StageReturned, stages.All()[len(stages.All())-1])
				w.DeadLetters(tr, 0)
				_ = keeper
			})
		})
	}
}

// A session's command is retried in the session, and not once its lease is gone.
func TestRetriesOfASessionsCommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CommandRetry: &patient})
		s, err := b.Session(w.Context(), "import/42")
		require.NoError(w, err)
		var saw []string
		require.NoError(w, bus.Handle(w.Context(), s, func(ctx context.Context, c tryIt) (int, error) {
			m, _ := bus.MetaFrom(ctx)
			saw = append(saw, fmt.Sprint(m.Session, m.Attempt, m.ID))
			if m.Attempt < 3 {
				return 0, world.ErrOops
			}
			return m.Attempt, nil
		}))
		n, err := bus.Execute(w.Context(), s, tryIt{}, bus.WithID("cmd-1"))
		require.NoError(w, err)
		require.Equal(w, 3, n)
		require.Equal(w, []string{"import/421cmd-1", "import/422cmd-1", "import/423cmd-1"}, saw)
		require.NoError(w, s.Close(w.Context()))
	})
}

// A command with an idempotency key holds its claim while it waits for a retry, and
// what comes of it in the end is what counts.
func TestRetriesOfACommandWithAKey(t *testing.T) {
	everyWay(t, func(w *world.World, b *bus.Bus, _ func(time.Duration, tryIt) (int, error)) {
		ran := world.NewRecord[string]()
		began := time.Now()
		require.NoError(w, bus.Handle(w.Context(), b, trying(ran, &began), bus.WithRetry(resilience.Retry{
			MaxRetries: 2, Initial: 20 * time.Second, Max: time.Minute, Jitter: resilience.NoJitter,
		})))
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Minute)
		defer cancel()
		n, err := bus.Execute(ctx, b, tryIt{Fail: 2}, bus.WithIdempotencyKey("a"))
		require.NoError(w, err)
		require.Equal(w, 3, n)
		n, err = bus.Execute(ctx, b, tryIt{Fail: 2}, bus.WithIdempotencyKey("a"))
		require.NoError(w, err)
		require.Equal(w, 3, n, "the stored result")
		require.Equal(w, []string{"1 0s", "2 20s", "3 1m0s"}, ran.All())
		_, err = bus.Execute(ctx, b, tryIt{Fail: 9}, bus.WithIdempotencyKey("b"))
		var e *bus.Error
		require.ErrorAs(w, err, &e)
		require.Equal(w, 3, e.Attempts)
	}, bus.Config{})
}
