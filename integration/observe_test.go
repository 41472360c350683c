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
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

func TestObserversSeeAnEvent(t *testing.T) {
	everywhere(t, func(w *world) {
		b, told := w.observed(w.open(), bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { time.Sleep(3 * time.Second); return nil })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "ada"}, bus.WithHeader("Tenant", "t1"), bus.WithKey("k")))
		told.wait(w, 2)
		settle(time.Minute)
		all := told.all()
		require.Equal(w, []string{"sent user.created / 0", "handled user.created svc/default 1 ran 3s"}, steps(all))
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
		require.Equal(w, userCreated{ID: "ada"}, all[0].Value())
		if w.inProcess {
			require.Equal(w, userCreated{ID: "ada"}, all[1].Value())
		} else {
			require.Equal(w, &userCreated{ID: "ada"}, all[1].Value())
		}
	})
}

func TestObserversSeeFailures(t *testing.T) {
	for what, c := range map[string]struct {
		companion bool // another listener succeeds
		err       error
		want      []string
	}{
		"retried by the broker": {err: errOops, want: []string{
			"handled user.created svc/bad 1 failed", "retrying user.created svc/bad 1 in 2s failed",
			"handled user.created svc/bad 2 failed", "dead-lettered user.created svc/bad 2 failed"}},
		"retried in the process": {companion: true, err: errOops, want: []string{
			"handled user.created svc/bad 1 failed", "retrying user.created svc/bad 1 in 2s failed",
			"handled user.created svc/bad 2 failed", "dead-lettered user.created svc/bad 2 failed"}},
		"retried by a copy": {err: bus.RetryAfter(time.Hour, errOops), want: []string{
			"handled user.created svc/bad 1 failed", "retrying user.created svc/bad 1 in 1h0m0s failed",
			"handled user.created svc/bad 2 failed", "dead-lettered user.created svc/bad 2 failed"}},
		"for good": {err: bus.Permanent(errOops), want: []string{
			"handled user.created svc/bad 1 failed", "dead-lettered user.created svc/bad 1 failed"}},
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(w *world) {
				b, told := w.observed(w.open(), bus.Config{Retry: resilience.Retry{
					MaxRetries: 1, Initial: 2 * time.Second, Jitter: resilience.NoJitter}})
				_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return c.err }, bus.WithName("bad"))
				require.NoError(w, err)
				want := append([]string{"sent user.created / 0"}, c.want...)
				if c.companion {
					_, err = bus.Subscribe(w.Context(), b, attempts(newRecord[int](), succeed), bus.WithName("good"), bus.WithPriority(100))
					require.NoError(w, err)
					want = append(want, "handled user.created svc/good 1")
				}
				require.NoError(w, bus.Publish(w.Context(), b, userCreated{}, bus.WithID("e")))
				settle(3 * time.Hour)
				require.ElementsMatch(w, want, steps(told.all()))
				for _, r := range told.all() {
					require.Equal(w, "e", r.Meta().ID, r.Stage)
					require.NotNil(w, r.Value(), r.Stage)
					if r.Err != nil {
						require.ErrorIs(w, r.Err, errOops)
					}
				}
			})
		})
	}
}

func TestObserversSeeACommand(t *testing.T) {
	handled := "handled user.create /svc 1"
	everywhere(t, func(w *world) {
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
			b, told := w.observed(w.open(), c.cfg)
			require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c createUser) (userID, error) {
				switch c.Name {
				case "slow":
					time.Sleep(3 * time.Second)
				case "exists":
					return "", errUserExists
				case "panic":
					panic("boom")
				}
				return userID(c.Name), nil
			}))
			for _, name := range []string{"slow", "exists", "panic"} {
				_, _ = bus.Execute(c.ctx, b, createUser{Name: name}, c.opts...)
			}
			told.wait(w, 7)
			all := told.all()
			require.Equal(w, []string{
				handled + " ran 3s", "sent user.create / 0 ran 3s",
				handled + " failed", "sent user.create / 0 failed",
				handled + " failed", "dead-lettered user.create /svc 1 panic", "sent user.create / 0 panic",
			}, steps(all), way)
			require.ErrorIs(w, all[2].Err, errUserExists, way)
			require.Equal(w, all[0].Meta().ID, all[1].Meta().ID, way)
			require.NotEmpty(w, all[0].Meta().ID, way)
			require.NotEqual(w, c.opts == nil, all[0].Meta().ID == "given", way)
			require.Equal(w, createUser{Name: "slow"}, all[1].Value(), way)
			require.Equal(w, "svc", all[0].Meta().Handler)
			require.Empty(w, all[1].Meta().Handler)
			require.NoError(w, b.Close(context.Background()))
		}
	})
}

func TestObserversSeeACommandBetweenProcesses(t *testing.T) {
	everywhere(t, func(w *world) {
		server, handled := w.observed(w.open(), bus.Config{})
		caller, sent := w.observed(w.open(), bus.Config{Service: "caller"})
		require.NoError(w, bus.Handle(w.Context(), server, create))
		_, err := bus.Execute(w.Context(), caller, createUser{Name: "ada"})
		require.NoError(w, err)
		require.Equal(w, []string{"handled user.create /svc 1"}, steps(handled.all()))
		require.Equal(w, []string{"sent user.create / 0"}, steps(sent.all()))
		require.Equal(w, sent.all()[0].Meta().ID, handled.all()[0].Meta().ID)
	})
}

func TestObserversSeeWhatNeverLeft(t *testing.T) {
	everywhere(t, func(w *world) {
		b, told := w.observed(w.open(), bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, create))
		_, _ = bus.Execute(context.Background(), b, createUser{})
		_, _ = bus.Execute(w.Context(), b, createUser{}, bus.WithID("x"))
		_ = bus.Do(w.Context(), b, (*resetAll)(nil))
		_ = bus.Publish(w.Context(), b, nil)
		_ = bus.Publish(w.Context(), b, createUser{Name: "ada"})
		_ = bus.Publish(w.Context(), b, userCreated{}, bus.WithID(""))
		require.Equal(w, []string{
			"sent user.create / 0 invalid", "sent user.create / 0 invalid", "sent  / 0 invalid",
			"sent  / 0 invalid", "sent user.create / 0 invalid", "sent user.created / 0 invalid",
		}, steps(told.all()))
		for _, r := range told.all() {
			require.Empty(w, r.Meta().ID)
		}
	})
}

func TestObserversSeeEachEventOfPublishAll(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := w.open()
		b, told := w.observed(tr, bus.Config{})
		require.NoError(w, bus.PublishAll(w.Context(), b, userCreated{ID: "a"}, userCreated{ID: "b"}))
		require.Equal(w, []string{"sent user.created / 0", "sent user.created / 0"}, steps(told.all()))
		require.Equal(w, userCreated{ID: "b"}, told.all()[1].Value())
		told.reset()
		require.Error(w, bus.PublishAll(w.Context(), b, userCreated{ID: "a"}, &userDeleted{}, userCreated{ID: "b"}))
		require.Equal(w, []string{
			"sent user.created / 0 invalid", "sent user.deleted / 0 invalid", "sent  / 0 invalid",
		}, steps(told.all()), "what is wrong with one kept all from being sent")

		drop := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				switch e := m.Value.(userCreated); e.ID {
				case "drop":
					return nil, nil
				case "change":
					m.Value = userCreated{ID: "changed"}
				}
				return next(ctx, m)
			}
		}
		b, told = w.observed(tr, bus.Config{Sending: []bus.Middleware{drop}})
		require.NoError(w, bus.PublishAll(w.Context(), b, userCreated{ID: "drop"}, userCreated{ID: "change"}))
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "drop"}))
		require.Equal(w, []string{"filtered user.created / 0", "sent user.created / 0", "filtered user.created / 0"}, steps(told.all()))
		require.Equal(w, userCreated{ID: "changed"}, told.all()[1].Value(), "as it was sent")
	})
}

func TestObserversSeeWhatGoesBack(t *testing.T) {
	// How a run that has begun ends without having been made.
	for what, c := range map[string]struct {
		opts    []bus.SubscribeOption
		handler func(ctx context.Context) error
		end     func(w *world, b *bus.Bus, tr *faulty)
		want    []string
	}{
		"cut short by Close": {
			handler: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			end: func(w *world, b *bus.Bus, _ *faulty) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				require.NoError(w, b.Close(ctx))
			},
			want: []string{"returned user.created svc/default 1 cancelled"},
		},
		"lease lost": {
			handler: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			end: func(w *world, b *bus.Bus, tr *faulty) {
				tr.set(failing("extend", transport.ErrUnavailable))
				settle(28 * time.Second)
			},
			want: []string{"handled user.created svc/default 1 ran 25s cancelled", "returned user.created svc/default 1 cancelled"},
		},
		"private and waiting when it closes": {
			opts:    []bus.SubscribeOption{bus.WithPrivate()},
			handler: func(context.Context) error { return bus.RetryAfter(time.Hour, errOops) },
			end:     func(w *world, b *bus.Bus, _ *faulty) { require.NoError(w, b.Close(context.Background())) },
			want: []string{"handled user.created /default 1 failed", "retrying user.created /default 1 in 1h0m0s failed",
				"returned user.created /default 1 failed"},
		},
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(w *world) {
				tr := newFaulty(w.open())
				b, told := w.observed(tr, bus.Config{})
				started := newRecord[int]()
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
					started.add(1)
					return c.handler(ctx)
				}, c.opts...)
				require.NoError(w, err)
				require.NoError(w, bus.Publish(w.Context(), w.bus(bus.Config{Service: "p"}), userCreated{}))
				started.wait(w, 1)
				settle(100 * time.Millisecond)
				c.end(w, b, tr)
				require.Equal(w, c.want, steps(told.all()))
			})
		})
	}
}

func TestObserversSeeWhatNobodyStarted(t *testing.T) {
	everywhere(t, func(w *world) {
		b, told := w.observed(w.open(), bus.Config{})
		started := newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
			started.add(1)
			time.Sleep(2 * time.Second)
			return nil
		}, bus.WithConcurrency(1), bus.WithName("narrow"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, attempts(newRecord[int](), succeed), bus.WithName("late"), bus.WithPriority(0))
		require.NoError(w, err)
		p := w.bus(bus.Config{Service: "p"})
		for range 2 {
			require.NoError(w, bus.Publish(w.Context(), p, userCreated{}))
		}
		started.wait(w, 1)
		settle(time.Second)
		require.NoError(w, b.Close(context.Background()))
		require.ElementsMatch(w, []string{
			"handled user.created svc/narrow 1 ran 2s", "handled user.created svc/late 1",
			"returned user.created svc/narrow 1", "returned user.created svc/late 1",
		}, steps(told.all()))
	})
}

func TestObserversSeeWhatCannotBeHandled(t *testing.T) {
	everywhere(t, func(w *world) {
		if w.inProcess {
			return // values are not decoded
		}
		tr := w.open()
		b, told := w.observed(tr, bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, attempts(newRecord[int](), succeed))
		require.NoError(w, err)
		require.NoError(w, tr.Publish(w.Context(), &transport.Message{
			To: transport.Address{Name: "user.created"}, ID: "bad", Body: []byte("{"), Header: transport.Header{"Tenant": {"t1"}}}))
		r := told.wait(w, 1)[0]
		require.Equal(w, []string{"dead-lettered user.created svc/ 0 invalid"}, steps(told.all()))
		require.Nil(w, r.Value())
		require.Equal(w, "bad", r.Meta().ID)
		require.Equal(w, "t1", r.Meta().Header("Tenant"))
	})
}

func TestObserversSeeAHandlerThatEndsItsGoroutine(t *testing.T) {
	everywhere(t, func(w *world) {
		b, told := w.observed(w.open(), bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, createUser) (userID, error) {
			runtime.Goexit()
			return "", nil
		}))
		_, err := bus.Execute(w.Context(), b, createUser{Name: "ada"})
		require.Equal(w, bus.CodePanic, bus.CodeOf(err))
		require.Equal(w, []string{"handled user.create /svc 1 failed", "dead-lettered user.create /svc 1 panic", "sent user.create / 0 panic"}, steps(told.wait(w, 3)))
	})
}

func TestObserverThatPanics(t *testing.T) {
	everywhere(t, func(w *world) {
		var log bytes.Buffer
		b, told := w.observed(w.open(), bus.Config{
			Logger:    slog.New(slog.NewTextHandler(&log, nil)),
			Observers: []bus.Observer{func(bus.Record) { panic("broken observer") }},
		})
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		require.Len(w, told.all(), 1, "the next one is told all the same")
		require.Contains(w, log.String(), "broken observer")
		require.NoError(w, b.Close(context.Background()))
	})
}

func TestNilObserverIsRefused(t *testing.T) {
	err := bus.Config{Observers: []bus.Observer{func(bus.Record) {}, nil}}.Validate()
	require.ErrorContains(t, err, "Config.Observers[1] is nil")
}
