package integration_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// short is a configuration whose leases are over soon.
var short = bus.Config{AckWait: 10 * time.Second}

// ranOnce checks that each event of a to n ran once, at its first attempt.
func ranOnce(w *world.World, n int, runs ...*world.Record[batchRun]) {
	w.Helper()
	var got, want []string
	for _, r := range runs {
		got = append(got, strings.Fields(strings.Join(batches(r.All()), " "))...)
	}
	slices.Sort(got)
	for i := range n {
		want = append(want, fmt.Sprint("e", i))
	}
	slices.Sort(want)
	require.Equal(w, want, got)
}

func publishN(w *world.World, s bus.Scope, n int) {
	for i := range n {
		publishIDs(w, s, fmt.Sprint("e", i))
	}
}

func TestBatchIsKeptAliveWhileItRuns(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		slow := func(ctx context.Context, _ []world.UserCreated) error { time.Sleep(2 * time.Minute); return ctx.Err() }
		one, two := w.Bus(short), w.Bus(short)
		publisher := w.Bus(bus.Config{Service: "publisher"})
		first := listenBatch(w, one, slow, bus.WithBatchSize(3))
		publishN(w, publisher, 3)
		first.Wait(w, 1)
		second := listenBatch(w, two, slow, bus.WithBatchSize(3))
		world.Settle(10 * time.Minute)
		require.Equal(w, []string{"e0 e1 e2"}, batches(first.All()))
		require.Empty(w, second.All())
	})
}

func TestBatchIsKeptAliveWhileItGathers(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(short)
		began := time.Now()
		runs := listenBatch(w, b, nil, bus.WithLinger(2*time.Minute))
		other := listenBatch(w, w.Bus(short), nil, bus.WithLinger(2*time.Minute), bus.WithGroup("other"))
		publishN(w, b, 3)
		world.Settle(119 * time.Second)
		require.Empty(w, runs.All())
		world.Settle(10 * time.Minute)
		require.Equal(w, []batchRun{{"e0 e1 e2", began.Add(2 * time.Minute)}}, runs.All())
		require.Len(w, other.All(), 1)
	})
}

// What waits behind a slow batch uses up no attempt, wherever it waits.
func TestSlowBatchHoldsBackTheNext(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(short)
		runs := listenBatch(w, b, func(context.Context, []world.UserCreated) error { time.Sleep(2 * time.Minute); return nil },
			bus.WithBatchSize(4))
		publishN(w, b, 9)
		world.Settle(20 * time.Minute)
		ranOnce(w, 9, runs)
		require.Equal(w, "e0 e1 e2 e3", runs.All()[0].ids)
	})
}

// unextended is a transport on which the lease of events with a Key is not extended.
type unextended struct{ transport.Transport }

func (t unextended) InProcess() bool {
	p, ok := t.Transport.(transport.InProcess)
	return ok && p.InProcess()
}

func (t unextended) Subscribe(ctx context.Context, s transport.Subscription) (transport.Source[transport.Delivery], error) {
	src, err := t.Transport.Subscribe(ctx, s)
	return unextendedSource{src}, err
}

type unextendedSource struct {
	transport.Source[transport.Delivery]
}

func (s unextendedSource) Next(ctx context.Context) (transport.Delivery, error) {
	d, err := s.Source.Next(ctx)
	if err == nil && d.Message().Key != "" && d.Deliveries() == 1 {
		d = unextendedDelivery{d}
	}
	return d, err
}

type unextendedDelivery struct{ transport.Delivery }

func (unextendedDelivery) Extend(context.Context) error { return transport.ErrUnavailable }

func TestBatchThatLosesOneLease(t *testing.T) {
	for name, ignores := range map[string]bool{"listening": false, "ignoring": true} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.BusOn(unextended{w.Open()}, short)
				causes := world.NewRecord[error]()
				runs := listenBatch(w, b, func(ctx context.Context, events []world.UserCreated) error {
					if m, _ := bus.MetaAt(ctx, 0); len(events) == 1 || m.Attempt > 1 || len(causes.All()) > 0 {
						return nil
					}
					<-ctx.Done()
					causes.Add(context.Cause(ctx))
					if ignores {
						return nil
					}
					return ctx.Err()
				}, bus.WithBatchSize(3))
				publishIDs(w, b, "a")
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "lost"}, bus.WithKey("k")))
				publishIDs(w, b, "b")
				world.Settle(5 * time.Minute)
				require.Equal(w, []error{bus.ErrLeaseLost}, causes.All())
				again := strings.Fields(strings.Join(batches(runs.All()[1:]), " "))
				slices.Sort(again)
				if ignores {
					require.Equal(w, []string{"lost#2"}, again, "the others are done")
				} else {
					require.Equal(w, []string{"a", "b", "lost#2"}, again, "the others go back without an attempt")
				}
			})
		})
	}
}

func TestBatchThatLosesItsLeases(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, short)
		causes := world.NewRecord[error]()
		runs := listenBatch(w, b, func(ctx context.Context, _ []world.UserCreated) error {
			if len(causes.All()) > 0 {
				return nil
			}
			<-ctx.Done()
			causes.Add(context.Cause(ctx))
			return ctx.Err()
		}, bus.WithBatchSize(3))
		tr.Set(world.Failing("extend", transport.ErrUnavailable))
		publishN(w, w.Bus(bus.Config{Service: "publisher"}), 3)
		world.Settle(9900 * time.Millisecond)
		require.Equal(w, []error{bus.ErrLeaseLost}, causes.All(), "before anybody else can have them")
		require.Zero(w, tr.Count("ack")+tr.Count("nak")+tr.Count("release")+tr.Count("term"), "nothing is said about them any more")
		tr.Set(nil)
		world.Settle(time.Minute)
		again := strings.Fields(strings.Join(batches(runs.All()[1:]), " "))
		slices.Sort(again)
		require.Equal(w, []string{"e0#2", "e1#2", "e2#2"}, again)
	})
}

func TestBatchThatRunsTooLong(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{MaxRun: time.Minute, AckWait: 10 * time.Second})
		causes := world.NewRecord[error]()
		runs := listenBatch(w, b, func(ctx context.Context, events []world.UserCreated) error {
			if m, _ := bus.MetaAt(ctx, 0); m.Attempt > 1 {
				return nil
			}
			<-ctx.Done()
			causes.Add(context.Cause(ctx))
			return ctx.Err()
		}, bus.WithLinger(50*time.Second), thrice)
		publishN(w, b, 2)
		world.Settle(50*time.Second + 59*time.Second)
		require.Empty(w, causes.All(), "gathering is not running")
		world.Settle(5 * time.Minute)
		require.Equal(w, []error{bus.ErrMaxRun}, causes.All())
		got := batches(runs.All())
		require.Len(w, got, 2, "and it counts as a failure")
		require.Equal(w, "e0 e1", got[0])
		require.ElementsMatch(w, []string{"e0#2", "e1#2"}, strings.Fields(got[1]), "due at the same time, in any order")
	})
}

func TestCloseHandsAnUnfinishedBatchBackAtOnce(t *testing.T) {
	for _, what := range []string{"bus", "subscription"} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(bus.Config{})
				never := world.NewRecord[int]()
				sub, err := bus.SubscribeBatch(w.Context(), b, func(context.Context, []world.UserCreated) error { never.Add(1); return nil },
					bus.WithLinger(time.Hour))
				require.NoError(w, err)
				publishN(w, w.Bus(bus.Config{Service: "publisher"}), 20)
				world.Settle(time.Minute)
				began := time.Now()
				if what == "bus" {
					require.NoError(w, b.Close(w.Context()))
				} else {
					require.NoError(w, sub.Close(w.Context()))
				}
				require.Less(w, time.Since(began), time.Second)
				runs := listenBatch(w, w.Bus(bus.Config{}), nil)
				world.Settle(time.Second)
				ranOnce(w, 20, runs)
				world.Settle(5 * time.Minute)
				ranOnce(w, 20, runs)
				require.Empty(w, never.All())
			})
		})
	}
}

// The event that did not fit into the batch before waits in the process, too.
func TestCloseHandsBackWhatWaitsForTheNextBatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		first := listenBatch(w, b, func(context.Context, []world.UserCreated) error { time.Sleep(5 * time.Second); return nil },
			bus.WithBatchBytes(200), bus.WithLinger(time.Hour), bus.WithBatchSize(2))
		publisher := w.Bus(bus.Config{Service: "publisher"})
		for i := range 3 {
			e := world.UserCreated{ID: world.UserID(fmt.Sprint("e", i)), Note: strings.Repeat("x", 150)}
			require.NoError(w, bus.Publish(w.Context(), publisher, e))
		}
		first.Wait(w, 1)
		world.Settle(time.Second)
		require.NoError(w, b.Close(w.Context()))
		second := listenBatch(w, w.Bus(bus.Config{}), nil)
		world.Settle(5 * time.Second)
		require.Len(w, first.All(), 1)
		ranOnce(w, 3, first, second)
	})
}

func TestCloseWaitsForARunningBatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		ended := world.NewRecord[error]()
		heard := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), w.Bus(bus.Config{Service: "other"}), func(_ context.Context, e *world.UserDeleted) error { heard.Add(e.ID); return nil })
		require.NoError(w, err)
		first := listenBatch(w, b, func(ctx context.Context, events []world.UserCreated) error {
			time.Sleep(5 * time.Second)
			ended.Add(bus.Publish(bus.ItemContext(ctx, 0), b, world.UserDeleted{ID: "from a finishing handler"}))
			return ctx.Err()
		}, bus.WithBatchSize(3))
		publishN(w, w.Bus(bus.Config{Service: "publisher"}), 8)
		first.Wait(w, 1)
		require.NoError(w, b.Close(w.Context()))
		require.Equal(w, []error{nil}, ended.All())
		require.Equal(w, []world.UserID{"from a finishing handler"}, heard.Wait(w, 1))
		require.Equal(w, []string{"e0 e1 e2"}, batches(first.All()))
		second := listenBatch(w, w.Bus(bus.Config{}), nil)
		world.Settle(5 * time.Minute)
		ranOnce(w, 8, first, second)
	})
}

func TestShutdownOfABatchConsumesNoAttempt(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		publishing := w.Bus(bus.Config{Service: "publisher"})
		for i := range 6 { // more than the policy's four attempts
			b := w.Bus(bus.Config{CloseTimeout: time.Second})
			runs := listenBatch(w, b, func(ctx context.Context, _ []world.UserCreated) error {
				<-ctx.Done()
				require.ErrorIs(w, context.Cause(ctx), bus.ErrStopped)
				return bus.ItemErrors{0: ctx.Err(), 1: bus.Permanent(ctx.Err())}
			}, bus.WithBatchSize(2), bus.WithLinger(time.Minute))
			if i == 0 {
				publishN(w, publishing, 2)
			}
			ids := strings.Fields(runs.Wait(w, 1)[0].ids)
			slices.Sort(ids)
			require.Equal(w, []string{"e0", "e1"}, ids)
			require.NoError(w, b.Close(w.Context()))
		}
		tr := w.Open()
		w.DeadLetters(tr, 0)
		require.NoError(w, tr.Close(w.Context()))
	})
}

func TestCloseNamesABatchHandlerThatIgnoresIt(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		release := make(chan struct{})
		runs := listenBatch(w, b, func(context.Context, []world.UserCreated) error { <-release; return nil }, bus.WithName("stubborn"))
		publishN(w, b, 2)
		runs.Wait(w, 1)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		require.ErrorContains(w, b.Close(ctx), "user.created/svc/stubborn")
		close(release)
		world.Settle(time.Minute)
	})
}

// A process ends with half a batch gathered, or in the middle of one.
func TestKilledProcessLosesNoPartOfItsBatch(t *testing.T) {
	for name, size := range map[string]int{"gathering": 100, "running": 2} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				tr := world.NewFaulty(w.Open())
				b := w.BusOn(tr, short)
				hang := make(chan struct{})
				dying := listenBatch(w, b, func(context.Context, []world.UserCreated) error { <-hang; return nil },
					bus.WithBatchSize(size), bus.WithLinger(time.Hour))
				publishN(w, w.Bus(bus.Config{Service: "publisher"}), 5)
				world.Settle(time.Second)
				require.Len(w, dying.All(), 4/size/2)
				tr.Kill()
				other := listenBatch(w, w.Bus(short), nil)
				world.Settle(5 * time.Minute)
				var got []string
				for _, id := range strings.Fields(strings.Join(batches(other.All()), " ")) {
					got = append(got, strings.TrimSuffix(id, "#2"))
				}
				slices.Sort(got)
				require.Equal(w, []string{"e0", "e1", "e2", "e3", "e4"}, got)
				close(hang)
				world.Settle(time.Minute)
			})
		})
	}
}

// Events whose process died with them again and again run alone, so that the one
// that kills it is the one that ends as a dead letter.
func TestSuspectsOfACrashRunAlone(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		src, err := tr.Subscribe(w.Context(), transport.Subscription{Name: "user.created", Group: "svc", AckWait: 30 * time.Second})
		require.NoError(w, err)
		publishN(w, b, 3)
		for i := range 4 { // the policy's attempts
			for range 3 {
				d, err := src.Next(w.Context())
				require.NoError(w, err)
				require.Equal(w, i+1, d.Deliveries())
			}
			world.Settle(31 * time.Second)
		}
		require.NoError(w, src.Close(w.Context()))
		runs := listenBatch(w, b, nil, bus.WithLinger(10*time.Second))
		world.Settle(time.Minute)
		require.ElementsMatch(w, []string{"e0#5", "e1#5", "e2#5"}, batches(runs.All()))
	})
}

// A handler, a filter or a Validate that ends its goroutine takes no worker away.
func TestBatchWhoseGoroutineEnds(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		var filtered atomic.Int64
		runs := listenBatch(w, b, func(ctx context.Context, _ []world.UserCreated) error {
			if m, _ := bus.MetaAt(ctx, 0); m.Attempt == 1 {
				runtime.Goexit()
			}
			return nil
		}, thrice, bus.WithBatchSize(3), bus.WithFilter(bus.Filter{Name: "exits", Pass: func(*bus.Message) bool {
			if filtered.Add(1) == 2 {
				runtime.Goexit()
			}
			return true
		}}))
		publishN(w, b, 3)
		world.Settle(time.Minute)
		var got []string
		for _, r := range runs.All() {
			got = append(got, strings.Fields(r.ids)...)
		}
		slices.Sort(got)
		require.Equal(w, []string{"e0", "e0#2", "e1", "e1#2", "e2", "e2#2"}, got)
	})
}

// A retry that waits for long waits in the broker, and joins a batch again.
func TestBatchRetriesThatWaitLong(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		runs := listenBatch(w, b, func(ctx context.Context, events []world.UserCreated) error {
			failed := bus.ItemErrors{}
			for i := range events {
				if m, _ := bus.MetaAt(ctx, i); m.Attempt == 1 {
					failed[i] = bus.RetryAfter(10*time.Minute, world.ErrOops)
				}
			}
			return failed
		}, bus.WithLinger(time.Second))
		publishN(w, b, 3)
		world.Settle(9 * time.Minute)
		require.Equal(w, []string{"e0 e1 e2"}, batches(runs.All()))
		world.Settle(2 * time.Minute)
		got := strings.Fields(strings.Join(batches(runs.All()[1:]), " "))
		slices.Sort(got)
		require.Equal(w, []string{"e0#2", "e1#2", "e2#2"}, got)
		require.Len(w, runs.All(), 2, "together again")
	})
}
