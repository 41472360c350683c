package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// figures are the handlers of statistics in short: what is not zero.
func figures(all []bus.HandlerStats) (lines []string) {
	for _, h := range all {
		if strings.HasPrefix(h.Name, "jitney.") {
			continue
		}
		line := fmt.Sprintf("%s %s/%s x%d", h.Name, h.Group, h.Handler, h.Registered)
		for _, f := range []struct {
			what string
			n    uint64
		}{
			{"ran", h.Executions}, {"failed", h.Failures}, {"in a row", h.ConsecutiveFailures},
			{"in flight", uint64(h.InFlight)}, {"retries", h.Retries}, {"retrying", uint64(h.Retrying)},
			{"redelivered", h.Redelivered}, {"dead", h.DeadLettered}, {"refused", h.Refused},
			{"filtered", h.Filtered}, {"returned", h.Returned},
		} {
			if f.n > 0 {
				line += fmt.Sprintf(", %s %d", f.what, f.n)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// sends is what statistics say of one message.
func sends(s bus.Stats, name string) bus.SendStats {
	for _, one := range s.Sends {
		if one.Name == name {
			return one
		}
	}
	return bus.SendStats{}
}

func TestStatsOfACommand(t *testing.T) {
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
			"observed":                  {ctx: context.Background(), cfg: bus.Config{Observers: []bus.Observer{func(bus.Record) {}}}},
			"with options":              {ctx: w.Context(), opts: []bus.ExecuteOption{bus.WithID("given")}},
		} {
			c.cfg.Capture = bus.CaptureNone // what is told of dead letters counts too
			b := w.BusOn(w.Open(), c.cfg)
			busy := make(chan struct{})
			require.NoError(w, bus.Handle(w.Context(), b, func(_ context.Context, c world.CreateUser) (world.UserID, error) {
				switch c.Name {
				case "wait":
					<-busy
				case "exists":
					return "", world.ErrUserExists
				case "panic":
					panic("two\nlines" + strings.Repeat(".", 1000))
				case "code":
					return "", &bus.Error{Code: "out_of_stock"}
				}
				return "user-1", nil
			}))
			for _, name := range []string{"ada", "ada", "exists", "panic", "code", "ada"} {
				_, _ = bus.Execute(c.ctx, b, world.CreateUser{Name: name}, c.opts...)
			}
			_, err := bus.Execute(c.ctx, b, world.CreateUser{}, c.opts...)
			require.Error(w, err, "invalid")
			_, err = bus.Execute(c.ctx, b, world.CreateUser{Name: "panic"}, c.opts...)
			require.Error(w, err)
			_, err = bus.Execute(c.ctx, b, world.CreateUser{Name: "exists"}, c.opts...)
			require.Error(w, err)
			_, err = bus.Execute(c.ctx, b, world.CreateUser{Name: "panic"}, c.opts...)
			require.Error(w, err)

			s := b.Stats()
			require.Equal(w, []string{"user.create /svc x1, ran 9, failed 6, in a row 3"}, figures(s.Handlers), way)
			h := s.Handlers[0]
			require.Equal(w, map[bus.Code]uint64{bus.CodeFailed: 2, bus.CodePanic: 3, "other": 1}, h.Errors, way)
			require.EqualValues(w, 3, h.Processed())
			require.Equal(w, bus.CodePanic, h.LastErrorCode)
			require.Len(w, h.LastError, 256)
			require.Contains(w, h.LastError, `panic: two\nlines`)
			require.WithinDuration(w, time.Now(), h.LastErrorAt, time.Second)
			sent := sends(s, "user.create")
			require.EqualValues(w, 3, sent.OK, way)
			require.Equal(w, map[bus.Code]uint64{bus.CodeFailed: 2, bus.CodePanic: 3, "other": 1, bus.CodeInvalid: 1}, sent.Errors, way)
			require.Equal(w, bus.Totals{CommandsSent: 10, CommandsProcessed: 3, CommandsFailed: 6}, s.Totals, way)

			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = bus.Execute(c.ctx, b, world.CreateUser{Name: "wait"}, c.opts...)
			}()
			world.Settle(time.Second)
			require.Equal(w, 1, b.Stats().Handlers[0].InFlight, way)
			close(busy)
			<-done
			require.Zero(w, b.Stats().Handlers[0].ConsecutiveFailures)
			require.NoError(w, b.Close(context.Background()))
			require.Equal(w, []string{"user.create /svc x0, ran 10, failed 6"}, figures(b.Stats().Handlers), "closed, "+way)
		}
	})
}

func TestStatsOfACommandThatEndsItsGoroutine(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			runtime.Goexit()
			return "", nil
		}))
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.Error(w, err)
		require.Equal(w, []string{"user.create /svc x1, ran 1, failed 1, in a row 1, dead 1"}, figures(b.Stats().Handlers))
	})
}

// What cannot be sent at all is counted too.
func TestStatsOfCalls(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		odd := bus.Filter{Name: "odd", Pass: func(m *bus.Message) bool { return m.ID != "even" }}
		b := w.Bus(bus.Config{PublishFilter: odd})
		_, err := bus.Execute[*world.CreateUser](w.Context(), b, nil)
		require.Error(w, err)
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err))
		require.Error(w, bus.Publish(w.Context(), b, nil))
		require.NoError(w, bus.Publish(w.Context(), b, &world.UserDeleted{ID: "ada"}))
		require.NoError(w, bus.Publish(w.Context(), b, &world.UserDeleted{ID: "ada"}, bus.WithID("even")))
		require.Error(w, bus.Publish(w.Context(), b, &world.UserDeleted{}))
		require.NoError(w, bus.PublishAll(w.Context(), b, &world.UserDeleted{ID: "ada"}, &world.UserDeleted{ID: "bob"}))
		require.Error(w, bus.PublishAll(w.Context(), b, &world.UserDeleted{ID: "ada"}, &world.UserDeleted{}, &world.UserDeleted{ID: "bob"}))
		p, err := bus.PublishAsync(w.Context(), b, &world.UserDeleted{ID: "ada"})
		require.NoError(w, err)
		require.Equal(w, []bus.QueueStats{{Queue: "publish", Size: 1, Max: 1, Capacity: 10_000, Enqueued: 1}}, b.Stats().Queues)
		require.NoError(w, p.Wait(w.Context()))
		_, err = bus.PublishAsync(w.Context(), b, &world.UserDeleted{ID: "ada"}, bus.WithID("even"))
		require.NoError(w, err)
		_, err = bus.PublishAsync(w.Context(), b, &world.UserDeleted{})
		require.Error(w, err)

		s := b.Stats()
		require.Equal(w, bus.SendStats{Kind: bus.KindCommand, Name: "user.create", Errors: map[bus.Code]uint64{bus.CodeNoHandler: 1}}, sends(s, "user.create"))
		require.Equal(w, bus.SendStats{Kind: bus.KindEvent, Name: "user.deleted", OK: 4, Filtered: 2, Errors: map[bus.Code]uint64{bus.CodeInvalid: 4}}, sends(s, "user.deleted"))
		nothing := bus.SendStats{}
		for _, one := range s.Sends {
			if one.Name == "" && one.Kind == bus.KindEvent {
				nothing = one
			}
		}
		require.EqualValues(w, 1, nothing.Failed())
		require.Equal(w, bus.Totals{EventsPublished: 4, CommandsSent: 2}, s.Totals)
	})
}

func TestStatsOfAnEvent(t *testing.T) {
	retry := resilience.Retry{MaxRetries: 1, Initial: 2 * time.Second, Jitter: resilience.NoJitter}
	for what, err := range map[string]error{
		"retried by the broker": world.ErrOops,
		"retried by a copy":     bus.RetryAfter(10*time.Minute, world.ErrOops),
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(bus.Config{Retry: retry})
				_, sub := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return err })
				require.NoError(w, sub)
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"}))
				world.Settle(time.Second)
				require.Equal(w, []string{"user.created svc/default x1, ran 1, failed 1, in a row 1, retries 1, retrying 1"}, figures(b.Stats().Handlers))
				world.Settle(20 * time.Minute)
				want := "user.created svc/default x1, ran 2, failed 2, in a row 2, retries 1, redelivered 1, dead 1"
				if what == "retried by a copy" { // which is delivered for the first time
					want = strings.Replace(want, "redelivered 1, ", "", 1)
				}
				s := b.Stats()
				require.Equal(w, []string{want}, figures(s.Handlers))
				require.EqualValues(w, 1, sends(s, "user.created").OK)
				require.EqualValues(w, 1, sends(s, "jitney.dead_lettered").OK, "the bus's own event counts too")
				require.Equal(w, bus.Totals{EventsPublished: 2, EventsFailed: 2}, s.Totals)
			})
		})
	}
}

// A handler and its filters, a companion that makes the retry wait in the process,
// what cannot be decoded, and what Close hands back.
func TestStatsOfListeners(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: resilience.Retry{MaxRetries: 1, Initial: 2 * time.Second, Jitter: resilience.NoJitter}})
		subscribe := func(fn func(context.Context, world.UserCreated) error, opts ...bus.SubscribeOption) *bus.Subscription {
			sub, err := bus.Subscribe(w.Context(), b, fn, opts...)
			require.NoError(w, err)
			return sub
		}
		succeed := func(context.Context, world.UserCreated) error { return nil }
		subscribe(succeed, bus.WithName("good"))
		subscribe(func(context.Context, world.UserCreated) error { return world.ErrOops }, bus.WithName("bad"))
		subscribe(succeed, bus.WithName("none"), bus.WithFilter(bus.Filter{Name: "none", Pass: func(*bus.Message) bool { return false }}))
		one := subscribe(succeed, bus.WithPrivate())
		subscribe(succeed, bus.WithPrivate())
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"}))
		world.Settle(time.Second)
		require.Equal(w, []string{
			"user.created /default x2, ran 2",
			"user.created svc/bad x1, ran 1, failed 1, in a row 1, retries 1, retrying 1",
			"user.created svc/good x1, ran 1",
			"user.created svc/none x1, filtered 1",
		}, figures(b.Stats().Handlers))
		require.NoError(w, one.Close(w.Context()))
		world.Settle(time.Minute)
		require.NoError(w, tr.Publish(w.Context(), &transport.Message{To: transport.Address{Name: "user.created"}, Body: []byte("{")}))
		world.Settle(time.Minute)
		want := []string{
			"user.created / x0, dead 1, refused 1",
			"user.created /default x1, ran 2",
			"user.created svc/ x0, dead 1, refused 1",
			"user.created svc/bad x1, ran 2, failed 2, in a row 2, retries 1, dead 1",
			"user.created svc/good x1, ran 1",
			"user.created svc/none x1, filtered 2",
		}
		require.Equal(w, want, figures(b.Stats().Handlers))
	})
}

func TestStatsOfABatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Retry: resilience.Retry{MaxRetries: resilience.NoRetries}})
		_, err := bus.SubscribeBatch(w.Context(), b, func(_ context.Context, all []world.UserCreated) error {
			return bus.ItemErrors{1: world.ErrOops}
		}, bus.WithBatchSize(3))
		require.NoError(w, err)
		require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "a"}, world.UserCreated{ID: "b"}, world.UserCreated{ID: "c"}))
		world.Settle(time.Minute)
		got := figures(b.Stats().Handlers)
		require.Equal(w, []string{"user.created svc/default x1, ran 3, failed 1, dead 1"}, got)
	})
}

func TestStatsOfSessions(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Retry: resilience.Retry{MaxRetries: resilience.NoRetries}})
		open := func(id string, err error) *bus.Session {
			s, openErr := b.Session(w.Context(), id)
			require.NoError(w, openErr)
			_, subErr := bus.Subscribe(w.Context(), s, func(context.Context, world.UserCreated) error { return err })
			require.NoError(w, subErr)
			require.NoError(w, bus.Handle(w.Context(), s, func(context.Context, world.CreateUser) (world.UserID, error) { return "u", nil }))
			require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{ID: "ada"}))
			world.Settle(time.Second)
			return s
		}
		good, bad := open("good", nil), open("bad", world.ErrOops)
		_, err := bus.Execute(w.Context(), bad, world.CreateUser{Name: "ada"})
		require.NoError(w, err)

		s := b.Stats()
		require.Equal(w, 2, s.OpenSessions)
		require.Equal(w, []string{"user.create /svc x2, ran 1", "user.created /listener-1 x2, ran 2, failed 1, in a row 1, dead 1"}, figures(s.Handlers))
		require.Len(w, s.Sessions, 2)
		require.Equal(w, good.Stats(), s.Sessions[0])
		require.Equal(w, "good", s.Sessions[0].Session)
		require.Equal(w, []string{"user.create /svc x1", "user.created /listener-1 x1, ran 1"}, figures(s.Sessions[0].Handlers))
		require.Equal(w, "bad", s.Sessions[1].Session)
		require.Equal(w, []string{"user.create /svc x1, ran 1", "user.created /listener-1 x1, ran 1, failed 1, in a row 1, dead 1"}, figures(s.Sessions[1].Handlers))

		require.NoError(w, bad.Close(w.Context()))
		s = b.Stats()
		require.Len(w, s.Sessions, 1)
		require.Equal(w, 1, s.OpenSessions)
		require.Empty(w, bad.Stats().Handlers)
		require.Equal(w, []string{"user.create /svc x1, ran 1", "user.created /listener-1 x1, ran 2, failed 1, in a row 1, dead 1"}, figures(s.Handlers), "what is over still counts")
	})
}

// Neither many sessions nor many names make the statistics large.
func TestStatsAreBounded(t *testing.T) {
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "svc"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	var last *bus.Session
	for i := range 1100 {
		last, err = b.Session(t.Context(), fmt.Sprint("job-", i))
		require.NoError(t, err)
		require.NoError(t, bus.Handle(t.Context(), last, func(context.Context, world.CreateUser) (world.UserID, error) { return "", nil }))
		_, err = bus.Subscribe(t.Context(), last, func(context.Context, world.UserCreated) error { return nil }, bus.WithName(fmt.Sprint("of-", i)))
		require.NoError(t, err)
		_, err = bus.Execute(context.Background(), last, world.CreateUser{Name: "ada"})
		require.NoError(t, err)
	}
	s := b.Stats()
	require.Equal(t, 1100, s.OpenSessions)
	require.Len(t, s.Sessions, 500)
	require.Equal(t, "job-0", s.Sessions[0].Session)
	require.Len(t, s.Handlers, 1001)
	require.EqualValues(t, 1100, s.Totals.CommandsProcessed)
	all := figures(s.Handlers)
	require.True(t, slices.Contains(all, "user.create /svc x1100, ran 1100"))
	require.True(t, slices.Contains(all, "user.created other/other x101"))
	require.Equal(t, []string{"user.create /svc x1, ran 1", "user.created /of-1099 x1"}, figures(last.Stats().Handlers))
}

func TestStatsAsJSON(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) { return "", errors.New("no") }))
		_, _ = bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		before := b.Stats()
		text, err := json.Marshal(before)
		require.NoError(w, err)
		require.Contains(w, string(text), `"handlers":[{"kind":"command","name":"user.create","handler":"svc","registered":1,"executions":1,"failures":1,"errors":{"failed":1},"consecutive_failures":1,"last_error":"no"`)
		var after bus.Stats
		require.NoError(w, json.Unmarshal(text, &after))
		again, err := json.Marshal(after)
		require.NoError(w, err)
		require.JSONEq(w, string(text), string(again))
	})
}
