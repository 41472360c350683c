package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/filter"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

func auditing(next bus.Func) bus.Func { return next }

// tenant is a constructor of a middleware.
func tenant(string) bus.Middleware { return func(next bus.Func) bus.Func { return next } }

type guard struct{}

func (*guard) wrap(next bus.Func) bus.Func { return next }

func ignore[E any](context.Context, E) error { return nil }

// places are the subjects of a handler where there are any.
func places(w *world.World, subjects ...string) []string {
	if strings.Contains(w.Name(), "/memory") {
		return nil
	}
	return subjects
}

func TestDescribe(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		const policy = "3 retries after 100ms, doubling up to 10s, full jitter"
		b := w.Bare(w.Open(), bus.Config{
			Sending:       []bus.Middleware{tenant("a"), middleware.RequireSession()},
			Receiving:     []bus.Middleware{middleware.Recover(), auditing},
			PublishFilter: filter.Names("user.created"),
			ReceiveFilter: filter.Not(filter.NotSessions("test")),
		})
		require.Empty(w, b.Describe().Handlers)
		require.NotNil(w, b.Describe().Handlers, "as JSON it is an empty list")

		require.NoError(w, bus.Handle(w.Context(), b, world.Create, bus.WithConcurrency(3),
			bus.WithMiddleware(middleware.Timeout(time.Second), new(guard).wrap), bus.WithMiddleware(tenant("b"))))
		subscribe := func(s bus.Scope, opts ...bus.SubscribeOption) *bus.Subscription {
			sub, err := bus.Subscribe(w.Context(), s, ignore[world.UserCreated], opts...)
			require.NoError(w, err)
			return sub
		}
		subscribe(b, bus.WithPriority(10))
		subscribe(b, bus.WithName("z-first"), bus.WithPriority(900), bus.WithRetry(resilience.Retry{MaxRetries: resilience.NoRetries}),
			bus.WithFilter(filter.Headers("Tenant"), bus.Filter{Pass: func(*bus.Message) bool { return true }}))
		subscribe(b, bus.WithName("also"), bus.WithPriority(900))
		closed := subscribe(b, bus.WithName("closed"))
		require.NoError(w, closed.Close(w.Context()))
		subscribe(b, bus.WithPrivate(), bus.WithConcurrency(1))
		subscribe(b, bus.WithPrivate(), bus.WithConcurrency(2), bus.WithFilter(filter.Sessions("a/1", "b")))
		_, err := bus.SubscribeBatch(w.Context(), b, ignore[[]*world.UserCreated], bus.WithGroup("search"), bus.WithBatchSize(7),
			bus.WithBatchBytes(1500), bus.WithLinger(time.Second))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, ignore[*world.UserDeleted])
		require.NoError(w, err)
		s, err := b.Session(w.Context(), "job/1")
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), s, world.Create))
		subscribe(s)
		subscribe(s, bus.WithName("named"))

		all := []bus.Link{{Name: "middleware.Recover"}, {Name: "integration_test.auditing"}}
		event := func(h bus.HandlerDescription) bus.HandlerDescription {
			h.Kind, h.Chain = bus.KindEvent, all
			if h.Name == "" {
				h.Name, h.Type = "user.created", "world.UserCreated"
			}
			if h.Retry == "" {
				h.Retry = policy
			}
			return h
		}
		group := places(w, "jitney.evt.*.user.created", "jitney.retry.svc.user.created")
		d := b.Describe()
		want := bus.Description{
			Service: "svc", Retry: policy,
			Sending:       []string{"integration_test.tenant", d.Sending[1]},
			PublishFilter: filter.Names("user.created").Name,
			ReceiveFilter: filter.Not(filter.NotSessions("test")).Name,
			Handlers: []bus.HandlerDescription{
				{Kind: bus.KindCommand, Name: "user.create", Type: "world.CreateUser", Handler: "svc", Concurrency: 3,
					Chain: append(all, bus.Link{Name: "middleware.Timeout", Own: true},
						bus.Link{Name: "integration_test.guard.wrap", Own: true}, bus.Link{Name: "integration_test.tenant", Own: true}),
					Places: places(w, "jitney.cmd._.user.create")},
				{Kind: bus.KindCommand, Name: "user.create", Type: "world.CreateUser", Handler: "svc", Concurrency: 64,
					Session: "job/1", Chain: all, Places: places(w, "jitney.cmd.job=2F1.user.create")},
				event(bus.HandlerDescription{Handler: "default", Private: true, Priority: 50, Concurrency: 1,
					Places: places(w, "jitney.live.*.user.created")}),
				event(bus.HandlerDescription{Handler: "default", Private: true, Priority: 50, Concurrency: 2,
					Filters: []string{filter.Sessions("a/1", "b").Name},
					Places:  places(w, "jitney.live.a=2F1.user.created", "jitney.live.b.user.created")}),
				event(bus.HandlerDescription{Handler: "listener-1", Session: "job/1", Priority: 50, Concurrency: 16,
					Places: places(w, "jitney.live.job=2F1.user.created")}),
				event(bus.HandlerDescription{Handler: "named", Session: "job/1", Priority: 50, Concurrency: 16,
					Places: places(w, "jitney.live.job=2F1.user.created")}),
				event(bus.HandlerDescription{Handler: "default", Group: "search", Priority: 50, Concurrency: 1,
					Name: "user.created", Type: "[]*world.UserCreated", Batch: "up to 7 events or 1500 bytes, or after 1s",
					Places: places(w, "jitney.evt.*.user.created", "jitney.retry.search.user.created")}),
				event(bus.HandlerDescription{Handler: "also", Group: "svc", Priority: 900, Concurrency: 16, Places: group}),
				event(bus.HandlerDescription{Handler: "z-first", Group: "svc", Priority: 900, Concurrency: 16, Places: group,
					Retry: "no retries", Filters: []string{filter.Headers("Tenant").Name, "integration_test.TestDescribe"}}),
				event(bus.HandlerDescription{Handler: "default", Group: "svc", Priority: 10, Concurrency: 16, Places: group}),
				event(bus.HandlerDescription{Handler: "default", Group: "svc", Priority: 50, Concurrency: 16,
					Name: "user.deleted", Type: "*world.UserDeleted",
					Places: places(w, "jitney.evt.*.user.deleted", "jitney.retry.svc.user.deleted")}),
			},
		}
		require.Equal(w, want, d)
		require.Contains(w, d.Sending[1], "middleware.", "whichever function of the package makes it")
		require.Equal(w, d, b.Describe(), "the order is stable")

		text, err := json.Marshal(d)
		require.NoError(w, err)
		var back bus.Description
		require.NoError(w, json.Unmarshal(text, &back))
		require.Equal(w, d, back)

		// It is a copy.
		d.Handlers[0].Chain[0].Name, d.Handlers[3].Filters[0], d.Sending[0] = "changed", "changed", "changed"
		require.Equal(w, back, b.Describe())

		require.NoError(w, s.Close(w.Context()))
		require.Len(w, b.Describe().Handlers, len(want.Handlers)-3, "what the session had went with it")
		require.NoError(w, b.Close(context.Background()))
		require.Empty(w, b.Describe().Handlers)
	})
}

func TestDescribeSortsBySession(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		want := []string{"a", "b", "c", "d", "e", "f"}
		for _, i := range []int{3, 0, 5, 1, 4, 2} {
			s, err := b.Session(w.Context(), want[i])
			require.NoError(w, err)
			_, err = bus.Subscribe(w.Context(), s, ignore[world.UserCreated])
			require.NoError(w, err)
		}
		var got []string
		for _, h := range b.Describe().Handlers {
			got = append(got, h.Session)
		}
		require.Equal(w, want, got)
	})
}

// A handler is described from when it is live.
func TestDescribeLeavesOutWhatIsNotThere(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		asked := 0
		for _, refused := range []error{transport.ErrInvalid, nil} {
			tr.Set(func(_ context.Context, op, _ string) error {
				if op != "subscribe" && op != "serve" {
					return nil
				}
				asked++
				require.Empty(w, b.Describe().Handlers, op)
				return refused
			})
			_, err := bus.Subscribe(w.Context(), b, ignore[world.UserCreated])
			require.Equal(w, refused == nil, err == nil)
			if refused != nil {
				require.Error(w, bus.Handle(w.Context(), b, world.Create))
			}
		}
		require.Equal(w, 3, asked)
		require.Len(w, b.Describe().Handlers, 1)
	})
}

// Describing goes on beside registering, handling and closing, and keeps nothing
// waiting.
func TestDescribeUnderLoad(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Receiving: []bus.Middleware{auditing}})
		blocked, release := world.NewRecord[int](), make(chan struct{})
		require.NoError(w, bus.HandleNone(w.Context(), b, func(context.Context, world.ResetAll) error {
			blocked.Add(1)
			<-release
			return nil
		}))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := bus.Do(w.Context(), b, world.ResetAll{}); err != nil {
				w.Error(err)
			}
		})
		blocked.Wait(w, 1)
		require.Len(w, b.Describe().Handlers, 1, "a handler that runs keeps nobody waiting")
		stop := make(chan struct{})
		var readers sync.WaitGroup
		for range 2 {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						seen := map[string]bool{}
						for _, h := range b.Describe().Handlers {
							key := fmt.Sprint(h.Kind, h.Name, h.Group, h.Session, h.Handler)
							if seen[key] {
								w.Error("twice: ", key)
							}
							seen[key] = true
						}
						time.Sleep(time.Millisecond) // fake time
					}
				}
			})
		}
		for i := range 4 {
			wg.Go(func() {
				name := fmt.Sprintf("l%d", i)
				for range 5 {
					sub, err := bus.Subscribe(w.Context(), b, ignore[world.UserCreated], bus.WithName(name), bus.WithPriority(i))
					if err != nil {
						w.Error(err)
						return
					}
					s, err := b.Session(w.Context(), name)
					if err != nil {
						w.Error(err)
						return
					}
					_, err = bus.Subscribe(w.Context(), s, ignore[world.UserCreated])
					if err == nil {
						err = bus.Publish(w.Context(), s, world.UserCreated{})
					}
					if err == nil {
						err = sub.Close(w.Context())
					}
					if err == nil {
						err = s.Close(w.Context())
					}
					if err != nil {
						w.Error(err)
					}
				}
			})
		}
		close(release)
		wg.Wait()
		close(stop)
		readers.Wait()
		require.Len(w, b.Describe().Handlers, 1)
	})
}

func TestDescribeWithoutPlaces(t *testing.T) {
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "svc"})
	require.NoError(t, err)
	defer b.Close(context.Background())
	require.Equal(t, "service    svc\nretry      3 retries after 100ms, doubling up to 10s, full jitter\nhandlers   none\n", b.Describe().String())
	require.NoError(t, bus.Handle(context.Background(), b, world.Create))
	require.NotContains(t, b.Describe().String(), "  at ")
}
