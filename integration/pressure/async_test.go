package pressure_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// tapped is a transport that tells each Publish, and lets a test decide on it.
type tapped struct {
	transport.Transport
	published *world.Record[publishing]

	mu   sync.Mutex
	hook func(ctx context.Context, ids []string) error
}

type publishing struct {
	at  time.Time
	ids []string
}

func tap(tr transport.Transport) *tapped {
	return &tapped{Transport: tr, published: world.NewRecord[publishing]()}
}

// set makes f decide: nil stores all, an error stores none.
func (t *tapped) set(f func(ctx context.Context, ids []string) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hook = f
}

// refuse refuses the events with these ids and stores the others.
func (t *tapped) refuse(ids ...string) {
	t.set(func(context.Context, []string) error { return refused(ids) })
}

type refused []string

func (refused) Error() string { return "some are refused" }

func (t *tapped) InProcess() bool {
	p, ok := t.Transport.(transport.InProcess)
	return ok && p.InProcess()
}

func (t *tapped) Publish(ctx context.Context, ms ...*transport.Message) error {
	p := publishing{at: time.Now()}
	for _, m := range ms {
		p.ids = append(p.ids, m.ID)
	}
	t.published.Add(p)
	t.mu.Lock()
	hook := t.hook
	t.mu.Unlock()
	if hook == nil {
		return t.Transport.Publish(ctx, ms...)
	}
	switch err := hook(ctx, p.ids).(type) {
	case nil:
		return t.Transport.Publish(ctx, ms...)
	case refused:
		pe := &transport.PublishError{Outcomes: make([]transport.Outcome, len(ms))}
		bad := false
		for i, m := range ms {
			if strings.Contains(" "+strings.Join(err, " ")+" ", " "+m.ID+" ") {
				pe.Outcomes[i] = transport.Outcome{Status: transport.Refused, Err: transport.ErrPermission}
				bad = true
			} else if err := t.Transport.Publish(ctx, m); err != nil {
				return err
			}
		}
		if bad {
			return pe
		}
		return nil
	default:
		return err
	}
}

// batches are the ids of each Publish.
func (t *tapped) batches() (all []string) {
	for _, p := range t.published.All() {
		all = append(all, strings.Join(p.ids, " "))
	}
	return all
}

// stored reads the ids that are in the log, in its order, until n are there.
func stored(w *world.World, n int) []string {
	w.Helper()
	got := world.NewRecord[string]()
	b := w.Bus(bus.Config{})
	sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
		m, _ := bus.MetaFrom(ctx)
		got.Add(m.ID)
		return nil
	}, bus.WithGroup("log"), bus.WithStart(bus.All()), bus.WithConcurrency(1))
	require.NoError(w, err)
	got.Wait(w, n)
	world.Settle(time.Second)
	require.NoError(w, sub.Close(w.Context()))
	return got.All()
}

// keep makes the log begin, which forgets in memory what nobody listens for.
func keep(w *world.World) {
	w.Helper()
	b := w.Bus(bus.Config{})
	sub, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, bus.WithGroup("log"))
	require.NoError(w, err)
	require.NoError(w, sub.Close(w.Context()))
}

// queue publishes an event of that id.
func queue(w *world.World, b *bus.Bus, id string, opts ...bus.PublishOption) *bus.Pending {
	w.Helper()
	p, err := bus.PublishAsync(w.Context(), b, world.UserCreated{ID: world.UserID(id)}, append(opts, bus.WithID(id))...)
	require.NoError(w, err)
	require.Equal(w, id, p.ID())
	return p
}

func pending(p *bus.Pending) bool {
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

func TestPublishAsyncSendsByCount(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchSize: 3, BatchTimeout: time.Minute})
		keep(w)
		var all []*bus.Pending
		for i := range 7 {
			all = append(all, queue(w, b, fmt.Sprint(i)))
		}
		for _, p := range all[:6] {
			require.NoError(w, p.Wait(w.Context()))
		}
		world.Settle(59 * time.Second)
		require.Equal(w, []string{"0 1 2", "3 4 5"}, tr.batches())
		require.True(w, pending(all[6]))
		require.NoError(w, all[6].Err(), "nothing is known yet")
		world.Settle(2 * time.Second)
		require.Equal(w, []string{"0 1 2", "3 4 5", "6"}, tr.batches())
		require.False(w, pending(all[6]))
		require.Equal(w, []string{"0", "1", "2", "3", "4", "5", "6"}, stored(w, 7))
	})
}

func TestPublishAsyncSendsByTime(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{})
		for range 3 { // each batch has its own first event
			began, n := time.Now(), len(tr.published.All())
			queue(w, b, "a")
			world.Settle(60 * time.Millisecond)
			queue(w, b, "b")
			world.Settle(39 * time.Millisecond)
			require.Len(w, tr.published.All(), n)
			world.Settle(2 * time.Millisecond)
			require.Len(w, tr.published.All(), n+1)
			last := tr.published.All()[n]
			require.Equal(w, []string{"a", "b"}, last.ids)
			require.Equal(w, 100*time.Millisecond, last.at.Sub(began))
			world.Settle(time.Second)
		}
	})
}

func TestPublishAsyncSendsByBytes(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchBytes: 250, BatchTimeout: time.Minute})
		note := func(n int) world.UserCreated { return world.UserCreated{Note: strings.Repeat("x", n)} }
		for i, n := range []int{80, 80, 80, 500, 10} {
			_, err := bus.PublishAsync(w.Context(), b, note(n), bus.WithID(fmt.Sprint(i)))
			require.NoError(w, err)
			world.Settle(time.Millisecond)
		}
		world.Settle(30 * time.Second)
		if w.InProcess { // nothing is encoded, so nothing is counted
			require.Empty(w, tr.batches())
			return
		}
		require.Equal(w, []string{"0 1", "2", "3"}, tr.batches(), "none over the limit but one event that is")
		world.Settle(31 * time.Second)
		require.Equal(w, []string{"0 1", "2", "3", "4"}, tr.batches())
	})
}

// A queue smaller than a batch is sent when it is full.
func TestPublishAsyncWithASmallQueue(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{QueueSize: 2, BatchTimeout: time.Hour})
		var all []*bus.Pending
		for i := range 6 {
			all = append(all, queue(w, b, fmt.Sprint(i)))
		}
		for _, p := range all {
			require.NoError(w, p.Wait(w.Context()))
		}
		require.Len(w, tr.batches(), 3)
	})
}

func TestPublishAsyncBlocksWhenFull(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		open := make(chan struct{})
		tr.set(func(context.Context, []string) error { <-open; return nil })
		b := w.BusOn(tr, bus.Config{QueueSize: 2, BatchSize: 1, PublishTimeout: time.Minute})
		sent := []*bus.Pending{queue(w, b, "under-way")}
		world.Settle(time.Second)
		sent = append(sent, queue(w, b, "first"), queue(w, b, "second"))

		began := time.Now()
		_, err := bus.PublishAsync(w.Context(), b, world.UserCreated{}, bus.WithTimeout(5*time.Second), bus.WithID("late"))
		require.Equal(w, bus.CodeBacklog, bus.CodeOf(err), "%v", err)
		require.ErrorIs(w, err, context.DeadlineExceeded)
		require.ErrorContains(w, err, "publish user.created: the queue of PublishAsync is full (2 events); not sent")
		require.Equal(w, 5*time.Second, time.Since(began))
		ctx, cancel := context.WithCancel(w.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = bus.PublishAsync(ctx, b, world.UserCreated{})
		require.Equal(w, bus.CodeCancelled, bus.CodeOf(err), "%v", err)
		require.ErrorContains(w, err, "not sent")

		time.AfterFunc(5*time.Second, func() { close(open) })
		began = time.Now()
		sent = append(sent, queue(w, b, "third"))
		require.Equal(w, 5*time.Second, time.Since(began), "there was room")
		for _, p := range sent {
			require.NoError(w, p.Wait(w.Context()))
		}
		require.Equal(w, []string{"under-way", "first", "second", "third"}, tr.batches())
	})
}

func TestPublishAsyncWaitsForRoomWithoutADeadline(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		open := make(chan struct{})
		tr.set(func(context.Context, []string) error { <-open; return world.ErrOops })
		b := w.BusOn(tr, bus.Config{QueueSize: 1, PublishTimeout: time.Minute})
		queue(w, b, "under-way")
		queue(w, b, "queued")
		began := time.Now()
		_, err := bus.PublishAsync(w.Context(), b, world.UserCreated{})
		require.Equal(w, bus.CodeBacklog, bus.CodeOf(err), "%v", err)
		require.Equal(w, time.Minute, time.Since(began), "Config.PublishTimeout")
		close(open)
	})
}

// The context of the call bounds the wait for room, and nothing after it.
func TestPublishAsyncOutlivesItsContext(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		keep(w)
		ctx, cancel := context.WithCancel(w.Context())
		p, err := bus.PublishAsync(ctx, b, world.UserCreated{}, bus.WithTimeout(time.Millisecond), bus.WithID("a"))
		require.NoError(w, err)
		cancel()
		world.Settle(time.Second)
		require.NoError(w, p.Wait(ctx), "a result that is there")
		require.Equal(w, []string{"a"}, stored(w, 1))
	})
}

// The id is known before the event is stored, so whoever does not wait for the result
// may publish it again.
func TestPublishAsyncAgain(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{BatchTimeout: time.Minute})
		keep(w)
		p, err := bus.PublishAsync(w.Context(), b, world.UserCreated{ID: "a"})
		require.NoError(w, err)
		require.NotEmpty(w, p.ID())
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "a"}, bus.WithID(p.ID())))
		require.NoError(w, p.Wait(w.Context()))
		_, err = bus.PublishAsync(w.Context(), b, world.UserCreated{ID: "a"}, bus.WithID(p.ID()))
		require.NoError(w, err)
		require.NoError(w, b.Flush(w.Context()))
		require.Equal(w, []string{p.ID()}, stored(w, 1))
	})
}

func TestPublishAsyncTellsEachResult(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{})
		keep(w)
		tr.refuse("b", "d")
		var all []*bus.Pending
		for _, id := range []string{"a", "b", "c", "d"} {
			all = append(all, queue(w, b, id))
		}
		ctx, cancel := context.WithTimeout(w.Context(), time.Millisecond)
		defer cancel()
		err := all[0].Wait(ctx)
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
		require.ErrorContains(w, err, "wait user.created: ")

		<-all[3].Done()
		require.NoError(w, all[0].Wait(w.Context()))
		require.NoError(w, all[2].Err())
		for _, i := range []int{1, 3} {
			err := all[i].Err()
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Equal(w, []any{bus.CodePermission, "publish", "user.created", all[i].ID()}, []any{e.Code, e.Op, e.Name, e.ID})
			require.ErrorIs(w, err, transport.ErrPermission)
			require.Same(w, err, all[i].Wait(w.Context()))
		}
		require.Equal(w, []string{"a", "c"}, stored(w, 2))
	})
}

func TestPublishAsyncRefusesAtOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{Sending: []bus.Middleware{func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				switch m.Value.(world.UserCreated).Note {
				case "refuse":
					return nil, world.ErrOops
				case "drop":
					return nil, nil
				}
				m.Header.Set("Seen", "yes")
				return next(ctx, m)
			}
		}}})
		for name, publish := range map[string]func() (*bus.Pending, error){
			"nil":     func() (*bus.Pending, error) { return bus.PublishAsync(w.Context(), b, nil) },
			"command": func() (*bus.Pending, error) { return bus.PublishAsync(w.Context(), b, world.CreateUser{Name: "a"}) },
			"invalid": func() (*bus.Pending, error) { return bus.PublishAsync(w.Context(), b, world.UserDeleted{}) },
			"option": func() (*bus.Pending, error) {
				return bus.PublishAsync(w.Context(), b, world.UserCreated{}, bus.WithID(""))
			},
		} {
			p, err := publish()
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%s: %v", name, err)
			require.Nil(w, p, name)
		}
		_, err := bus.PublishAsync(w.Context(), b, world.UserCreated{Note: "refuse"})
		require.ErrorIs(w, err, world.ErrOops)
		p, err := bus.PublishAsync(w.Context(), b, world.UserCreated{Note: "drop"})
		require.NoError(w, err)
		require.False(w, pending(p))
		require.NoError(w, p.Err(), "a middleware dropped it, as Publish would have done")
		world.Settle(time.Second)
		require.Empty(w, tr.batches())

		keep(w)
		heard := world.NewRecord[string]()
		_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			heard.Add(m.Header("Seen") + " " + m.Key)
			return nil
		})
		require.NoError(w, err)
		queue(w, b, "a", bus.WithKey("k"))
		require.Equal(w, []string{"yes k"}, heard.Wait(w, 1))
	})
}

func TestFlushSendsAtOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchTimeout: time.Hour})
		require.NoError(w, b.Flush(w.Context()), "nothing is queued")
		all := []*bus.Pending{queue(w, b, "a"), queue(w, b, "b")}
		began := time.Now()
		require.NoError(w, b.Flush(w.Context()))
		require.Less(w, time.Since(began), time.Minute)
		for _, p := range all {
			require.False(w, pending(p))
			require.NoError(w, p.Err())
		}
		require.Equal(w, []string{"a b"}, tr.batches())

		// What comes later waits again.
		queue(w, b, "c")
		world.Settle(time.Minute)
		require.Len(w, tr.batches(), 1)
		require.NoError(w, b.Flush(w.Context()))
		require.Len(w, tr.batches(), 2)
	})
}

func TestFlushWaitsWithinItsContext(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchSize: 2, BatchTimeout: time.Hour})
		open := make(chan struct{})
		tr.set(func(context.Context, []string) error { <-open; return nil })
		var all []*bus.Pending
		for i := range 5 {
			all = append(all, queue(w, b, fmt.Sprint(i)))
		}
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		err := b.Flush(ctx)
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
		require.ErrorContains(w, err, "flush: 5 events have no result yet")
		time.AfterFunc(time.Second, func() { close(open) })
		require.NoError(w, b.Flush(w.Context()))
		for _, p := range all {
			require.False(w, pending(p))
		}
	})
}

func TestFlushTellsWhatNobodyKnows(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchSize: 500})
		tr.refuse("b", "c")
		known := queue(w, b, "b")
		queue(w, b, "a")
		require.Equal(w, bus.CodePermission, bus.CodeOf(known.Wait(w.Context())))
		queue(w, b, "c")
		err := b.Flush(w.Context())
		require.Equal(w, bus.CodePermission, bus.CodeOf(err), "%v", err)
		require.ErrorContains(w, err, "flush: 1 queued event was not stored; first: publish user.created: permission denied")
		require.ErrorIs(w, err, transport.ErrPermission)
		require.NoError(w, b.Flush(w.Context()), "it was told")

		// Many failures: a bounded list, and their number.
		tr.set(func(context.Context, []string) error { return transport.ErrUnknown })
		for i := range 3000 {
			queue(w, b, fmt.Sprint(i))
		}
		err = b.Flush(w.Context())
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(err), "they may be stored")
		require.ErrorContains(w, err, "3000 queued events were not stored, or it is not known")
		var e *bus.Error
		require.ErrorAs(w, err, &e)
		list, ok := e.Unwrap().(interface{ Unwrap() []error })
		require.True(w, ok)
		require.LessOrEqual(w, len(list.Unwrap()), 101)
	})
}

func TestFailuresNobodyAskedForAreLogged(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		var log world.SyncBuffer
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		tr.refuse("looked-at", "dropped")
		p := queue(w, b, "looked-at")
		queue(w, b, "dropped")
		require.Error(w, p.Wait(w.Context()))
		world.Settle(4 * time.Second)
		require.NotContains(w, log.String(), "queued event not stored")
		world.Settle(2 * time.Second)
		require.Contains(w, log.String(), `level=ERROR msg="queued event not stored" service=svc name=user.created id=dropped code=permission`)
		require.NotContains(w, log.String(), "looked-at")
		world.Settle(time.Minute)
		require.Equal(w, 1, strings.Count(log.String(), "queued event not stored"))
		require.Error(w, b.Flush(w.Context()), "nobody was told but the log")
	})
}

func TestPublishAsyncKeepsOrder(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{BatchSize: 7})
		keep(w)
		var want []string
		for i := range 100 {
			id := fmt.Sprint(i)
			want = append(want, id)
			var opts []bus.PublishOption
			if i%3 > 0 {
				opts = append(opts, bus.WithKey(fmt.Sprint("key ", i%5)))
			}
			queue(w, b, id, opts...)
		}
		require.NoError(w, b.Flush(w.Context()))
		require.Equal(w, want, stored(w, 100))
	})
}

// Of a key nothing is stored after what failed, until the failure could be seen.
func TestPublishAsyncKeepsTheOrderOfAKeyAcrossAFailure(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchSize: 4, BatchTimeout: time.Hour})
		keep(w)
		queued := make(chan struct{})
		tr.set(func(context.Context, []string) error { <-queued; return refused{"k2"} })
		all := map[string]*bus.Pending{}
		// The third and fourth are of its batch, the fifth of the next.
		for _, id := range []string{"k1", "k2", "k3", "free", "k4", "j1"} {
			var opts []bus.PublishOption
			if id != "free" {
				opts = append(opts, bus.WithKey(id[:1]))
			}
			all[id] = queue(w, b, id, opts...)
		}
		close(queued)
		require.Error(w, b.Flush(w.Context()))
		for id, code := range map[string]bus.Code{"k1": "", "k2": bus.CodePermission, "k3": bus.CodeUnavailable, "free": "", "k4": bus.CodeUnavailable, "j1": ""} {
			err := all[id].Err()
			require.Equal(w, code, bus.CodeOf(err), "%s: %v", id, err)
			if code == bus.CodeUnavailable {
				require.ErrorIs(w, err, bus.ErrOutOfOrder)
				require.ErrorContains(w, err, "publish user.created: not sent, because of event k2: an earlier event of its key was not stored")
			}
		}
		// Now the publisher knows: again, in order.
		tr.set(nil)
		for _, id := range []string{"k2", "k3", "k4"} {
			queue(w, b, id, bus.WithKey("k"))
		}
		require.NoError(w, b.Flush(w.Context()))
		require.Equal(w, []string{"k1", "free", "j1", "k2", "k3", "k4"}, stored(w, 6))
	})
}

// What is queued when a failure can be seen is its publisher's decision, also where
// it goes with events that are held back.
func TestPublishAsyncGoesOnAfterAFailureOfItsKey(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchSize: 2, BatchTimeout: time.Hour})
		keep(w)
		queued := make(chan struct{})
		tr.set(func(context.Context, []string) error { <-queued; return refused{"k1"} })
		first := queue(w, b, "k1", bus.WithKey("k"))
		queue(w, b, "free")
		world.Settle(time.Second) // they are on their way
		second := queue(w, b, "k2", bus.WithKey("k"))
		close(queued)
		require.Error(w, first.Wait(w.Context()))
		third := queue(w, b, "k3", bus.WithKey("k"))
		require.ErrorIs(w, second.Wait(w.Context()), bus.ErrOutOfOrder)
		require.NoError(w, third.Wait(w.Context()))
		require.Equal(w, []string{"k1 free", "k3"}, tr.batches())
	})
}

func TestPublishAsyncBelongsToItsHandler(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		heard := world.NewRecord[bus.Meta]()
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ *world.UserDeleted) error {
			m, _ := bus.MetaFrom(ctx)
			heard.Add(m)
			return nil
		})
		require.NoError(w, err)
		first := world.NewRecord[bus.Meta]()
		_, err = bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			first.Add(m)
			_, err := bus.PublishAsync(ctx, b, world.UserDeleted{ID: "a"}, bus.WithID(bus.DerivedID(ctx, "gone")))
			return err
		})
		require.NoError(w, err)
		s, err := b.Session(w.Context(), "job")
		require.NoError(w, err)
		_, err = bus.PublishAsync(w.Context(), s, world.UserCreated{})
		require.NoError(w, err)
		m, cause := heard.Wait(w, 1)[0], first.All()[0]
		require.Equal(w, "job", cause.Session)
		require.Equal(w, []string{"job", cause.ID, cause.CorrelationID}, []string{m.Session, m.CausationID, m.CorrelationID})
		require.NoError(w, s.Close(w.Context()))
	})
}

// A session hears its own last events, also those that are queued while it closes.
func TestSessionHearsWhatIsQueuedInIt(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{BatchTimeout: time.Hour})
		heard := world.NewRecord[world.UserID]()
		require.NoError(w, bus.InSession(w.Context(), b, "job", func(ctx context.Context, s *bus.Session) error {
			_, err := bus.Subscribe(ctx, s, func(ctx context.Context, e world.UserCreated) error {
				heard.Add(e.ID)
				if e.Note == "" {
					_, err := bus.PublishAsync(ctx, s, world.UserCreated{ID: "after-" + e.ID, Note: "last"})
					return err
				}
				return nil
			})
			require.NoError(w, err)
			for i := range 150 {
				_, err := bus.PublishAsync(ctx, s, world.UserCreated{ID: world.UserID(fmt.Sprint(i))})
				require.NoError(w, err)
			}
			return nil
		}))
		require.Len(w, heard.All(), 300)
	})
}

// What was queued in a session is stored before the session ends.
func TestSessionCloseWaitsForTheQueue(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b := w.BusOn(tr, bus.Config{BatchTimeout: time.Hour})
		var last *bus.Pending
		require.NoError(w, bus.InSession(w.Context(), b, "job", func(ctx context.Context, s *bus.Session) error {
			for i := range 150 {
				p, err := bus.PublishAsync(ctx, s, world.UserCreated{ID: world.UserID(fmt.Sprint(i))})
				require.NoError(w, err)
				last = p
			}
			return nil
		}))
		require.False(w, pending(last))
		require.NoError(w, last.Err())

		// Others' events do not hurry for it.
		p := queue(w, b, "other")
		require.NoError(w, bus.InSession(w.Context(), b, "job", func(context.Context, *bus.Session) error { return nil }))
		require.True(w, pending(p))
	})
}

func TestObserversSeeAQueuedEventWhenItHasItsResult(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := tap(w.Open())
		b, told := w.Observed(tr, bus.Config{BatchTimeout: 3 * time.Second, PublishFilter: bus.Filter{
			Name: "no secrets", Value: true,
			Pass: func(m *bus.Message) bool { e, ok := m.Value.(world.UserCreated); return !ok || e.Note != "secret" },
		}})
		tr.refuse("b")
		queue(w, b, "a")
		queue(w, b, "b")
		world.Settle(time.Second)
		require.Empty(w, told.All())
		told.Wait(w, 2)
		all := told.All()
		require.Equal(w, []string{"sent user.created / 0 ran 3s", "sent user.created / 0 ran 3s permission"}, world.Steps(all))
		require.Equal(w, "b", all[1].Meta().ID)
		require.Equal(w, world.UserCreated{ID: "a"}, all[0].Value())
		_, err := bus.PublishAsync(w.Context(), b, world.UserDeleted{})
		require.Error(w, err)
		require.Equal(w, "sent user.deleted / 0 invalid", world.Steps(told.Wait(w, 3))[2])
		p, err := bus.PublishAsync(w.Context(), b, world.UserCreated{Note: "secret"})
		require.NoError(w, err)
		require.False(w, pending(p))
		require.NoError(w, p.Err())
		require.Equal(w, "filtered user.created / 0", world.Steps(told.Wait(w, 4))[3])
		world.Settle(time.Minute)
		require.Len(w, told.All(), 4)
	})
}

func TestPublishAsyncSettingsThatBreakTheirRules(t *testing.T) {
	_, err := bus.New(memory.New(memory.Config{}), bus.Config{QueueSize: -1, BatchSize: -2, BatchBytes: -3, BatchTimeout: -time.Second})
	require.Equal(t, bus.CodeInvalid, bus.CodeOf(err))
	for _, text := range []string{
		"Config.QueueSize: -1 is negative; 0 is the default", "Config.BatchSize: -2 is negative",
		"Config.BatchBytes: -3 is negative", "Config.BatchTimeout: -1s is negative",
	} {
		require.ErrorContains(t, err, text)
	}
}
