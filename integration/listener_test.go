package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// Whatever an event still waits for when a listener closes, the listener does not
// run after that.
func TestNothingRunsAfterItsListenerHasClosed(t *testing.T) {
	for what, c := range map[string]struct {
		first func(context.Context, userCreated) error // of another listener
		prior []bus.SubscribeOption                    // how that one is dispatched
		runs  int                                      // of the one that closes
		fails bool
		opts  []bus.SubscribeOption
	}{
		"a listener of higher priority": {
			first: func(context.Context, userCreated) error { time.Sleep(10 * time.Second); return nil },
			prior: []bus.SubscribeOption{bus.WithPriority(100)},
		},
		"a retry": {
			first: func(context.Context, userCreated) error { return nil },
			runs:  3, fails: true,
		},
	} {
		t.Run(what, func(t *testing.T) {
			everywhere(t, func(w *world) {
				b := w.bus(bus.Config{})
				_, err := bus.Subscribe(w.Context(), b, c.first, append(c.prior, bus.WithName("stays"))...)
				require.NoError(w, err)
				got := newRecord[int]()
				listen := func(b *bus.Bus, fails bool) *bus.Subscription {
					sub, err := bus.Subscribe(w.Context(), b, attempts(got, func(int) error {
						if fails {
							return bus.RetryAfter(20*time.Second, errOops)
						}
						return nil
					}), append(c.opts, bus.WithName("closes"))...)
					require.NoError(w, err)
					return sub
				}
				sub := listen(b, c.fails)
				for range 3 {
					require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
				}
				settle(time.Second)
				require.NoError(w, sub.Close(w.Context()))
				require.Len(w, got.all(), c.runs)
				settle(25 * time.Second)
				require.Len(w, got.all(), c.runs, "closed")

				// What it did not handle goes to where it is handled.
				require.NoError(w, b.Close(w.Context()))
				listen(w.bus(bus.Config{}), false)
				settle(5 * time.Minute)
				want := []int{1, 1, 1}
				if c.fails {
					want = append(want, 2, 2, 2)
				}
				require.ElementsMatch(w, want, got.all())
			})
		})
	}
}

// What waits for its turn with a listener that closes does not get it, and is
// passed on while what runs is still waited for.
func TestEventsThatWaitForAListenerThatCloses(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{CloseTimeout: time.Hour})
		wide, narrow, other := newRecord[int](), newRecord[int](), newRecord[int]()
		_, err := bus.Subscribe(w.Context(), b, attempts(wide, succeed), bus.WithName("wide"))
		require.NoError(w, err)
		sub, err := bus.Subscribe(w.Context(), b, attempts(narrow, func(int) error { time.Sleep(10 * time.Minute); return nil }),
			bus.WithName("narrow"), bus.WithConcurrency(1))
		require.NoError(w, err)
		for range 5 {
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		}
		wide.wait(w, 5)
		began := time.Now()
		closed := make(chan error, 1)
		go func() { closed <- sub.Close(w.Context()) }()
		settle(time.Second)
		_, err = bus.Subscribe(w.Context(), b, attempts(other, succeed), bus.WithName("narrow"))
		require.NoError(w, err, "the name is free")
		other.wait(w, 4)
		require.Less(w, time.Since(began), time.Minute)
		require.NoError(w, <-closed)
		require.LessOrEqual(w, time.Since(began), 10*time.Minute, "it waits for what runs only")
		settle(5 * time.Minute)
		require.Equal(w, []int{1, 1, 1, 1}, other.all())
		require.Len(w, wide.all(), 5, "and only there")
		require.Len(w, narrow.all(), 1)
	})
}

func TestSubscriptionClosedByManyAtOnce(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{CloseTimeout: time.Minute})
		for round := range 30 {
			var opts []bus.SubscribeOption
			if round%2 == 1 {
				opts = append(opts, bus.WithPrivate())
			}
			started := newRecord[int]()
			sub, err := bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error {
				started.add(1)
				time.Sleep(time.Second)
				return nil
			}, append(opts, bus.WithConcurrency(5000))...)
			require.NoError(w, err)
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
			started.wait(w, 1)
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
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{})
		ended, cancel := context.WithCancel(w.Context())
		cancel()
		release := make(chan struct{})
		defer close(release)
		for _, opts := range [][]bus.SubscribeOption{{bus.WithGroup("g")}, {bus.WithPrivate()}} {
			got := newRecord[int]()
			listen := func() *bus.Subscription {
				sub, err := bus.Subscribe(w.Context(), b, attempts(got, func(int) error { <-release; return nil }), opts...)
				require.NoError(w, err)
				return sub
			}
			require.NoError(w, listen().Close(ended), "nothing runs")
			sub := listen()
			require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
			got.wait(w, 1)
			err := sub.Close(ended)
			require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
			require.ErrorContains(w, err, `"default"`)
		}
	})
}

// A handler that outlasts the Close of its subscription keeps its event.
func TestHandlerThatOutlastsItsSubscription(t *testing.T) {
	everywhere(t, func(w *world) {
		b := w.bus(bus.Config{AckWait: 10 * time.Second, CloseTimeout: time.Hour})
		mine, others := newRecord[error](), newRecord[int]()
		sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, e userCreated) error {
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
			}
			mine.add(context.Cause(ctx))
			return nil
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
		settle(time.Second)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(sub.Close(ctx)))
		_, err = bus.Subscribe(w.Context(), w.bus(bus.Config{}), attempts(others, succeed))
		require.NoError(w, err)
		settle(30 * time.Second)
		require.Empty(w, others.all(), "it is extended")
		require.NoError(w, sub.Close(w.Context()), "and waited for again")
		require.Equal(w, []error{nil}, mine.all())
		settle(5 * time.Minute)
		require.Empty(w, others.all(), "and settled")
	})
}

// The bus knows what runs for subscriptions that were closed before it.
func TestCloseAfterItsSubscriptions(t *testing.T) {
	for _, stubborn := range []bool{false, true} {
		for what, opt := range map[string]bus.SubscribeOption{"group": bus.WithGroup("g"), "private": bus.WithPrivate()} {
			for _, last := range []bool{true, false} {
				t.Run(fmt.Sprintf("stubborn %v, %s, last listener %v", stubborn, what, last), func(t *testing.T) {
					everywhere(t, func(w *world) {
						tr := newFaulty(w.open())
						b := w.busOn(tr, bus.Config{CloseTimeout: 10 * time.Second, AckWait: 10 * time.Second})
						causes, started := newRecord[error](), make(chan struct{})
						sub, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ userCreated) error {
							close(started)
							select {
							case <-time.After(5 * time.Second):
							case <-ctx.Done():
							}
							if stubborn {
								time.Sleep(time.Minute)
							}
							causes.add(context.Cause(ctx))
							return nil
						}, opt, bus.WithName("a"))
						require.NoError(w, err)
						if !last {
							_, err = bus.Subscribe(w.Context(), b, func(context.Context, userCreated) error { return nil }, opt, bus.WithName("b"))
							require.NoError(w, err)
						}
						require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
						<-started
						ctx, cancel := context.WithTimeout(w.Context(), time.Second)
						defer cancel()
						require.Error(w, sub.Close(ctx))
						err = b.Close(w.Context())
						if stubborn {
							require.ErrorContains(w, err, "user.created/")
							require.ErrorContains(w, err, "/a")
							extended := tr.count("extend")
							settle(2 * time.Minute)
							require.Equal(w, extended, tr.count("extend"), "nothing goes on for it")
							return
						}
						require.NoError(w, err)
						require.Equal(w, []error{nil}, causes.all(), "with a live context")
					})
				})
			}
		}
	}
}

// The transport opens a group only after Close has given up on it.
func TestCloseGivesUpOnWhatIsBeingOpened(t *testing.T) {
	everywhere(t, func(w *world) {
		tr := newFaulty(w.open())
		b := w.busOn(tr, bus.Config{})
		tr.set(func(_ context.Context, op, _ string) error {
			if op == "subscribe" {
				time.Sleep(3 * time.Second)
			}
			return nil
		})
		registered := newRecord[error]()
		go func() {
			_, err := bus.Subscribe(context.Background(), b, func(context.Context, userCreated) error { return nil })
			registered.add(err)
		}()
		settle(time.Second)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		_ = b.Close(ctx)
		require.ErrorIs(w, registered.wait(w, 1)[0], bus.ErrClosed)
	})
}
