package integration_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

const secret = "s3cr3t-body"

// quick retries once, after a second.
var quick = resilience.Retry{MaxRetries: 1, Initial: time.Second, Jitter: resilience.NoJitter}

// Each failure is told of in one line, with all that it takes to find the message.
func TestEachFailureIsOneLine(t *testing.T) {
	listen := func(f func(ctx context.Context, attempt int) error) func(w *world, b *bus.Bus, tr *faulty) {
		return func(w *world, b *bus.Bus, _ *faulty) {
			s, err := b.Session(w.Context(), "job")
			require.NoError(w, err)
			_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
				m, _ := bus.MetaFrom(ctx)
				return f(ctx, m.Attempt)
			}, bus.WithName("mail"))
			require.NoError(w, err)
			require.NoError(w, bus.Publish(w.Context(), s, userCreated{Note: secret}, bus.WithID("e1")))
		}
	}
	handle := func(f func(ctx context.Context) error) func(w *world, b *bus.Bus, tr *faulty) {
		return func(w *world, b *bus.Bus, _ *faulty) {
			s, err := b.Session(w.Context(), "job")
			require.NoError(w, err)
			require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, _ createUser) (userID, error) { return "", f(ctx) }))
			_, err = bus.Execute(w.Context(), s, createUser{Name: secret}, bus.WithID("c1"), bus.WithTimeout(5*time.Second))
			require.Error(w, err)
		}
	}
	once := func(attempt int, err error) error {
		if attempt == 1 {
			return err
		}
		return nil
	}
	type line struct {
		level slog.Level
		text  string
		attrs map[string]any
	}
	event := map[string]any{"kind": "event", "name": "user.created", "id": "e1", "session": "job", "group": "svc", "handler": "mail"}
	command := map[string]any{"kind": "command", "name": "user.create", "id": "c1", "session": "job", "group": "", "handler": "svc", "attempt": int64(1), "dead_lettered": false}
	and := func(m map[string]any, more map[string]any) map[string]any {
		m = maps.Clone(m)
		maps.Copy(m, more)
		return m
	}
	for what, c := range map[string]struct {
		encoded bool // only where bodies travel
		act     func(w *world, b *bus.Bus, tr *faulty)
		want    []line
	}{
		"an event that is retried": {
			act: listen(func(_ context.Context, attempt int) error { return once(attempt, errOops) }),
			want: []line{{slog.LevelWarn, "handler failed",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": false, "code": "failed", "retry_in": time.Second})}},
		},
		"an event that panics and is retried": {
			act: listen(func(_ context.Context, attempt int) error {
				if attempt == 1 {
					panic(errOops)
				}
				return nil
			}),
			want: []line{{slog.LevelError, "handler panicked",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": false, "code": "panic", "stack": nil})}},
		},
		"an event whose attempts are used up": {
			act: listen(func(context.Context, int) error { return errOops }),
			want: []line{
				{slog.LevelWarn, "handler failed", and(event, map[string]any{"attempt": int64(1), "dead_lettered": false})},
				{slog.LevelError, "event dead-lettered",
					and(event, map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil, "code": "failed"})},
			},
		},
		"an event that fails for good": {
			act: listen(func(context.Context, int) error { return bus.Permanent(errOops) }),
			want: []line{{slog.LevelError, "event dead-lettered",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": true, "dead_letter": nil, "code": "failed"})}},
		},
		"an event that panics for the last time": {
			act: listen(func(_ context.Context, attempt int) error {
				if attempt == 2 {
					panic("boom")
				}
				return errOops
			}),
			want: []line{
				{slog.LevelWarn, "handler failed", and(event, map[string]any{"attempt": int64(1), "dead_lettered": false})},
				{slog.LevelError, "event dead-lettered",
					and(event, map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil, "code": "panic", "stack": nil})},
			},
		},
		"an event whose lease is lost": {
			act: func(w *world, b *bus.Bus, tr *faulty) {
				tr.set(failing("extend", transport.ErrUnavailable))
				listen(func(ctx context.Context, attempt int) error {
					if attempt > 1 {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				})(w, b, tr)
			},
			want: []line{{slog.LevelWarn, "lease on a delivery lost; another process handles the event",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": false})}},
		},
		"an event whose dead letter is refused": {
			act: func(w *world, b *bus.Bus, tr *faulty) {
				tr.set(times(1, failing("bury", transport.ErrBacklog)))
				listen(func(context.Context, int) error { return bus.Permanent(errOops) })(w, b, tr)
			},
			want: []line{
				{slog.LevelError, "dead letter not stored; the event stays with its group",
					and(event, map[string]any{"attempt": int64(1), "dead_lettered": false, "code": "failed", "refused": nil})},
				{slog.LevelError, "event dead-lettered",
					and(event, map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil})},
			},
		},
		"an event that is not acknowledged": {
			act: func(w *world, b *bus.Bus, tr *faulty) {
				tr.set(times(1, failing("ack", transport.ErrUnavailable)))
				listen(func(context.Context, int) error { return nil })(w, b, tr)
			},
			want: []line{{slog.LevelWarn, "delivery not settled",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": false, "settle": "ack"})}},
		},
		"an event that nobody can read": {
			encoded: true,
			act: func(w *world, b *bus.Bus, tr *faulty) {
				_, err := bus.Subscribe(w.Context(), b, attempts(newRecord[int](), succeed), bus.WithName("mail"))
				require.NoError(w, err)
				require.NoError(w, tr.Publish(w.Context(), &transport.Message{
					To: transport.Address{Name: "user.created", Session: "job"}, Session: "job", ID: "e1", Body: []byte(`{"` + secret)}))
			},
			want: []line{{slog.LevelError, "event dead-lettered",
				and(event, map[string]any{"handler": "", "attempt": int64(0), "dead_lettered": true, "dead_letter": nil, "code": "invalid"})}},
		},
		"a batch": {
			act: func(w *world, b *bus.Bus, _ *faulty) {
				_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, events []userCreated) error { return errOops },
					bus.WithName("mail"))
				require.NoError(w, err)
				require.NoError(w, bus.PublishAll(w.Context(), b, userCreated{ID: "a"}, userCreated{ID: "b"}))
			},
			want: []line{
				{slog.LevelWarn, "handler failed", map[string]any{"events": int64(2), "attempt": int64(1), "retry_in": time.Second, "dead_lettered": false}},
				{slog.LevelError, "event dead-lettered", map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil}},
				{slog.LevelError, "event dead-lettered", map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil}},
			},
		},
		"a command": {
			act:  handle(func(context.Context) error { return errOops }),
			want: []line{{slog.LevelWarn, "handler failed", and(command, map[string]any{"code": "failed"})}},
		},
		"a command that panics": {
			act: handle(func(context.Context) error { panic("boom") }),
			want: []line{{slog.LevelError, "command dead-lettered",
				and(command, map[string]any{"code": "panic", "stack": nil, "dead_lettered": true, "dead_letter": nil})}},
		},
		"a command whose caller is gone": {
			act:  handle(func(context.Context) error { time.Sleep(time.Minute); return errOops }),
			want: []line{{slog.LevelWarn, "handler failed", and(command, map[string]any{"code": "failed"})}},
		},
		"a command that nobody can read": {
			encoded: true,
			act: func(w *world, b *bus.Bus, tr *faulty) {
				require.NoError(w, bus.Handle(w.Context(), b, create))
				ctx, cancel := context.WithTimeout(w.Context(), time.Second)
				defer cancel()
				_, err := tr.Request(ctx, &transport.Message{To: transport.Address{Name: "user.create"}, ID: "c1", Body: []byte(`{"` + secret)})
				require.NoError(w, err)
			},
			want: []line{{slog.LevelWarn, "command refused; nothing ran",
				and(command, map[string]any{"session": "", "attempt": int64(0), "code": "invalid"})}},
		},
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(w *world) {
				if c.encoded && w.inProcess {
					return
				}
				log := newLogs()
				tr := newFaulty(w.open())
				b := w.busOn(tr, bus.Config{Retry: quick, Logger: log.logger(), SlowHandler: -1})
				c.act(w, b, tr)
				settle(2 * time.Minute)
				lines := log.over(slog.LevelWarn)
				require.Len(w, lines, len(c.want), "%v", lines)
				for i, want := range c.want {
					got := lines[i]
					require.Equal(w, want.level, got.level, got)
					require.Equal(w, want.text, got.text, got)
					for _, key := range []string{"kind", "name", "id", "session", "group", "handler", "attempt", "dead_lettered", "code", "err"} {
						require.Contains(w, got.attrs, key, got)
					}
					for key, value := range want.attrs {
						require.Contains(w, got.attrs, key, got)
						if value != nil {
							require.Equal(w, value, got.attrs[key].Any(), "%s of %v", key, got)
						}
					}
				}
				for _, l := range log.all() {
					require.NotContains(w, fmt.Sprint(l), secret)
				}
			})
		})
	}
}

// What succeeds is not told of above debug, however much of it there is.
func TestSuccessIsNotLogged(t *testing.T) {
	everywhere(t, func(w *world) {
		log := newLogs()
		b := w.bus(bus.Config{Logger: log.logger()})
		got := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed))
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, create))
		started := len(log.over(slog.LevelInfo))
		for range 20 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{Note: secret}))
			_, err := bus.Execute(w.Context(), b, createUser{Name: secret})
			require.NoError(w, err)
		}
		got.wait(w, 20)
		require.Len(w, log.over(slog.LevelInfo), started)
		for _, l := range log.all() {
			require.False(w, strings.Contains(fmt.Sprint(l), secret), l)
		}
	})
}

// A handler that runs for long is named while it runs, once.
func TestSlowHandlerIsNamed(t *testing.T) {
	run := func(w *world, cfg bus.Config) []logged {
		log := newLogs()
		cfg.Logger = log.logger()
		b := w.bus(cfg)
		s, err := b.Session(w.Context(), "job")
		require.NoError(w, err)
		for name, d := range map[string]time.Duration{"quick": 9 * time.Second, "slow": time.Minute} {
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { time.Sleep(d); return nil }, bus.WithName(name))
			require.NoError(w, err)
		}
		_, err = bus.SubscribeBatch(w.Context(), b, func(context.Context, []userCreated) error { time.Sleep(time.Minute); return nil },
			bus.WithGroup("batches"), bus.WithName("all"))
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, createUser) (userID, error) { time.Sleep(20 * time.Second); return "", nil }))
		require.NoError(w, bus.Publish(w.Context(), s, userCreated{Note: secret}, bus.WithID("e1")))
		require.NoError(w, bus.Publish(w.Context(), s, userCreated{Note: secret}, bus.WithID("e2"))) // in the same batch
		for _, ctx := range []context.Context{w.Context(), context.Background()} {
			_, err = bus.Execute(ctx, s, createUser{Name: secret}, bus.WithID("c1"))
			require.NoError(w, err)
			_, err = bus.Execute(ctx, b, createUser{Name: secret})
			require.NoError(w, err)
		}
		settle(5 * time.Minute)
		return log.over(slog.LevelWarn)
	}
	everywhere(t, func(w *world) {
		count := map[string]int{}
		for _, l := range run(w, bus.Config{}) {
			require.Equal(w, "handler is slow", l.text, l)
			for _, key := range []string{"kind", "name", "id", "session", "group", "handler", "attempt", "elapsed"} {
				require.Contains(w, l.attrs, key, l)
			}
			require.NotContains(w, l.String(), secret)
			require.GreaterOrEqual(w, l.attrs["elapsed"].Duration(), 10*time.Second, l)
			require.LessOrEqual(w, l.attrs["elapsed"].Duration(), 13*time.Second, l)
			count[l.attrs["kind"].String()+" "+l.attrs["name"].String()+" "+l.attrs["group"].String()+"/"+l.attrs["handler"].String()]++
		}
		require.Equal(w, map[string]int{"event user.created svc/slow": 2, "event user.created batches/all": 1, "command user.create /svc": 4}, count)
	})
	everywhere(t, func(w *world) { require.Empty(w, run(w, bus.Config{SlowHandler: -1})) })
	everywhere(t, func(w *world) {
		require.Len(w, run(w, bus.Config{SlowHandler: time.Second}), 9, "the quick one too")
	})
}
