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
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

const secret = "s3cr3t-body"

// quick retries once, after a second.
var quick = resilience.Retry{MaxRetries: 1, Initial: time.Second, Jitter: resilience.NoJitter}

// Each failure is told of in one line, with all that it takes to find the message.
func TestEachFailureIsOneLine(t *testing.T) {
	listen := func(f func(ctx context.Context, attempt int) error) func(w *world.World, b *bus.Bus, tr *world.Faulty) {
		return func(w *world.World, b *bus.Bus, _ *world.Faulty) {
			s, err := b.Session(w.Context(), "job")
			require.NoError(w, err)
			_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
				m, _ := bus.MetaFrom(ctx)
				return f(ctx, m.Attempt)
			}, bus.WithName("mail"))
			require.NoError(w, err)
			require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{Note: secret}, bus.WithID("e1")))
		}
	}
	handle := func(f func(ctx context.Context) error) func(w *world.World, b *bus.Bus, tr *world.Faulty) {
		return func(w *world.World, b *bus.Bus, _ *world.Faulty) {
			s, err := b.Session(w.Context(), "job")
			require.NoError(w, err)
			require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, _ world.CreateUser) (world.UserID, error) { return "", f(ctx) }))
			_, err = bus.Execute(w.Context(), s, world.CreateUser{Name: secret}, bus.WithID("c1"), bus.WithTimeout(5*time.Second))
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
		act     func(w *world.World, b *bus.Bus, tr *world.Faulty)
		want    []line
	}{
		"an event that is retried": {
			act: listen(func(_ context.Context, attempt int) error { return once(attempt, world.ErrOops) }),
			want: []line{{slog.LevelWarn, "handler failed",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": false, "code": "failed", "retry_in": time.Second})}},
		},
		"an event that panics and is retried": {
			act: listen(func(_ context.Context, attempt int) error {
				if attempt == 1 {
					panic(world.ErrOops)
				}
				return nil
			}),
			want: []line{{slog.LevelError, "handler panicked",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": false, "code": "panic", "stack": nil})}},
		},
		"an event whose attempts are used up": {
			act: listen(func(context.Context, int) error { return world.ErrOops }),
			want: []line{
				{slog.LevelWarn, "handler failed", and(event, map[string]any{"attempt": int64(1), "dead_lettered": false})},
				{slog.LevelError, "event dead-lettered",
					and(event, map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil, "code": "failed"})},
			},
		},
		"an event that fails for good": {
			act: listen(func(context.Context, int) error { return bus.Permanent(world.ErrOops) }),
			want: []line{{slog.LevelError, "event dead-lettered",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": true, "dead_letter": nil, "code": "failed"})}},
		},
		"an event that panics for the last time": {
			act: listen(func(_ context.Context, attempt int) error {
				if attempt == 2 {
					panic("boom")
				}
				return world.ErrOops
			}),
			want: []line{
				{slog.LevelWarn, "handler failed", and(event, map[string]any{"attempt": int64(1), "dead_lettered": false})},
				{slog.LevelError, "event dead-lettered",
					and(event, map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil, "code": "panic", "stack": nil})},
			},
		},
		"an event whose lease is lost": {
			act: func(w *world.World, b *bus.Bus, tr *world.Faulty) {
				tr.Set(world.Failing("extend", transport.ErrUnavailable))
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
			act: func(w *world.World, b *bus.Bus, tr *world.Faulty) {
				tr.Set(world.Times(1, world.Failing("bury", transport.ErrBacklog)))
				listen(func(context.Context, int) error { return bus.Permanent(world.ErrOops) })(w, b, tr)
			},
			want: []line{
				{slog.LevelError, "dead letter not stored; the event stays with its group",
					and(event, map[string]any{"attempt": int64(1), "dead_lettered": false, "code": "failed", "refused": nil})},
				{slog.LevelError, "event dead-lettered",
					and(event, map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil})},
			},
		},
		"an event that is not acknowledged": {
			act: func(w *world.World, b *bus.Bus, tr *world.Faulty) {
				tr.Set(world.Times(1, world.Failing("ack", transport.ErrUnavailable)))
				listen(func(context.Context, int) error { return nil })(w, b, tr)
			},
			want: []line{{slog.LevelWarn, "delivery not settled",
				and(event, map[string]any{"attempt": int64(1), "dead_lettered": false, "settle": "ack"})}},
		},
		"an event that nobody can read": {
			encoded: true,
			act: func(w *world.World, b *bus.Bus, tr *world.Faulty) {
				_, err := bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed), bus.WithName("mail"))
				require.NoError(w, err)
				require.NoError(w, tr.Publish(w.Context(), &transport.Message{
					To: transport.Address{Name: "user.created", Session: "job"}, Session: "job", ID: "e1", Body: []byte(`{"` + secret)}))
			},
			want: []line{{slog.LevelError, "event dead-lettered",
				and(event, map[string]any{"handler": "", "attempt": int64(0), "dead_lettered": true, "dead_letter": nil, "code": "invalid"})}},
		},
		"a batch": {
			act: func(w *world.World, b *bus.Bus, _ *world.Faulty) {
				_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, events []world.UserCreated) error { return world.ErrOops },
					bus.WithName("mail"))
				require.NoError(w, err)
				require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "a"}, world.UserCreated{ID: "b"}))
			},
			want: []line{
				{slog.LevelWarn, "handler failed", map[string]any{"events": int64(2), "attempt": int64(1), "retry_in": time.Second, "dead_lettered": false}},
				{slog.LevelError, "event dead-lettered", map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil}},
				{slog.LevelError, "event dead-lettered", map[string]any{"attempt": int64(2), "dead_lettered": true, "dead_letter": nil}},
			},
		},
		"a command": {
			act:  handle(func(context.Context) error { return world.ErrOops }),
			want: []line{{slog.LevelWarn, "handler failed", and(command, map[string]any{"code": "failed"})}},
		},
		"a command that panics": {
			act: handle(func(context.Context) error { panic("boom") }),
			want: []line{{slog.LevelError, "command dead-lettered",
				and(command, map[string]any{"code": "panic", "stack": nil, "dead_lettered": true, "dead_letter": nil})}},
		},
		"a command whose caller is gone": {
			act:  handle(func(context.Context) error { time.Sleep(time.Minute); return world.ErrOops }),
			want: []line{{slog.LevelWarn, "handler failed", and(command, map[string]any{"code": "failed"})}},
		},
		"a command that nobody can read": {
			encoded: true,
			act: func(w *world.World, b *bus.Bus, tr *world.Faulty) {
				require.NoError(w, bus.Handle(w.Context(), b, world.Create))
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
			world.Everywhere(t, func(w *world.World) {
				if c.encoded && w.InProcess {
					return
				}
				log := world.NewLogs()
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, bus.Config{Retry: quick, Logger: log.Logger(), SlowHandler: -1})
				c.act(w, b, tr)
				world.Settle(2 * time.Minute)
				lines := log.Over(slog.LevelWarn)
				require.Len(w, lines, len(c.want), "%v", lines)
				for i, want := range c.want {
					got := lines[i]
					require.Equal(w, want.level, got.Level, got)
					require.Equal(w, want.text, got.Text, got)
					for _, key := range []string{"kind", "name", "id", "session", "group", "handler", "attempt", "dead_lettered", "code", "err"} {
						require.Contains(w, got.Attrs, key, got)
					}
					for key, value := range want.attrs {
						require.Contains(w, got.Attrs, key, got)
						if value != nil {
							require.Equal(w, value, got.Attrs[key].Any(), "%s of %v", key, got)
						}
					}
				}
				for _, l := range log.All() {
					require.NotContains(w, fmt.Sprint(l), secret)
				}
			})
		})
	}
}

// What succeeds is not told of above debug, however much of it there is.
func TestSuccessIsNotLogged(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		log := world.NewLogs()
		b := w.Bus(bus.Config{Logger: log.Logger()})
		got := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(got, succeed))
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		started := len(log.Over(slog.LevelInfo))
		for range 20 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{Note: secret}))
			_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: secret})
			require.NoError(w, err)
		}
		got.Wait(w, 20)
		require.Len(w, log.Over(slog.LevelInfo), started)
		for _, l := range log.All() {
			require.False(w, strings.Contains(fmt.Sprint(l), secret), l)
		}
	})
}

// A handler that runs for long is named while it runs, once.
func TestSlowHandlerIsNamed(t *testing.T) {
	run := func(w *world.World, cfg bus.Config) []world.Logged {
		log := world.NewLogs()
		cfg.Logger = log.Logger()
		b := w.Bus(cfg)
		s, err := b.Session(w.Context(), "job")
		require.NoError(w, err)
		for name, d := range map[string]time.Duration{"quick": 9 * time.Second, "slow": time.Minute} {
			_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { time.Sleep(d); return nil }, bus.WithName(name))
			require.NoError(w, err)
		}
		_, err = bus.SubscribeBatch(w.Context(), b, func(context.Context, []world.UserCreated) error { time.Sleep(time.Minute); return nil },
			bus.WithGroup("batches"), bus.WithName("all"))
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			time.Sleep(20 * time.Second)
			return "", nil
		}))
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{Note: secret}, bus.WithID("e1")))
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{Note: secret}, bus.WithID("e2"))) // in the same batch
		for _, ctx := range []context.Context{w.Context(), context.Background()} {
			_, err = bus.Execute(ctx, s, world.CreateUser{Name: secret}, bus.WithID("c1"))
			require.NoError(w, err)
			_, err = bus.Execute(ctx, b, world.CreateUser{Name: secret})
			require.NoError(w, err)
		}
		world.Settle(5 * time.Minute)
		return log.Over(slog.LevelWarn)
	}
	world.Everywhere(t, func(w *world.World) {
		count := map[string]int{}
		for _, l := range run(w, bus.Config{}) {
			require.Equal(w, "handler is slow", l.Text, l)
			for _, key := range []string{"kind", "name", "id", "session", "group", "handler", "attempt", "elapsed"} {
				require.Contains(w, l.Attrs, key, l)
			}
			require.NotContains(w, l.String(), secret)
			require.GreaterOrEqual(w, l.Attrs["elapsed"].Duration(), 10*time.Second, l)
			require.LessOrEqual(w, l.Attrs["elapsed"].Duration(), 13*time.Second, l)
			count[l.Attrs["kind"].String()+" "+l.Attrs["name"].String()+" "+l.Attrs["group"].String()+"/"+l.Attrs["handler"].String()]++
		}
		require.Equal(w, map[string]int{"event user.created svc/slow": 2, "event user.created batches/all": 1, "command user.create /svc": 4}, count)
	})
	world.Everywhere(t, func(w *world.World) { require.Empty(w, run(w, bus.Config{SlowHandler: -1})) })
	world.Everywhere(t, func(w *world.World) {
		require.Len(w, run(w, bus.Config{SlowHandler: time.Second}), 9, "the quick one too")
	})
}
