package integration_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

func TestObserversSeeAnEvent(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { time.Sleep(3 * time.Second); return nil })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"}, bus.WithHeader("Tenant", "t1"), bus.WithKey("k")))
		told.Wait(w, 2)
		world.Settle(time.Minute)
		all := told.All()
		require.Equal(w, []string{"sent user.created / 0", "handled user.created svc/default 1 ran 3s"}, world.Steps(all))
		sent, handled := all[0].Meta(), all[1].Meta()
		require.Equal(w, bus.KindEvent, all[0].Kind)
		require.NotEmpty(w, sent.ID)
		for _, m := range []bus.Meta{sent, handled} {
			require.Equal(w, "user.created", m.Name)
			require.Equal(w, sent.ID, m.ID)
			require.Equal(w, sent.ID, m.CorrelationID)
			require.Equal(w, "k", m.Key)
			require.Equal(w, bus.Header{"Tenant": {"t1"}}, m.Headers())
		}
		require.Equal(w, []any{"svc", "default", 1}, []any{handled.Group, handled.Handler, handled.Attempt})
		require.Equal(w, world.UserCreated{ID: "ada"}, all[0].Value())
		if w.InProcess {
			require.Equal(w, world.UserCreated{ID: "ada"}, all[1].Value())
		} else {
			require.Equal(w, &world.UserCreated{ID: "ada"}, all[1].Value())
		}
	})
}

func TestObserversSeeFailures(t *testing.T) {
	for what, c := range map[string]struct {
		companion bool // another listener succeeds
		err       error
		want      []string
	}{
		"retried by the broker": {err: world.ErrOops, want: []string{
			"handled user.created svc/bad 1 failed", "retrying user.created svc/bad 1 in 2s failed",
			"handled user.created svc/bad 2 failed", "dead-lettered user.created svc/bad 2 failed"}},
		"retried in the process": {companion: true, err: world.ErrOops, want: []string{
			"handled user.created svc/bad 1 failed", "retrying user.created svc/bad 1 in 2s failed",
			"handled user.created svc/bad 2 failed", "dead-lettered user.created svc/bad 2 failed"}},
		"retried by a copy": {err: bus.RetryAfter(10*time.Minute, world.ErrOops), want: []string{
			"handled user.created svc/bad 1 failed", "retrying user.created svc/bad 1 in 10m0s failed",
			"handled user.created svc/bad 2 failed", "dead-lettered user.created svc/bad 2 failed"}},
		"for good": {err: bus.Permanent(world.ErrOops), want: []string{
			"handled user.created svc/bad 1 failed", "dead-lettered user.created svc/bad 1 failed"}},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b, told := w.Observed(w.Open(), bus.Config{Retry: resilience.Retry{
					MaxRetries: 1, Initial: 2 * time.Second, Jitter: resilience.NoJitter}})
				_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return c.err }, bus.WithName("bad"))
				require.NoError(w, err)
				want := append([]string{"sent user.created / 0"}, c.want...)
				if c.companion {
					_, err = bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed), bus.WithName("good"), bus.WithPriority(100))
					require.NoError(w, err)
					want = append(want, "handled user.created svc/good 1")
				}
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e")))
				world.Settle(20 * time.Minute)
				require.ElementsMatch(w, want, world.Steps(told.All()))
				for _, r := range told.All() {
					require.Equal(w, "e", r.Meta().ID, r.Stage)
					require.NotNil(w, r.Value(), r.Stage)
					if r.Err != nil {
						require.ErrorIs(w, r.Err, world.ErrOops)
					}
				}
			})
		})
	}
}

func TestObserversSeeACommand(t *testing.T) {
	handled := "handled user.create /svc 1"
	world.Everywhere(t, func(w *world.World) {
		keep := func(next bus.Func) bus.Func { return next }
		for way, c := range map[string]struct {
			cfg  bus.Config
			ctx  context.Context
			opts []bus.ExecuteOption
		}{
			"on the caller's goroutine": {ctx: context.Background()},
			"on its own goroutine":      {ctx: w.Context()},
			"through a chain":           {ctx: w.Context(), cfg: bus.Config{Sending: []bus.Middleware{keep}, Receiving: []bus.Middleware{keep}}},
			"with options":              {ctx: w.Context(), opts: []bus.ExecuteOption{bus.WithID("given")}},
		} {
			b, told := w.Observed(w.Open(), c.cfg)
			require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
				switch c.Name {
				case "slow":
					time.Sleep(3 * time.Second)
				case "exists":
					return "", world.ErrUserExists
				case "panic":
					panic("boom")
				}
				return world.UserID(c.Name), nil
			}))
			for _, name := range []string{"slow", "exists", "panic"} {
				_, _ = bus.Execute(c.ctx, b, world.CreateUser{Name: name}, c.opts...)
			}
			told.Wait(w, 7)
			all := told.All()
			require.Equal(w, []string{
				handled + " ran 3s", "sent user.create / 0 ran 3s",
				handled + " failed", "sent user.create / 0 failed",
				handled + " failed", "dead-lettered user.create /svc 1 panic", "sent user.create / 0 panic",
			}, world.Steps(all), way)
			require.ErrorIs(w, all[2].Err, world.ErrUserExists, way)
			require.Equal(w, all[0].Meta().ID, all[1].Meta().ID, way)
			require.NotEmpty(w, all[0].Meta().ID, way)
			require.NotEqual(w, c.opts == nil, all[0].Meta().ID == "given", way)
			require.Equal(w, world.CreateUser{Name: "slow"}, all[1].Value(), way)
			require.Equal(w, "svc", all[0].Meta().Handler)
			require.Empty(w, all[1].Meta().Handler)
			require.NoError(w, b.Close(context.Background()))
		}
	})
}

func TestObserversSeeACommandBetweenProcesses(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, handled := w.Observed(w.Open(), bus.Config{})
		caller, sent := w.Observed(w.Open(), bus.Config{Service: "caller"})
		require.NoError(w, bus.Handle(w.Context(), server, world.Create))
		_, err := bus.Execute(w.Context(), caller, world.CreateUser{Name: "ada"})
		require.NoError(w, err)
		require.Equal(w, []string{"handled user.create /svc 1"}, world.Steps(handled.All()))
		require.Equal(w, []string{"sent user.create / 0"}, world.Steps(sent.All()))
		require.Equal(w, sent.All()[0].Meta().ID, handled.All()[0].Meta().ID)
	})
}

func TestObserversSeeWhatNeverLeft(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		_, _ = bus.Execute(context.Background(), b, world.CreateUser{})
		_, _ = bus.Execute(w.Context(), b, world.CreateUser{}, bus.WithID("x"))
		_ = bus.Do(w.Context(), b, (*world.ResetAll)(nil))
		_ = bus.Publish(w.Context(), b, nil)
		_ = bus.Publish(w.Context(), b, world.CreateUser{Name: "ada"})
		_ = bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID(""))
		require.Equal(w, []string{
			"sent user.create / 0 invalid", "sent user.create / 0 invalid", "sent  / 0 invalid",
			"sent  / 0 invalid", "sent user.create / 0 invalid", "sent user.created / 0 invalid",
		}, world.Steps(told.All()))
		for _, r := range told.All() {
			require.Empty(w, r.Meta().ID)
		}
	})
}

func TestObserversSeeEachEventOfPublishAll(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, told := w.Observed(tr, bus.Config{})
		require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "a"}, world.UserCreated{ID: "b"}))
		require.Equal(w, []string{"sent user.created / 0", "sent user.created / 0"}, world.Steps(told.All()))
		require.Equal(w, world.UserCreated{ID: "b"}, told.All()[1].Value())
		told.Reset()
		require.Error(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "a"}, &world.UserDeleted{}, world.UserCreated{ID: "b"}))
		require.Equal(w, []string{
			"sent user.created / 0 invalid", "sent user.deleted / 0 invalid", "sent  / 0 invalid",
		}, world.Steps(told.All()), "what is wrong with one kept all from being sent")

		drop := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				switch e := m.Value.(world.UserCreated); e.ID {
				case "drop":
					return nil, nil
				case "change":
					m.Value = world.UserCreated{ID: "changed"}
				}
				return next(ctx, m)
			}
		}
		b, told = w.Observed(tr, bus.Config{Sending: []bus.Middleware{drop}})
		require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "drop"}, world.UserCreated{ID: "change"}))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "drop"}))
		require.Equal(w, []string{"filtered user.created / 0", "sent user.created / 0", "filtered user.created / 0"}, world.Steps(told.All()))
		require.Equal(w, world.UserCreated{ID: "changed"}, told.All()[1].Value(), "as it was sent")
	})
}

func TestObserversSeeWhatGoesBack(t *testing.T) {
	// How a run that has begun ends without having been made.
	for what, c := range map[string]struct {
		opts    []bus.SubscribeOption
		handler func(ctx context.Context) error
		end     func(w *world.World, b *bus.Bus, tr *world.Faulty)
		want    []string
	}{
		"cut short by Close": {
			handler: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			end: func(w *world.World, b *bus.Bus, _ *world.Faulty) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				require.NoError(w, b.Close(ctx))
			},
			want: []string{"returned user.created svc/default 1 cancelled"},
		},
		"lease lost": {
			handler: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			end: func(w *world.World, b *bus.Bus, tr *world.Faulty) {
				tr.Set(world.Failing("extend", transport.ErrUnavailable))
				world.Settle(28 * time.Second)
			},
			want: []string{"handled user.created svc/default 1 ran 25s cancelled", "returned user.created svc/default 1 cancelled"},
		},
		"private and waiting when it closes": {
			opts:    []bus.SubscribeOption{bus.WithPrivate()},
			handler: func(context.Context) error { return bus.RetryAfter(time.Hour, world.ErrOops) },
			end:     func(w *world.World, b *bus.Bus, _ *world.Faulty) { require.NoError(w, b.Close(context.Background())) },
			want: []string{"handled user.created /default 1 failed", "retrying user.created /default 1 in 1h0m0s failed",
				"returned user.created /default 1 failed"},
		},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := world.NewFaulty(w.Open())
				b, told := w.Observed(tr, bus.Config{})
				started := world.NewRecord[int]()
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
					started.Add(1)
					return c.handler(ctx)
				}, c.opts...)
				require.NoError(w, err)
				require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{Service: "p"}), world.UserCreated{}))
				started.Wait(w, 1)
				world.Settle(100 * time.Millisecond)
				c.end(w, b, tr)
				require.Equal(w, c.want, world.Steps(told.All()))
			})
		})
	}
}

func TestObserversSeeWhatNobodyStarted(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{})
		started := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			started.Add(1)
			time.Sleep(2 * time.Second)
			return nil
		}, bus.WithConcurrency(1), bus.WithName("narrow"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed), bus.WithName("late"), bus.WithPriority(0))
		require.NoError(w, err)
		p := w.Bus(bus.Config{Service: "p"})
		for range 2 {
			require.NoError(w, bus.Publish(w.Context(), p, world.UserCreated{}))
		}
		started.Wait(w, 1)
		world.Settle(time.Second)
		require.NoError(w, b.Close(context.Background()))
		require.ElementsMatch(w, []string{
			"handled user.created svc/narrow 1 ran 2s", "handled user.created svc/late 1",
			"returned user.created svc/narrow 1", "returned user.created svc/late 1",
		}, world.Steps(told.All()))
	})
}

func TestObserversSeeWhatCannotBeHandled(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if w.InProcess {
			return // values are not decoded
		}
		tr := w.Open()
		b, told := w.Observed(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed))
		require.NoError(w, err)
		require.NoError(w, tr.Publish(w.Context(), &transport.Message{
			To: transport.Address{Name: "user.created"}, ID: "bad", Body: []byte("{"), Header: transport.Header{"Tenant": {"t1"}}}))
		r := told.Wait(w, 1)[0]
		require.Equal(w, []string{"dead-lettered user.created svc/ 0 invalid"}, world.Steps(told.All()))
		require.Nil(w, r.Value())
		require.Equal(w, "bad", r.Meta().ID)
		require.Equal(w, "t1", r.Meta().Header("Tenant"))
	})
}

func TestObserversSeeAHandlerThatEndsItsGoroutine(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			runtime.Goexit()
			return "", nil
		}))
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.Equal(w, bus.CodePanic, bus.CodeOf(err))
		require.Equal(w, []string{"handled user.create /svc 1 failed", "dead-lettered user.create /svc 1 panic", "sent user.create / 0 panic"}, world.Steps(told.Wait(w, 3)))
	})
}

func TestObserverThatPanics(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var log bytes.Buffer
		b, told := w.Observed(w.Open(), bus.Config{
			Logger:    slog.New(slog.NewTextHandler(&log, nil)),
			Observers: []bus.Observer{func(bus.Record) { panic("broken observer") }},
		})
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		require.Len(w, told.All(), 1, "the next one is told all the same")
		require.Contains(w, log.String(), "broken observer")
		require.NoError(w, b.Close(context.Background()))
	})
}

func TestNilObserverIsRefused(t *testing.T) {
	err := bus.Config{Observers: []bus.Observer{func(bus.Record) {}, nil}}.Validate()
	require.ErrorContains(t, err, "Config.Observers[1] is nil")
}
