package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

// Whatever an event still waits for when a listener closes, the listener does not
// run after that.
func TestNothingRunsAfterItsListenerHasClosed(t *testing.T) {
	for what, c := range map[string]struct {
		first func(context.Context, world.UserCreated) error // of another listener
		prior []bus.SubscribeOption                          // how that one is dispatched
		runs  int                                            // of the one that closes
		fails bool
		opts  []bus.SubscribeOption
	}{
		"a listener of higher priority": {
			first: func(context.Context, world.UserCreated) error { time.Sleep(10 * time.Second); return nil },
			prior: []bus.SubscribeOption{bus.WithPriority(100)},
		},
		"a retry": {
			first: func(context.Context, world.UserCreated) error { return nil },
			runs:  3, fails: true,
		},
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(bus.Config{})
				_, err := bus.Subscribe(w.Context(), b, c.first, append(c.prior, bus.WithName("stays"))...)
				require.NoError(w, err)
				got := world.NewRecord[int]()
				listen := func(b *bus.Bus, fails bool) *bus.Subscription {
					sub, err := bus.Subscribe(w.Context(), b, attempts(got, func(int) error {
						if fails {
							return bus.RetryAfter(20*time.Second, world.ErrOops)
						}
						return nil
					}), append(c.opts, bus.WithName("closes"))...)
					require.NoError(w, err)
					return sub
				}
				sub := listen(b, c.fails)
				for range 3 {
					require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
				}
				world.Settle(time.Second)
				require.NoError(w, sub.Close(w.Context()))
				require.Len(w, got.All(), c.runs)
				world.Settle(25 * time.Second)
				require.Len(w, got.All(), c.runs, "closed")

				// What it did not handle goes to where it is handled.
				require.NoError(w, b.Close(w.Context()))
				listen(w.Bus(bus.Config{}), false)
				world.Settle(5 * time.Minute)
				want := []int{1, 1, 1}
				if c.fails {
					want = append(want, 2, 2, 2)
				}
				require.ElementsMatch(w, want, got.All())
			})
		})
	}
}

// What waits for its turn with a listener that closes does not get it, and is
// passed on while what runs is still waited for.
func TestEventsThatWaitForAListenerThatCloses(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CloseTimeout: time.Hour})
		wide, narrow, other := world.NewRecord[int](), world.NewRecord[int](), world.NewRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(wide, succeed), bus.WithName("wide"))
		require.NoError(w, err)
		sub, err := bus.Subscribe(w.Context(), b, attempts(narrow, func(int) error { time.Sleep(10 * time.Minute); return nil }),
			bus.WithName("narrow"), bus.WithConcurrency(1))
		require.NoError(w, err)
		for range 5 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		wide.Wait(w, 5)
		began := time.Now()
		closed := make(chan error, 1)
		go func() { closed <- sub.Close(w.Context()) }()
		world.Settle(time.Second)
		_, err = bus.Subscribe(w.Context(), b, attempts(other, succeed), bus.WithName("narrow"))
		require.NoError(w, err, "the name is free")
		other.Wait(w, 4)
		require.Less(w, time.Since(began), time.Minute)
		require.NoError(w, <-closed)
		require.LessOrEqual(w, time.Since(began), 10*time.Minute, "it waits for what runs only")
		world.Settle(5 * time.Minute)
		require.Equal(w, []int{1, 1, 1, 1}, other.All())
		require.Len(w, wide.All(), 5, "and only there")
		require.Len(w, narrow.All(), 1)
	})
}

func TestSubscriptionClosedByManyAtOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{CloseTimeout: time.Minute})
		for round := range 30 {
			var opts []bus.SubscribeOption
			if round%2 == 1 {
				opts = append(opts, bus.WithPrivate())
			}
			started := world.NewRecord[int]()
			sub, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
				started.Add(1)
				time.Sleep(time.Second)
				return nil
			}, append(opts, bus.WithConcurrency(5000))...)
			require.NoError(w, err)
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
			started.Wait(w, 1)
			began := time.Now()
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					if err := sub.Close(w.Context()); err != nil {
						w.Error(err)
					}
				})
			}
			wg.Wait()
			require.LessOrEqual(w, time.Since(began), time.Second)
		}
	})
}

func TestSubscriptionClosedWithoutTime(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ended, cancel := context.WithCancel(w.Context())
		cancel()
		release := make(chan struct{})
		defer close(release)
		for _, opts := range [][]bus.SubscribeOption{{bus.WithGroup("g")}, {bus.WithPrivate()}} {
			got := world.NewRecord[int]()
			listen := func() *bus.Subscription {
				sub, err := bus.Subscribe(w.Context(), b, attempts(got, func(int) error { <-release; return nil }), opts...)
				require.NoError(w, err)
				return sub
			}
			require.NoError(w, listen().Close(ended), "nothing runs")
			sub := listen()
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
			got.Wait(w, 1)
			err := sub.Close(ended)
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
			require.ErrorContains(w, err, `"default"`)
		}
	})
}

// A handler that outlasts the Close of its subscription keeps its event.
func TestHandlerThatOutlastsItsSubscription(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{AckWait: 10 * time.Second, CloseTimeout: time.Hour})
		mine, others := world.NewRecord[error](), world.NewRecord[int]()
		sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e world.UserCreated) error {
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
			}
			mine.Add(context.Cause(ctx))
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Second)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(sub.Close(ctx)))
		_, err = bus.Subscribe(w.Context(), w.Bus(bus.Config{}), attempts(others, succeed))
		require.NoError(w, err)
		world.Settle(30 * time.Second)
		require.Empty(w, others.All(), "it is extended")
		require.NoError(w, sub.Close(w.Context()), "and waited for again")
		require.Equal(w, []error{nil}, mine.All())
		world.Settle(5 * time.Minute)
		require.Empty(w, others.All(), "and settled")
	})
}

// The bus knows what runs for subscriptions that were closed before it.
func TestCloseAfterItsSubscriptions(t *testing.T) {
	for _, stubborn := range []bool{false, true} {
		for what, opt := range map[string]bus.SubscribeOption{"group": bus.WithGroup("g"), "private": bus.WithPrivate()} {
			for _, last := range []bool{true, false} {
				t.Run(fmt.Sprintf("stubborn %v, %s, last listener %v", stubborn, what, last), func(t *testing.T) {
					world.Everywhere(t, func(w *world.World) {
						tr := world.NewFaulty(w.Open())
						b := w.BusOn(tr, bus.Config{CloseTimeout: 10 * time.Second, AckWait: 10 * time.Second})
						causes, started := world.NewRecord[error](), make(chan struct{})
						sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
							close(started)
							select {
							case <-time.After(5 * time.Second):
							case <-ctx.Done():
							}
							if stubborn {
								time.Sleep(time.Minute)
							}
							causes.Add(context.Cause(ctx))
							return nil
						}, opt, bus.WithName("a"))
						require.NoError(w, err)
						if !last {
							_, err = bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return nil }, opt, bus.WithName("b"))
							require.NoError(w, err)
						}
						require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
						<-started
						ctx, cancel := context.WithTimeout(w.Context(), time.Second)
						defer cancel()
						require.Error(w, sub.Close(ctx))
						err = b.Close(w.Context())
						if stubborn {
							require.ErrorContains(w, err, "user.created/")
							require.ErrorContains(w, err, "/a")
							extended := tr.Count("extend")
							world.Settle(2 * time.Minute)
							require.Equal(w, extended, tr.Count("extend"), "nothing goes on for it")
							return
						}
						require.NoError(w, err)
						require.Equal(w, []error{nil}, causes.All(), "with a live context")
					})
				})
			}
		}
	}
}

// The transport opens a group only after Close has given up on it.
func TestCloseGivesUpOnWhatIsBeingOpened(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, bus.Config{})
		tr.Set(func(_ context.Context, op, _ string) error {
			if op == "subscribe" {
				time.Sleep(3 * time.Second)
			}
			return nil
		})
		registered := world.NewRecord[error]()
		go func() {
			_, err := bus.Subscribe(context.Background(), b, func(context.Context, world.UserCreated) error { return nil })
			registered.Add(err)
		}()
		world.Settle(time.Second)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_ = b.Close(ctx)
		require.ErrorIs(w, registered.Wait(w, 1)[0], bus.ErrClosed)
	})
}
