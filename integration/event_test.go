package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

func TestPublishReachesEveryGroupOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		publisher := w.Bus(bus.Config{Service: "publisher"})
		got := map[string]*world.Record[world.UserID]{}
		for _, service := range []string{"mailer", "audit"} {
			rec := world.NewRecord[world.UserID]()
			got[service] = rec
			for range 2 { // two processes each
				_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{Service: service}), func(_ context.Context, e world.UserCreated) error {
					rec.Add(e.ID)
					return nil
				})
				require.NoError(w, err)
			}
		}
		var want []world.UserID
		for i := range 50 {
			id := world.UserID(fmt.Sprint(i))
			want = append(want, id)
			require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{ID: id}))
		}
		for service, rec := range got {
			require.ElementsMatch(w, want, rec.Wait(w, 50), service)
		}
		world.Settle(time.Minute)
		for service, rec := range got {
			require.Len(w, rec.All(), 50, service)
		}
	})
}

func TestPointersAndValues(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		got := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserDeleted) error { got.Add("value " + string(e.ID)); return nil }, bus.WithName("value"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(_ context.Context, e *world.UserDeleted) error { got.Add("pointer " + string(e.ID)); return nil }, bus.WithName("pointer"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserDeleted{ID: "a"}))
		require.NoError(w, bus.Publish(w.Context(), b, &world.UserDeleted{ID: "b"}))
		require.ElementsMatch(w, []string{"value a", "value b", "pointer a", "pointer b"}, got.Wait(w, 4))
	})
}

func TestGroupHearsWhatItMissed(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		publisher := w.Bus(bus.Config{Service: "publisher"})
		got := world.NewRecord[world.UserID]()
		listen := func() *bus.Bus {
			b := w.Bus(bus.Config{Service: "mailer"})
			_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil })
			require.NoError(w, err)
			return b
		}
		require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{ID: "before the group"}))
		require.NoError(w, listen().Close(w.Context()))
		require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{ID: "while away"}))
		world.Settle(10 * time.Minute)
		listen()
		require.Equal(w, []world.UserID{"while away"}, got.Wait(w, 1))
	})
}

func TestStartAll(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		// A group that is behind holds the log back, on memory.
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			<-ctx.Done()
			return nil
		}, bus.WithGroup("holder"), bus.WithConcurrency(1))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "a"}))
		world.Settle(time.Second)
		began := time.Now()
		world.Settle(time.Second)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "b"}))
		all, since := world.NewRecord[world.UserID](), world.NewRecord[world.UserID]()
		_, err = bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { all.Add(e.ID); return nil },
			bus.WithGroup("all"), bus.WithStart(bus.All()))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { since.Add(e.ID); return nil },
			bus.WithGroup("since"), bus.WithStart(bus.Since(began)))
		require.NoError(w, err)
		require.ElementsMatch(w, []world.UserID{"a", "b"}, all.Wait(w, 2))
		require.Equal(w, []world.UserID{"b"}, since.Wait(w, 1))
	})
}

func TestPrivateListenersEachGetACopy(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		publisher := w.Bus(bus.Config{Service: "publisher"})
		var got []*world.Record[world.UserID]
		var sub *bus.Subscription
		for range 3 {
			b, rec := w.Bus(bus.Config{Service: "cache"}), world.NewRecord[world.UserID]()
			var err error
			sub, err = bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { rec.Add(e.ID); return nil }, bus.WithPrivate())
			require.NoError(w, err)
			got = append(got, rec)
		}
		require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{ID: "a"}))
		for _, rec := range got {
			require.Equal(w, []world.UserID{"a"}, rec.Wait(w, 1))
		}
		require.NoError(w, sub.Close(w.Context()))
		require.NoError(w, sub.Close(w.Context()), "twice")
		require.NoError(w, bus.Publish(w.Context(), publisher, world.UserCreated{ID: "b"}))
		got[0].Wait(w, 2)
		got[1].Wait(w, 2)
		world.Settle(time.Minute)
		require.Len(w, got[2].All(), 1, "a closed one hears nothing")
	})
}

func TestPriorities(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		got := world.NewRecord[string]()
		var side sync.WaitGroup
		side.Add(2)
		listen := func(name string, priority int, f func()) {
			_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
				if f != nil {
					f()
				}
				got.Add(name)
				if name == "high" {
					return bus.Permanent(errors.New("fails"))
				}
				return nil
			}, bus.WithName(name), bus.WithPriority(priority))
			require.NoError(w, err)
		}
		together := func() { side.Done(); side.Wait() } // only both at once get through
		listen("low", 10, nil)
		listen("same-1", bus.PriorityNormal, together)
		listen("high", 100, nil)
		listen("same-2", bus.PriorityNormal, together)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		all := got.Wait(w, 4)
		require.Equal(w, "high", all[0])
		require.ElementsMatch(w, []string{"same-1", "same-2"}, all[1:3])
		require.Equal(w, "low", all[3])
	})
}

func TestConcurrencyOfAListener(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		var now, most atomic.Int64
		done := world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(10 * time.Millisecond)
			now.Add(-1)
			done.Add(1)
			return nil
		}, bus.WithConcurrency(5))
		require.NoError(w, err)
		for range 100 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		done.Wait(w, 100)
		require.EqualValues(w, 5, most.Load(), "as many as allowed, and no more")
	})
}

func TestSerialListenerSeesOrder(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		got := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { got.Add(e.ID); return nil }, bus.WithConcurrency(1))
		require.NoError(w, err)
		var want []world.UserID
		for i := range 200 {
			id := world.UserID(fmt.Sprint(i))
			want = append(want, id)
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: id}, bus.WithKey("k")))
		}
		require.Equal(w, want, got.Wait(w, 200))
	})
}

func TestDelayedDelivery(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		at := world.NewRecord[time.Duration]()
		began := time.Now()
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { at.Add(time.Since(began)); return nil })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithDelay(2500*time.Millisecond)))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithAt(began.Add(6*time.Hour))))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithAt(began.Add(-time.Hour))))
		world.Settle(7 * time.Hour)
		got := at.All()
		require.Len(w, got, 3)
		for i, want := range []time.Duration{0, 2500 * time.Millisecond, 6 * time.Hour} {
			require.GreaterOrEqual(w, got[i], want, "never early")
			require.Less(w, got[i], want+time.Second)
		}
	})
}

func TestSameIDIsStoredOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		got := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			got.Add(m.ID + " " + e.Note)
			return nil
		})
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserDeleted) error {
			m, _ := bus.MetaFrom(ctx)
			got.Add(m.ID + " deleted")
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{Note: "first"}, bus.WithID("1")))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{Note: "second"}, bus.WithID("1")))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserDeleted{ID: "x"}, bus.WithID("1")), "another name, another id")
		got.Wait(w, 2)
		world.Settle(time.Minute)
		require.ElementsMatch(w, []string{"1 first", "1 deleted"}, got.All())
	})
}

func TestEventMetadata(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		metas := world.NewRecord[bus.Meta]()
		ids := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			metas.Add(m)
			ids.Add(bus.DerivedID(ctx, "a") + bus.DerivedID(ctx, "b"))
			if m.Attempt == 1 {
				return errors.New("again")
			}
			return bus.Publish(ctx, b, world.UserDeleted{ID: e.ID}, bus.WithID(bus.DerivedID(ctx, "deleted")))
		}, bus.WithName("first"))
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserDeleted) error {
			m, _ := bus.MetaFrom(ctx)
			metas.Add(m)
			return nil
		}, bus.WithGroup("other"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "x"},
			bus.WithID("evt-1"), bus.WithKey("k 1"), bus.WithHeader("Empty", ""), bus.WithHeader("Text", "käse 🧀")))
		m := metas.Wait(w, 3)
		require.Equal(w, bus.KindEvent, m[0].Kind)
		require.Equal(w, "user.created", m[0].Name)
		require.Equal(w, "evt-1", m[0].ID)
		require.Equal(w, "evt-1", m[0].CorrelationID)
		require.Equal(w, "k 1", m[0].Key)
		require.Equal(w, "svc", m[0].Group)
		require.Equal(w, "first", m[0].Handler)
		require.Equal(w, bus.Header{"Empty": {""}, "Text": {"käse 🧀"}}, m[0].Headers())
		require.WithinDuration(w, time.Now(), m[0].SentAt, time.Minute)
		require.Equal(w, 1, m[0].Attempt)
		require.Equal(w, 2, m[1].Attempt)
		require.Equal(w, "evt-1", m[1].ID, "a retry keeps the id")
		require.Equal(w, "evt-1", m[2].CausationID)
		require.Equal(w, "evt-1", m[2].CorrelationID)
		require.Equal(w, "other", m[2].Group)
		derived := ids.All()
		require.Equal(w, derived[0], derived[1], "derived ids survive a retry")
		require.NotEqual(w, derived[0][:22], derived[0][22:], "and differ by label")
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID(bus.DerivedID(w.Context(), "x")))))
	})
}

func TestPublishAll(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		got := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { got.Add("created " + string(e.ID)); return nil })
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserDeleted) error { got.Add("deleted " + string(e.ID)); return nil })
		require.NoError(w, err)
		require.NoError(w, bus.PublishAll(w.Context(), b))
		require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "1"}, &world.UserDeleted{ID: "2"}, world.UserCreated{ID: "3"}))
		require.ElementsMatch(w, []string{"created 1", "deleted 2", "created 3"}, got.Wait(w, 3))

		err = bus.PublishAll(w.Context(), b, world.UserCreated{ID: "4"}, world.UserDeleted{})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(w, err, "event 2 of 2")
		if !w.InProcess {
			err = bus.PublishAll(w.Context(), b, world.UserCreated{ID: "5"}, world.UserCreated{Note: strings.Repeat("x", 2<<20)}, world.UserCreated{ID: "6"})
			var pe *bus.PublishError
			require.ErrorAs(w, err, &pe)
			require.Len(w, pe.Errors, 3)
			require.NoError(w, pe.Errors[0])
			require.Equal(w, bus.CodeTooLarge, bus.CodeOf(pe.Errors[1]))
			require.NoError(w, pe.Errors[2])
			got.Wait(w, 5)
		}
		world.Settle(time.Minute)
		require.NotContains(w, got.All(), "created 4", "an invalid event keeps the others from being sent")
	})
}

func TestInvalidEventsAndSubscriptions(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		listen := func(_ context.Context, e world.UserCreated) error { return nil }
		subscribe := func(opts ...bus.SubscribeOption) error {
			_, err := bus.Subscribe(w.Context(), b, listen, opts...)
			return err
		}
		_, nilHandler := bus.Subscribe[world.UserCreated](w.Context(), b, nil)
		_, command := bus.Subscribe(w.Context(), b, func(context.Context, world.CreateUser) error { return nil })
		_, generic := bus.Subscribe(w.Context(), b, func(context.Context, struct{ A int }) error { return nil })
		for what, err := range map[string]error{
			"nil handler":         nilHandler,
			"a command":           command,
			"unnamed type":        generic,
			"nil event":           bus.Publish(w.Context(), b, nil),
			"nil pointer":         bus.Publish(w.Context(), b, (*world.UserDeleted)(nil)),
			"publish a command":   bus.Publish(w.Context(), b, world.CreateUser{Name: "a"}),
			"publish a string":    bus.Publish(w.Context(), b, "text"),
			"validate":            bus.Publish(w.Context(), b, world.UserDeleted{}),
			"key":                 bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithKey("a\nb")),
			"group":               subscribe(bus.WithGroup("Mailer")),
			"empty group":         subscribe(bus.WithGroup("")),
			"dotted group":        subscribe(bus.WithGroup("a.b")),
			"name":                subscribe(bus.WithName("a b")),
			"priority -1":         subscribe(bus.WithPriority(-1)),
			"priority 1001":       subscribe(bus.WithPriority(1001)),
			"private and group":   subscribe(bus.WithPrivate(), bus.WithGroup("x")),
			"private and start":   subscribe(bus.WithPrivate(), bus.WithStart(bus.All())),
			"two types, one name": bus.Publish(w.Context(), b, impostor{}),
		} {
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%s: %v", what, err)
		}
		if !w.InProcess {
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(bus.Publish(w.Context(), b, unmarshalable{C: make(chan int)})))
			err := bus.Publish(w.Context(), b, world.UserCreated{Note: strings.Repeat("x", 2<<20)})
			require.Equal(w, bus.CodeTooLarge, bus.CodeOf(err))
			require.ErrorContains(w, err, "limit of")
		}

		require.NoError(w, subscribe())
		err := subscribe()
		require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
		require.ErrorContains(w, err, "WithName")
		require.Equal(w, bus.CodeConflict, bus.CodeOf(subscribe(bus.WithName("b"), bus.WithStart(bus.All()))))

		unnamed, err := bus.New(w.Open(), bus.Config{})
		require.NoError(w, err)
		defer unnamed.Close(w.Context())
		_, err = bus.Subscribe(w.Context(), unnamed, listen)
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(w, err, "Config.Service")
		_, err = bus.Subscribe(w.Context(), unnamed, listen, bus.WithPrivate())
		require.NoError(w, err)
	})
}

type impostor struct{}

func (impostor) MessageName() string { return "user.created" }

type unmarshalable struct{ C chan int }

func TestInvalidConfig(t *testing.T) {
	_, err := bus.New(nil, bus.Config{})
	require.Equal(t, bus.CodeInvalid, bus.CodeOf(err))
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		w.Cleanup(func() { require.NoError(w, tr.Close(context.Background())) })
		_, err := bus.New(tr, bus.Config{
			Service: "My Service", AckWait: time.Millisecond, MaxRun: -1, MaxAckPending: -1,
			Errors: map[string]error{"Bad": nil}, Sending: []bus.Middleware{nil}, Receiving: []bus.Middleware{nil},
		})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		for _, part := range []string{"Service", "AckWait", "MaxRun", "MaxAckPending", "Errors", "Sending[0]", "Receiving[0]"} {
			require.ErrorContains(w, err, part)
		}
	})
}
