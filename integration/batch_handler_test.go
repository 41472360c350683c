package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

func TestBatchHandlerKnowsEachEvent(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		done := world.NewRecord[int]()
		_, err := bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, events []*world.UserCreated) error {
			_, ok := bus.MetaFrom(ctx)
			require.False(w, ok, "it has no one message")
			require.Empty(w, bus.DerivedID(ctx, "a"))
			for _, i := range []int{-1, len(events)} {
				_, ok := bus.MetaAt(ctx, i)
				require.False(w, ok)
				require.Equal(w, ctx, bus.ItemContext(ctx, i))
			}
			ids := map[string]bool{}
			for i, e := range events {
				m, ok := bus.MetaAt(ctx, i)
				require.True(w, ok)
				require.Equal(w, []any{"id-" + string(e.ID), "user.created", "svc", "default", 1, string(e.ID)},
					[]any{m.ID, m.Name, m.Group, m.Handler, m.Attempt, m.Header("Tag")})
				item := bus.ItemContext(ctx, i)
				same, ok := bus.MetaFrom(item)
				require.True(w, ok)
				require.Equal(w, m, same)
				ids[bus.DerivedID(item, "a")] = true
			}
			require.Len(w, ids, len(events))
			done.Add(len(events))
			return nil
		}, bus.WithBatchSize(3))
		require.NoError(w, err)
		for _, id := range []string{"a", "b", "c"} {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(id)}, bus.WithID("id-"+id), bus.WithHeader("Tag", id)))
		}
		require.Equal(w, []int{3}, done.Wait(w, 1))
		_, ok := bus.MetaAt(w.Context(), 0)
		require.False(w, ok)
		require.Equal(w, w.Context(), bus.ItemContext(w.Context(), 0))
	})
}

// What a batch handler sends belongs to what all its events share.
func TestBatchHandlerSends(t *testing.T) {
	for name, c := range map[string]struct {
		from            func(w *world.World, b *bus.Bus) []bus.Scope
		session, chains bool
	}{
		"one session": {func(w *world.World, b *bus.Bus) []bus.Scope { s := w.Session(b, "one"); return []bus.Scope{s, s} }, true, false},
		"two sessions": {func(w *world.World, b *bus.Bus) []bus.Scope {
			return []bus.Scope{w.Session(b, "one"), w.Session(b, "two")}
		}, false, false},
		"one correlation": {func(w *world.World, b *bus.Bus) []bus.Scope { return []bus.Scope{b, b} }, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(bus.Config{})
				heard := world.NewRecord[bus.Meta]()
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserDeleted) error {
					m, _ := bus.MetaFrom(ctx)
					heard.Add(m)
					return nil
				}, bus.WithConcurrency(1))
				require.NoError(w, err)
				got := world.NewRecord[bus.Meta]()
				_, err = bus.SubscribeBatch(w.Context(), b, func(ctx context.Context, events []world.UserCreated) error {
					for i := range events {
						m, _ := bus.MetaAt(ctx, i)
						got.Add(m)
					}
					require.NoError(w, bus.Publish(ctx, b, world.UserDeleted{ID: "all"}))
					return bus.Publish(bus.ItemContext(ctx, 1), b, world.UserDeleted{ID: "second"})
				}, bus.WithBatchSize(2), bus.WithLinger(time.Minute))
				require.NoError(w, err)

				scopes := c.from(w, b)
				if c.chains {
					require.NoError(w, bus.HandleNone(w.Context(), b, func(ctx context.Context, _ world.ResetAll) error {
						publishIDsWith(ctx, w, scopes)
						return nil
					}))
					require.NoError(w, bus.Do(w.Context(), b, world.ResetAll{}))
				} else {
					publishIDsWith(w.Context(), w, scopes)
				}
				items := got.Wait(w, 2)
				all, second := heard.Wait(w, 2)[0], heard.All()[1]
				require.Empty(w, all.CausationID, "a batch is no one message's doing")
				require.Equal(w, []string{items[1].ID, items[1].CorrelationID, items[1].Session},
					[]string{second.CausationID, second.CorrelationID, second.Session})
				if c.session {
					require.Equal(w, "one", all.Session)
				} else {
					require.Empty(w, all.Session)
				}
				if c.chains {
					require.Equal(w, items[0].CorrelationID, all.CorrelationID)
				} else {
					require.Equal(w, all.ID, all.CorrelationID, "a chain of its own")
				}
			})
		})
	}
}

func publishIDsWith(ctx context.Context, w *world.World, scopes []bus.Scope) {
	for i, s := range scopes {
		require.NoError(w, bus.Publish(ctx, s, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
	}
}

func TestBatchesAtOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		runs := listenBatch(w, b, func(context.Context, []world.UserCreated) error { time.Sleep(10 * time.Second); return nil },
			bus.WithBatchSize(2), bus.WithConcurrency(3))
		began := time.Now()
		publishIDs(w, b, "a", "b", "c", "d", "e", "f", "g", "h")
		all := runs.Wait(w, 4)
		ids := batches(all)
		require.ElementsMatch(w, []string{"a b", "c d", "e f"}, ids[:3], "they run at once, in whatever order they begin")
		require.Equal(w, "g h", ids[3])
		for i, r := range all {
			if i < 3 {
				require.Less(w, r.at.Sub(began), time.Second)
			} else {
				require.GreaterOrEqual(w, r.at.Sub(began), 10*time.Second, "there is room for three")
			}
		}
		world.Settle(time.Minute)
		require.Len(w, runs.All(), 4)
	})
}

// Those that are free do not split what comes.
func TestOneBatchIsGatheredAtATime(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		runs := listenBatch(w, b, func(context.Context, []world.UserCreated) error { time.Sleep(time.Second); return nil },
			bus.WithBatchSize(30), bus.WithConcurrency(3))
		burst := make([]any, 90)
		for i := range burst {
			burst[i] = world.UserCreated{ID: world.UserID(fmt.Sprint(i))}
		}
		require.NoError(w, bus.PublishAll(w.Context(), b, burst...)) // now three are free
		world.Settle(time.Minute)
		for n := len(runs.All()); n < 20; n++ {
			require.NoError(w, bus.PublishAll(w.Context(), b, burst[:30]...))
			world.Settle(time.Minute)
			require.Len(w, runs.All(), n+1, "%v", batches(runs.All()[n:]))
		}
	})
}

func TestBatchHandlerHasItsGroupAlone(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		plain := func(b *bus.Bus, opts ...bus.SubscribeOption) (*bus.Subscription, error) {
			return bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, opts...)
		}
		batch := func(b *bus.Bus, opts ...bus.BatchOption) (*bus.Subscription, error) {
			return bus.SubscribeBatch(w.Context(), b, func(context.Context, []world.UserCreated) error { return nil }, opts...)
		}
		refused := func(_ *bus.Subscription, err error) {
			w.Helper()
			require.Equal(w, bus.CodeConflict, bus.CodeOf(err), "%v", err)
			require.ErrorContains(w, err, `subscribe user.created: group "svc" has a handler for it already, and a batch handler has its group alone: give it a WithGroup`)
		}
		b := w.Bus(bus.Config{})
		sub, err := plain(b)
		require.NoError(w, err)
		refused(batch(b, bus.WithName("other")))
		require.NoError(w, sub.Close(w.Context()))

		sub, err = batch(b)
		require.NoError(w, err)
		refused(plain(b, bus.WithName("other")))
		refused(batch(b, bus.WithName("other")))
		_, err = batch(b, bus.WithGroup("elsewhere"))
		require.NoError(w, err)
		_, err = plain(b, bus.WithPrivate())
		require.NoError(w, err)
		_, err = batch(b, bus.WithPrivate())
		require.NoError(w, err)
		require.NoError(w, sub.Close(w.Context()))
		_, err = plain(b)
		require.NoError(w, err)
	})
}

func TestBatchOptionsThatBreakTheirRules(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{MaxAckPending: 50})
		subscribe := func(opts ...bus.BatchOption) error {
			_, err := bus.SubscribeBatch(w.Context(), b, func(context.Context, []world.UserCreated) error { return nil }, opts...)
			return err
		}
		for text, opt := range map[string]bus.BatchOption{
			"batch size 0 is not between 1 and 10000":       bus.WithBatchSize(0),
			"batch size 10001 is not between":               bus.WithBatchSize(10001),
			"batch size 51 is over Config.MaxAckPending 50": bus.WithBatchSize(51),
			"batch bytes -1 is not positive":                bus.WithBatchBytes(-1),
			"linger 0s is not positive":                     bus.WithLinger(0),
			"concurrency 0 is not between":                  bus.WithConcurrency(0),
			"middleware 0 is nil":                           bus.WithMiddleware(nil),
			"handler name \"A\" is not":                     bus.WithName("A"),
			"retry: MaxRetries":                             bus.WithRetry(resilience.Retry{MaxRetries: -7}),
			"filter : it has no Pass":                       bus.WithFilter(bus.Filter{Value: true}),
		} {
			err := subscribe(bus.WithBatchSize(50), opt)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), text)
			require.ErrorContains(w, err, text)
		}
		_, err := bus.SubscribeBatch(w.Context(), b, (func(context.Context, []world.UserCreated) error)(nil))
		require.ErrorContains(w, err, "batch handler of world.UserCreated is nil")
		_, err = bus.SubscribeBatch(w.Context(), b, func(context.Context, []world.CreateUser) error { return nil })
		require.ErrorContains(w, err, "is a command")
	})
}

func TestPrivateBatchHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		fast := resilience.Retry{MaxRetries: 1, Initial: time.Second, Jitter: resilience.NoJitter}
		var all []*world.Record[batchRun]
		for range 2 {
			all = append(all, listenBatch(w, w.Bus(bus.Config{}), func(ctx context.Context, events []world.UserCreated) error {
				if m, _ := bus.MetaAt(ctx, 0); m.Attempt == 1 {
					return bus.ItemErrors{1: world.ErrOops}
				}
				return nil
			}, bus.WithPrivate(), bus.WithRetry(fast)))
		}
		publishIDs(w, w.Bus(bus.Config{}), "a", "b", "c")
		world.Settle(time.Minute)
		for _, runs := range all {
			require.Equal(w, []string{"a b c", "b#2"}, batches(runs.All()), "each process has its copy, and only what failed waits in it")
		}
	})
}

func TestSessionBatchHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		var first, second *world.Record[batchRun]
		plain := world.NewRecord[world.UserID]()
		require.NoError(w, bus.InSession(w.Context(), b, "job", func(ctx context.Context, s *bus.Session) error {
			first, second = listenBatch(w, s, nil), listenBatch(w, s, nil, bus.WithBatchSize(2))
			_, err := bus.Subscribe(ctx, s, func(_ context.Context, e world.UserCreated) error { plain.Add(e.ID); return nil }, bus.WithConcurrency(1))
			require.NoError(w, err)
			_, err = bus.SubscribeBatch(ctx, s, func(context.Context, []world.UserCreated) error { return nil }, bus.WithGroup("g"))
			require.ErrorContains(w, err, "in no group")
			publishIDs(w, b, "elsewhere")
			publishIDs(w, s, "a", "b", "c")
			return nil
		}))
		require.Equal(w, []string{"a b c"}, batches(first.All()), "InSession waits for them")
		require.Equal(w, []string{"a b", "c"}, batches(second.All()))
		require.Equal(w, []world.UserID{"a", "b", "c"}, plain.All())
	})
}

// A batch handler closes its session: what it has not returned from is not waited
// for.
func TestBatchHandlerClosesItsSession(t *testing.T) {
	for name, from := range map[string]func(context.Context) context.Context{
		"batch": func(ctx context.Context) context.Context { return ctx },
		"item":  func(ctx context.Context) context.Context { return bus.ItemContext(ctx, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(bus.Config{})
				s := w.Session(b, "job")
				closed := world.NewRecord[error]()
				runs := listenBatch(w, s, func(ctx context.Context, events []world.UserCreated) error {
					if len(events) == 3 {
						closed.Add(s.Close(from(ctx)))
					}
					return nil
				}, bus.WithBatchSize(3), bus.WithLinger(time.Second))
				publishIDs(w, s, "a", "b", "c")
				began := time.Now()
				<-s.Done()
				require.Less(w, time.Since(began), 5*time.Second)
				require.Equal(w, []error{nil}, closed.Wait(w, 1))
				require.Equal(w, []string{"a b c"}, batches(runs.All()))
			})
		})
	}
}

// What does not reach the handler is dealt with alone.
func TestBatchLeavesOutWhatCannotBeHandled(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		got := world.NewRecord[string]()
		_, err := bus.SubscribeBatch(w.Context(), b, func(_ context.Context, events []world.UserDeleted) error {
			var ids []string
			for _, e := range events {
				ids = append(ids, string(e.ID))
			}
			got.Add(strings.Join(ids, " "))
			return nil
		}, bus.WithBatchSize(4), bus.WithLinger(10*time.Second), bus.WithFilter(bus.Filter{
			Name: "no spam", Value: true, Pass: func(m *bus.Message) bool { return !strings.HasPrefix(deletedID(m), "spam") },
		}))
		require.NoError(w, err)
		publish := func(id string) {
			m := &transport.Message{To: transport.Address{Name: "user.deleted"}, ID: "m-" + id, Body: []byte(`{"ID":"` + id + `"}`)}
			switch {
			case id == "broken":
				m.Body = []byte(`{"ID":`)
			case id == "invalid":
				m.Body = []byte(`{}`)
			}
			if w.InProcess {
				m.Body, m.Value = nil, world.UserDeleted{ID: world.UserID(id)}
				if id == "invalid" || id == "broken" {
					m.Value = world.UserDeleted{}
				}
			}
			require.NoError(w, tr.Publish(w.Context(), m))
		}
		began := time.Now()
		for _, id := range []string{"spam1", "a", "broken", "spam2", "b", "invalid", "spam3", "c"} {
			publish(id)
		}
		world.Settle(time.Second)
		require.Equal(w, []string{"a b"}, got.All(), "what cannot be handled takes its place, what is filtered does not")
		for _, d := range w.DeadLetters(tr, 2) {
			require.Equal(w, "invalid", d.Code)
			require.Zero(w, d.Attempts)
			require.Contains(w, []string{"m-broken", "m-invalid"}, d.Message.ID)
		}
		require.Less(w, time.Since(began), 10*time.Second)
		world.Settle(10 * time.Second)
		require.Equal(w, []string{"a b", "c"}, got.All())
		world.Settle(time.Minute)
		require.Len(w, got.All(), 2, "the filtered are settled")
	})
}

func deletedID(m *bus.Message) string {
	switch e := m.Value.(type) {
	case world.UserDeleted:
		return string(e.ID)
	case *world.UserDeleted:
		return string(e.ID)
	}
	return ""
}

func TestMiddlewareAroundABatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		seen := world.NewRecord[*bus.Message]()
		outcome := world.NewRecord[error]()
		b := w.BusOn(tr, bus.Config{Receiving: []bus.Middleware{func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				seen.Add(m)
				v, err := next(ctx, m)
				outcome.Add(err)
				return v, err
			}
		}}})
		runs := listenBatch(w, b, func(_ context.Context, events []world.UserCreated) error {
			if len(events) == 2 {
				return bus.ItemErrors{1: world.ErrOops}
			}
			return bus.ItemErrors{}
		}, bus.WithBatchSize(4), thrice, bus.WithMiddleware(func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				for i, e := range m.Events {
					item, _ := bus.MetaFrom(bus.ItemContext(ctx, i))
					require.Equal(w, item.ID, e.ID)
					switch item.ID {
					case "refused":
						e.Refuse(bus.Permanent(errors.New("not welcome")))
					case "skipped":
						e.Refuse(nil)
					}
				}
				return next(ctx, m)
			}
		}))
		for _, id := range []string{"refused", "a", "skipped", "b"} {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: world.UserID(id)}, bus.WithID(id)))
		}
		world.Settle(time.Minute)
		require.Equal(w, []string{"a b", "b#2"}, batches(runs.All()), "what the middleware took out did not run")
		m := seen.All()[0]
		require.Equal(w, []world.UserCreated{{ID: "refused"}, {ID: "a"}, {ID: "skipped"}, {ID: "b"}}, m.Value)
		require.Equal(w, []any{bus.KindEvent, "user.created", "svc", "default", 1}, []any{m.Kind, m.Name, m.Group, m.Handler, m.Attempt})
		require.Len(w, m.Events, 4)
		require.NotContains(w, []string{"refused", "a", "skipped", "b", ""}, m.ID)
		require.NotEqual(w, m.ID, seen.All()[1].ID)
		require.Equal(w, 2, seen.All()[1].Attempt)
		require.Equal(w, bus.ItemErrors{1: world.ErrOops}, outcome.All()[0])
		require.NoError(w, outcome.All()[1], "no item has failed: a success")
		d := w.DeadLetters(tr, 1)[0]
		require.Equal(w, []string{"refused", "not welcome"}, []string{d.Message.ID, d.Error})
	})
}

func TestStockMiddlewareAroundABatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Receiving: []bus.Middleware{
			middleware.RequireSession(), middleware.Limit(1), middleware.Deduplicate(time.Minute), middleware.Timeout(time.Minute),
		}})
		runs := listenBatch(w, b, nil, bus.WithBatchSize(5), bus.WithMiddleware(
			middleware.ValidateType(func(_ context.Context, e world.UserCreated) error {
				if e.ID == "bad" {
					return world.ErrOops
				}
				return nil
			})))
		one, two := w.Session(b, "one"), w.Session(b, "two")
		publishIDs(w, one, "a")
		publishIDs(w, two, "bad", "b")
		publishIDs(w, b, "homeless")
		publishIDs(w, two, "c")
		world.Settle(time.Minute)
		require.Equal(w, []string{"a b c"}, batches(runs.All()))
		var dead []string
		for _, d := range w.DeadLetters(tr, 2) {
			require.Equal(w, "invalid", d.Code)
			dead = append(dead, string(eventOf(w, d).ID))
		}
		slices.Sort(dead)
		require.Equal(w, []string{"bad", "homeless"}, dead)
	})
}

func TestObserversSeeEachEventOfABatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, told := w.Observed(tr, bus.Config{})
		listenBatch(w, b, func(ctx context.Context, events []world.UserCreated) error {
			time.Sleep(3 * time.Second)
			if len(events) == 3 {
				return bus.ItemErrors{0: bus.Permanent(world.ErrOops), 2: bus.RetryAfter(20*time.Second, world.ErrOops)}
			}
			return nil
		}, bus.WithBatchSize(3))
		publishIDs(w, b, "a", "b", "c")
		world.Settle(time.Minute)
		var lines []string
		for _, r := range told.All() {
			if r.Stage != bus.StageSent {
				e, ok := r.Value().(world.UserCreated)
				if !ok {
					e = *r.Value().(*world.UserCreated)
				}
				lines = append(lines, string(e.ID)+" "+world.Steps([]bus.Record{r})[0])
			}
		}
		slices.Sort(lines)
		require.Equal(w, []string{
			"a dead-lettered user.created svc/default 1 failed",
			"a handled user.created svc/default 1 ran 3s failed",
			"b handled user.created svc/default 1 ran 3s",
			"c handled user.created svc/default 1 ran 3s failed",
			"c handled user.created svc/default 2 ran 3s",
			"c retrying user.created svc/default 1 in 20s failed",
		}, lines)
		w.DeadLetters(tr, 1)
	})
}
