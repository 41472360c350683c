package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// passing is a filter that needs no value.
func passing(pass func(m *bus.Message) bool) bus.Filter { return bus.Filter{Name: "test", Pass: pass} }

// valued is a filter by the event's id.
func valued(pass func(id world.UserID) bool) bus.Filter {
	return bus.Filter{Name: "value", Value: true, Pass: func(m *bus.Message) bool {
		switch e := m.Value.(type) {
		case world.UserCreated:
			return pass(e.ID)
		case *world.UserCreated:
			return pass(e.ID)
		default:
			return false
		}
	}}
}

func hasTenant(m *bus.Message) bool { return m.Header.Get("Tenant") != "" }

// hearing listens and collects the ids of the events.
func hearing(w *world.World, s bus.Scope, opts ...bus.SubscribeOption) *world.Record[world.UserID] {
	w.Helper()
	got := world.NewRecord[world.UserID]()
	_, err := bus.Subscribe(w.Context(), s, func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil }, opts...)
	require.NoError(w, err)
	return got
}

func TestPublishFilter(t *testing.T) {
	for what, sending := range map[string][]bus.Middleware{
		"without a chain": nil,
		"with a chain": {func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				if e, ok := m.Value.(world.UserCreated); ok && e.ID == "by chain" {
					m.Header.Set("Tenant", "t1")
				}
				return next(ctx, m)
			}
		}},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b, told := w.Observed(w.Open(), bus.Config{
					Sending: sending,
					PublishFilter: passing(func(m *bus.Message) bool {
						require.Equal(w, bus.KindEvent, m.Kind)
						require.NotNil(w, m.Value)
						require.Empty(w, m.Handler)
						return hasTenant(m)
					}),
				})
				got := hearing(w, w.Bus(bus.Config{Service: "other"}))
				tenant := bus.WithHeader("Tenant", "t1")
				want := []world.UserID{"a"}
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "a"}, tenant))
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "b"}))
				steps0 := []string{"sent user.created / 0", "filtered user.created / 0"}
				if sending != nil {
					want = append(want, "by chain")
					require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "by chain"}, world.UserCreated{ID: "c"}))
					steps0 = append(steps0, "sent user.created / 0", "filtered user.created / 0")
				}
				require.NoError(w, bus.Handle(w.Context(), b, world.Create))
				_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
				require.NoError(w, err, "filters have no say over commands")
				world.Settle(time.Minute)
				require.ElementsMatch(w, want, got.All())
				require.Equal(w, steps0, world.Steps(told.All())[:len(steps0)])
				require.Equal(w, world.UserCreated{ID: "b"}, told.All()[1].Value())
			})
		})
	}
}

func TestFiltersOnReceipt(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, told := w.Observed(tr, bus.Config{ReceiveFilter: passing(hasTenant)})
		early := hearing(w, b, bus.WithName("early"), bus.WithFilter(passing(func(m *bus.Message) bool {
			require.Nil(w, m.Value, "not decoded yet")
			require.Equal(w, []any{"svc", "early", 1, "user.created"}, []any{m.Group, m.Handler, m.Attempt, m.Name})
			return m.Key == "k"
		})))
		late := hearing(w, b, bus.WithName("late"), bus.WithFilter(bus.Filter{}, valued(func(id world.UserID) bool { return strings.HasPrefix(string(id), "x") })))
		all := hearing(w, b, bus.WithName("all"))
		both := hearing(w, b, bus.WithName("both"),
			bus.WithFilter(valued(func(id world.UserID) bool { return id == "xk" })), bus.WithFilter(passing(func(m *bus.Message) bool { return m.Key == "k" })))
		p := w.Bus(bus.Config{Service: "p"})
		tenant := bus.WithHeader("Tenant", "t1")
		for id, opts := range map[world.UserID][]bus.PublishOption{
			"nobody": nil, "nokey": {tenant}, "x": {tenant}, "k": {tenant, bus.WithKey("k")}, "xk": {tenant, bus.WithKey("k")},
		} {
			require.NoError(w, bus.Publish(w.Context(), p, world.UserCreated{ID: id}, opts...))
		}
		world.Settle(20 * time.Minute)
		require.ElementsMatch(w, []world.UserID{"k", "xk"}, early.All())
		require.ElementsMatch(w, []world.UserID{"x", "xk"}, late.All())
		require.ElementsMatch(w, []world.UserID{"nokey", "x", "k", "xk"}, all.All())
		require.ElementsMatch(w, []world.UserID{"xk"}, both.All())
		w.DeadLetters(tr, 0)
		count := map[string]int{}
		for _, line := range world.Steps(told.All()) {
			count[line]++
		}
		require.Equal(w, map[string]int{
			"handled user.created svc/early 1": 2, "filtered user.created svc/early 1": 3,
			"handled user.created svc/late 1": 2, "filtered user.created svc/late 1": 3,
			"handled user.created svc/all 1": 4, "filtered user.created svc/all 1": 1,
			"handled user.created svc/both 1": 1, "filtered user.created svc/both 1": 4,
		}, count, "each listener, once")
	})
}

// What is spared is settled: another process of the group does not get it.
func TestFilteredEventsAreAcknowledged(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		narrow := w.BusOn(tr, bus.Config{ReceiveFilter: passing(func(*bus.Message) bool { return false })})
		none := hearing(w, narrow)
		for range 5 {
			require.NoError(w, bus.Publish(w.Context(), narrow, world.UserCreated{}))
		}
		world.Settle(time.Second)
		require.Equal(w, 5, tr.Count("ack"))
		require.NoError(w, narrow.Close(w.Context()))
		require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{Service: "p"}), world.UserCreated{ID: "next"}))
		// And the group is what it was: who comes next gets all that is new.
		wide := hearing(w, w.Bus(bus.Config{}))
		world.Settle(20 * time.Minute)
		require.Empty(w, none.All())
		require.Equal(w, []world.UserID{"next"}, wide.All())
	})
}

func TestFilterStopsWhatCannotBeDecoded(t *testing.T) {
	for what, c := range map[string]struct {
		filter bus.Filter
		dead   int
	}{
		"without a value": {passing(func(*bus.Message) bool { return false }), 0},
		"with a value":    {valued(func(world.UserID) bool { return false }), 1},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				if w.InProcess {
					return // values are not decoded
				}
				tr := w.Open()
				b, told := w.Observed(tr, bus.Config{})
				got := hearing(w, b, bus.WithFilter(c.filter))
				require.NoError(w, tr.Publish(w.Context(), &transport.Message{
					To: transport.Address{Name: "user.created"}, ID: "bad", Body: []byte("{")}))
				told.Wait(w, 1)
				world.Settle(20 * time.Minute)
				require.Len(w, told.All(), 1, "settled for good")
				require.Empty(w, got.All())
				w.DeadLetters(tr, c.dead)
			})
		})
	}
}

// A listener that was spared is done with the event. What others of its group do
// with it later is not its business, even if its filter would let it pass now.
func TestSparedListenerIsDone(t *testing.T) {
	for what, failure := range map[string]error{
		"a short retry": world.ErrOops,
		"a long retry":  bus.RetryAfter(10*time.Minute, world.ErrOops),
		"a dead letter": bus.Permanent(world.ErrOops),
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := w.Open()
				b, told := w.Observed(tr, bus.Config{Retry: world.Steady})
				var asked atomic.Int64
				first := passing(func(*bus.Message) bool { return asked.Add(1) > 1 })
				spared := hearing(w, b, bus.WithName("spared"), bus.WithFilter(first))
				ran := world.NewRecord[int]()
				_, err := bus.Subscribe(w.Context(), b, attempts(ran, func(n int) error {
					if n < 3 {
						return failure
					}
					return nil
				}), bus.WithName("failing"))
				require.NoError(w, err)
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
				world.Settle(30 * time.Minute)
				require.Empty(w, spared.All())
				require.EqualValues(w, 1, asked.Load())
				if what == "a dead letter" {
					require.Equal(w, []int{1}, ran.All())
					require.Equal(w, "failing", w.DeadLetters(tr, 1)[0].Handler)
				} else {
					require.Equal(w, []int{1, 2, 3}, ran.All())
					w.DeadLetters(tr, 0)
				}
				require.Contains(w, world.Steps(told.All()), "filtered user.created svc/spared 1")
			})
		})
	}
}

// Nor when the broker refuses the copy that would wait, or when the listener that
// failed is closed and comes back.
func TestSparedListenerIsDoneWhateverHappens(t *testing.T) {
	for what, failure := range map[string]error{"copy refused": bus.RetryAfter(10*time.Minute, world.ErrOops), "listener closed": bus.RetryAfter(20*time.Second, world.ErrOops)} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, bus.Config{Retry: world.Steady})
				var asked atomic.Int64
				hearing(w, b, bus.WithName("spared"), bus.WithFilter(passing(func(*bus.Message) bool { asked.Add(1); return false })))
				ran := world.NewRecord[int]()
				listen := func() *bus.Subscription {
					sub, err := bus.Subscribe(w.Context(), b, attempts(ran, func(n int) error {
						if n == 1 {
							return failure
						}
						return nil
					}), bus.WithName("failing"))
					require.NoError(w, err)
					return sub
				}
				sub := listen()
				if what == "copy refused" {
					tr.Set(world.Failing("publish", transport.ErrUnavailable))
				}
				require.NoError(w, bus.Publish(w.Context(), w.Bus(bus.Config{Service: "p"}), world.UserCreated{}))
				ran.Wait(w, 1)
				world.Settle(time.Second)
				if what == "listener closed" {
					require.NoError(w, sub.Close(w.Context()))
					world.Settle(22 * time.Second)
					listen()
				}
				world.Settle(20 * time.Minute)
				require.Equal(w, []int{1, 2}, ran.All())
				require.EqualValues(w, 1, asked.Load())
			})
		})
	}
}

func TestFiltersAreAskedAgain(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: world.Steady})
		asked, ran := world.NewRecord[int](), world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(ran, func(n int) error {
			if n == 2 {
				return bus.RetryAfter(10*time.Minute, world.ErrOops)
			}
			return world.ErrOops
		}), bus.WithFilter(passing(func(m *bus.Message) bool { asked.Add(m.Attempt); return true })))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(20 * time.Minute)
		require.Equal(w, []int{1, 2, 3, 4}, ran.All())
		require.Equal(w, []int{1, 2}, asked.All(), "a copy for this listener alone has passed")
		w.DeadLetters(tr, 1)
	})
}

// A filter may change its mind about an event that has failed: then it is done.
func TestFilterStopsARedelivery(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{Retry: world.Steady})
		ran := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(ran, func(int) error { return world.ErrOops }),
			bus.WithFilter(passing(func(m *bus.Message) bool { return m.Attempt == 1 })))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(20 * time.Minute)
		require.Equal(w, []int{1}, ran.All())
		w.DeadLetters(tr, 0)
	})
}

func TestFilterThatPanics(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var log bytes.Buffer
		broken := bus.Filter{Name: "broken", Pass: func(*bus.Message) bool { panic("boom") }}
		b := w.Bus(bus.Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), PublishFilter: broken})
		got := hearing(w, b, bus.WithFilter(broken))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "a"}))
		require.Equal(w, []world.UserID{"a"}, got.Wait(w, 1))
		require.NoError(w, b.Close(context.Background()))
		require.Equal(w, 2, strings.Count(log.String(), `level=ERROR msg="filter panicked and the event passes" service=svc filter=broken`), log.String())
	})
}

func TestFiltersAreChecked(t *testing.T) {
	broken := bus.Filter{Name: "name [", Err: errors.New("pattern: missing ]")}
	empty := bus.Filter{Name: "empty"}
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		for want, f := range map[string]bus.Filter{"filter name [: pattern: missing ]": broken, "filter empty: it has no Pass": empty} {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithFilter(bus.Filter{}, f))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorContains(w, err, want)
		}
	})
	err := bus.Config{PublishFilter: broken, ReceiveFilter: empty}.Validate()
	require.ErrorContains(t, err, "Config.PublishFilter: filter name [: pattern: missing ]")
	require.ErrorContains(t, err, "Config.ReceiveFilter: filter empty: it has no Pass")
}

// ofSessions is a filter that says which sessions it lets pass.
func ofSessions(ids ...string) bus.Filter {
	return bus.Filter{Name: "sessions", Sessions: append([]string{}, ids...), Pass: func(m *bus.Message) bool {
		for _, id := range ids {
			if m.Session == id {
				return true
			}
		}
		return false
	}}
}

func TestPrivateListenerOfSomeSessions(t *testing.T) {
	many := make([]string, 40)
	for i := range many {
		many[i] = fmt.Sprint("many-", i)
	}
	for what, c := range map[string]struct {
		filters []bus.Filter
		want    []world.UserID
		sources int
	}{
		"one":                      {[]bus.Filter{ofSessions("a")}, []world.UserID{"a"}, 1},
		"two":                      {[]bus.Filter{ofSessions("a", "b.c", "a")}, []world.UserID{"a", "b.c"}, 2},
		"two filters":              {[]bus.Filter{ofSessions("a", "c"), ofSessions("c", "b.c")}, []world.UserID{"c"}, 1},
		"none":                     {[]bus.Filter{ofSessions()}, nil, 0},
		"none in common":           {[]bus.Filter{ofSessions("a"), ofSessions("c")}, nil, 0},
		"one and none":             {[]bus.Filter{ofSessions("a", "")}, []world.UserID{"", "a"}, 1},
		"more than are read apart": {[]bus.Filter{ofSessions(append(many, "a")...)}, []world.UserID{"a"}, 1},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, bus.Config{Retry: world.Steady})
				got, failed := world.NewRecord[world.UserID](), world.NewRecord[world.UserID]()
				sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
					if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
						failed.Add(e.ID)
						return world.ErrOops
					}
					got.Add(e.ID)
					return nil
				}, bus.WithPrivate(), bus.WithFilter(c.filters...))
				require.NoError(w, err)
				require.Equal(w, c.sources, tr.Count("subscribe"))
				p := w.Bus(bus.Config{Service: "p"})
				for _, id := range []string{"a", "b.c", "c"} {
					require.NoError(w, bus.InSession(w.Context(), p, id, func(ctx context.Context, s *bus.Session) error {
						return bus.Publish(ctx, s, world.UserCreated{ID: world.UserID(id)})
					}))
				}
				require.NoError(w, bus.Publish(w.Context(), p, world.UserCreated{}))
				world.Settle(time.Minute)
				require.ElementsMatch(w, c.want, failed.All())
				require.ElementsMatch(w, c.want, got.All(), "retried too")
				require.NoError(w, sub.Close(w.Context()))
				require.NoError(w, bus.InSession(w.Context(), p, "a", func(ctx context.Context, s *bus.Session) error {
					return bus.Publish(ctx, s, world.UserCreated{ID: "late"})
				}))
				world.Settle(time.Minute)
				require.Len(w, failed.All(), len(c.want))
			})
		})
	}
}

func TestPrivateListenerOfASessionThatCannotBe(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil },
			bus.WithPrivate(), bus.WithFilter(ofSessions("a", strings.Repeat("x", 200))))
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		hearing(w, b, bus.WithPrivate(), bus.WithFilter(ofSessions("a")))
		require.NoError(w, b.Close(w.Context()))
	})
}

// Events of other sessions do not reach the process at all.
func TestFilteredSessionsDoNotCrossTheNetwork(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		open := func(cfg nats.Config) (*world.World, transport.Transport) {
			w := &world.World{T: t}
			tr, err := nats.Open(t.Context(), cfg)
			require.NoError(t, err)
			return w, tr
		}
		w, tr := open(nats.Config{Server: s})
		p := w.BusOn(tr, bus.Config{Service: "p"})
		mine, err := p.Session(t.Context(), "mine")
		require.NoError(t, err)
		other, err := p.Session(t.Context(), "other")
		require.NoError(t, err)
		listen := func(opts ...bus.SubscribeOption) (*natsgo.Conn, *world.Record[world.UserID]) {
			nc := natstest.Connect(t, s)
			w, tr := open(nats.Config{Conn: nc})
			return nc, hearing(w, w.BusOn(tr, bus.Config{}), append(opts, bus.WithPrivate())...)
		}
		narrowConn, narrow := listen(bus.WithFilter(ofSessions("mine", "third")))
		wideConn, wide := listen(bus.WithFilter(passing(func(m *bus.Message) bool { return m.Session == "mine" })))
		before, beforeWide := narrowConn.Stats().InMsgs, wideConn.Stats().InMsgs
		const n = 500
		for i := range n {
			require.NoError(t, bus.Publish(t.Context(), other, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
			require.NoError(t, bus.Publish(t.Context(), p, world.UserCreated{ID: world.UserID(fmt.Sprint(i))}))
		}
		require.NoError(t, bus.Publish(t.Context(), mine, world.UserCreated{ID: "mine"}))
		require.Equal(t, []world.UserID{"mine"}, narrow.Wait(t, 1))
		require.Equal(t, []world.UserID{"mine"}, wide.Wait(t, 1))
		require.GreaterOrEqual(t, wideConn.Stats().InMsgs-beforeWide, uint64(2*n), "what a filter that does not say costs")
		require.Less(t, narrowConn.Stats().InMsgs-before, uint64(50), "the event, and what the driver asks by itself")
	})
}
