package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// of is one of a hundred event types: its arguments are the digits of its number.
type of[Ten, One digit] struct{ ID int }

type digit interface{ digit() byte }

type (
	d0 struct{}
	d1 struct{}
	d2 struct{}
	d3 struct{}
	d4 struct{}
	d5 struct{}
	d6 struct{}
	d7 struct{}
	d8 struct{}
	d9 struct{}
)

func (d0) digit() byte { return '0' }
func (d1) digit() byte { return '1' }
func (d2) digit() byte { return '2' }
func (d3) digit() byte { return '3' }
func (d4) digit() byte { return '4' }
func (d5) digit() byte { return '5' }
func (d6) digit() byte { return '6' }
func (d7) digit() byte { return '7' }
func (d8) digit() byte { return '8' }
func (d9) digit() byte { return '9' }

func (of[Ten, One]) MessageName() string {
	var ten Ten
	var one One
	return "load.type_" + string([]byte{ten.digit(), one.digit()})
}

// kind is what a test does with one of the types.
type kind struct {
	name    string
	listen  func(ctx context.Context, s bus.Scope, heard func(id int), opts ...bus.SubscribeOption) error
	publish func(ctx context.Context, s bus.Scope, id int) error
}

func newKind[Ten, One digit]() kind {
	type event = of[Ten, One]
	return kind{
		name: event{}.MessageName(),
		listen: func(ctx context.Context, s bus.Scope, heard func(int), opts ...bus.SubscribeOption) error {
			_, err := bus.Subscribe(ctx, s, func(_ context.Context, e event) error { heard(e.ID); return nil }, opts...)
			return err
		},
		publish: func(ctx context.Context, s bus.Scope, id int) error { return bus.Publish(ctx, s, event{ID: id}) },
	}
}

func tenKinds[Ten digit]() []kind {
	return []kind{
		newKind[Ten, d0](), newKind[Ten, d1](), newKind[Ten, d2](), newKind[Ten, d3](), newKind[Ten, d4](),
		newKind[Ten, d5](), newKind[Ten, d6](), newKind[Ten, d7](), newKind[Ten, d8](), newKind[Ten, d9](),
	}
}

func hundredKinds() (all []kind) {
	for _, ten := range [][]kind{
		tenKinds[d0](), tenKinds[d1](), tenKinds[d2](), tenKinds[d3](), tenKinds[d4](),
		tenKinds[d5](), tenKinds[d6](), tenKinds[d7](), tenKinds[d8](), tenKinds[d9](),
	} {
		all = append(all, ten...)
	}
	return all
}

// A hundred types in one service.
func TestHundredTypes(t *testing.T) {
	const each = 20
	c := newCluster(t)
	publisher, listener := c.bus("a"), c.bus("b")
	kinds := hundredKinds()
	var handled atomic.Int64
	began := time.Now()
	for _, k := range kinds {
		require.NoError(t, k.listen(t.Context(), listener, func(int) { handled.Add(1) }))
	}
	t.Logf("%d listeners in %v", len(kinds), time.Since(began).Round(time.Millisecond))
	began = time.Now()
	var wg sync.WaitGroup
	for _, k := range kinds {
		wg.Go(func() {
			for id := range each {
				if err := k.publish(t.Context(), publisher, id); err != nil {
					t.Errorf("%s: %v", k.name, err)
				}
			}
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool { return handled.Load() == int64(each*len(kinds)) }, time.Minute, time.Millisecond)
	took := time.Since(began)
	t.Logf("%d events of %d types published and handled in %v, %.0f a second", each*len(kinds), len(kinds), took.Round(time.Millisecond), float64(each*len(kinds))/took.Seconds())
}

// Fifty groups that listen to six types each: 300 consumers.
func TestFiftyGroups(t *testing.T) {
	const groups, types, each = 50, 6, 20
	c := newCluster(t)
	publisher := c.bus("a")
	kinds := hundredKinds()[:types]
	var handled atomic.Int64
	began := time.Now()
	for g := range groups {
		b := c.bus(fmt.Sprintf("group-%d", g))
		for _, k := range kinds {
			require.NoError(t, k.listen(t.Context(), b, func(int) { handled.Add(1) }))
		}
	}
	t.Logf("%d groups of %d types in %v: %v", groups, types, time.Since(began).Round(time.Millisecond), measure())
	began = time.Now()
	for id := range each {
		for _, k := range kinds {
			require.NoError(t, k.publish(t.Context(), publisher, id))
		}
	}
	const all = groups * types * each
	require.Eventually(t, func() bool { return handled.Load() == all }, time.Minute, time.Millisecond)
	took := time.Since(began)
	t.Logf("%d events handled %d times in %v, %.0f a second", types*each, all, took.Round(time.Millisecond), all/took.Seconds())
	require.EqualValues(t, all, handled.Load())
}

// A server that has no room for another consumer is an error at once, not a listener
// that hears nothing; those that are there go on.
func TestConsumerLimit(t *testing.T) {
	c := newCluster(t)
	b := c.bus("a") // makes the stream
	nc, err := natsgo.Connect(c.url)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	st, err := js.Stream(t.Context(), "JITNEY_EVT")
	require.NoError(t, err)
	cfg := st.CachedInfo().Config
	require.NoError(t, b.Close(t.Context()))
	require.NoError(t, js.DeleteStream(t.Context(), cfg.Name))
	cfg.MaxConsumers = 4
	_, err = js.CreateStream(t.Context(), cfg)
	require.NoError(t, err)

	b = c.bus("a")
	kinds := hundredKinds()
	var handled atomic.Int64
	for _, k := range kinds[:4] {
		require.NoError(t, k.listen(t.Context(), b, func(int) { handled.Add(1) }))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = kinds[4].listen(ctx, b, func(int) {})
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "at once")
	require.Equal(t, bus.CodeBacklog, bus.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "raise its max_consumers")
	t.Log(err)
	for _, k := range kinds[:4] {
		require.NoError(t, k.publish(t.Context(), b, 1))
	}
	require.Eventually(t, func() bool { return handled.Load() == 4 }, 30*time.Second, time.Millisecond)
}

// job is a command of a session.
type job struct {
	bus.Command[string]
	N int
}

func (job) MessageName() string { return "load.job" }

// A thousand sessions with a handler and a listener each.
func TestThousandSessions(t *testing.T) {
	const n = 1_000
	c := newCluster(t)
	owner, caller := c.bus("workers"), c.bus("callers")
	var handled atomic.Int64
	before := measure()
	began := time.Now()
	sessions := make([]*bus.Session, n)
	each := func(f func(i int) error) time.Duration {
		began := time.Now()
		var wg sync.WaitGroup
		for w := range 32 {
			wg.Go(func() {
				for i := w; i < n; i += 32 {
					if err := f(i); err != nil {
						t.Errorf("session %d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
		return time.Since(began).Round(time.Millisecond)
	}
	opened := each(func(i int) (err error) {
		id := fmt.Sprintf("session-%d", i)
		if sessions[i], err = owner.Session(t.Context(), id); err != nil {
			return err
		}
		if err := bus.Handle(t.Context(), sessions[i], func(_ context.Context, j job) (string, error) { return fmt.Sprint(id, " ", j.N), nil }); err != nil {
			return err
		}
		_, err = bus.Subscribe(t.Context(), sessions[i], func(context.Context, order) error { handled.Add(1); return nil })
		return err
	})
	held := measure()
	used := each(func(i int) error {
		id := fmt.Sprintf("session-%d", i)
		got, err := bus.Execute(bus.ContextWithSession(t.Context(), id), caller, job{N: i})
		if err != nil || got != fmt.Sprint(id, " ", i) {
			return fmt.Errorf("%q, %w", got, err)
		}
		return bus.Publish(bus.ContextWithSession(t.Context(), id), caller, newOrder(i))
	})
	require.Eventually(t, func() bool { return handled.Load() == n }, time.Minute, time.Millisecond)
	closed := each(func(i int) error { return sessions[i].Close(context.Background()) })
	clear(sessions)
	after := measure()
	t.Logf("%d sessions opened in %v, a command and an event each in %v, closed in %v; %v in all", n, opened, used, closed, time.Since(began).Round(time.Millisecond))
	t.Logf("held: %v before, %v with the sessions open, %v after", before, held, after)
	require.Less(t, after.goroutines, before.goroutines+50, "goroutines stay")
}
