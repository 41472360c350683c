package nats

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

// catchUp starts a CatchUp and returns where it ends.
func (l *liveTest) catchUp(ctx context.Context, left int) <-chan error {
	done, r := make(chan error, 1), l.r
	go func() { done <- r.CatchUp(ctx, left) }()
	return done
}

// waits checks that a CatchUp waits, and leaves it no chance to be about to end.
func (l *liveTest) waits(done <-chan error) {
	l.t.Helper()
	synctest.Wait()
	select {
	case err := <-done:
		require.Fail(l.t, "it did not wait", "it returned %v", err)
	default:
	}
}

// bothReaders runs f for a reader of one session, whose events form a chain, and
// for one of all sessions.
func bothReaders(t *testing.T, f func(t *testing.T, l *liveTest, session string)) {
	t.Helper()
	for _, session := range []string{"s/1", ""} {
		inLiveBubble(t, transport.Subscription{Session: session}, func(t *testing.T, l *liveTest) { f(t, l, session) })
	}
}

// Events that were lost without a sign are read at once, not after a silence.
func TestCatchUpReadsWhatWasLost(t *testing.T) {
	bothReaders(t, func(t *testing.T, l *liveTest, session string) {
		start := time.Now()
		l.silently(session, 3)
		done := l.catchUp(t.Context(), 0)
		l.waits(done)
		require.Equal(t, []int{0, 1}, l.bodies(2))
		l.waits(done)
		require.Equal(t, []int{2}, l.bodies(1))
		require.NoError(t, <-done)

		l.publish(session, 2)
		l.silently(session, 2)
		done = l.catchUp(t.Context(), 1)
		require.Equal(t, []int{3, 4, 5}, l.bodies(3))
		l.waits(done)
		last := l.next()
		require.NoError(t, <-done)
		require.Zero(t, time.Since(start))
		require.NoError(t, last.Ack(t.Context()))
		l.all(l.sent)
	})
}

// A reader of all sessions learns of a loss in one of them while it hears the
// others.
func TestCatchUpReadsWhatOneSessionLost(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		start := time.Now()
		l.publish("a", 1)
		l.silently("a", 2) // 1 and 2
		l.publish("b", 3)  // 3 to 5
		require.Equal(t, []int{0, 3, 4, 5}, l.bodies(4))
		done := l.catchUp(t.Context(), 0)
		require.Equal(t, []int{1, 2}, l.bodies(2))
		require.NoError(t, <-done)
		require.Zero(t, time.Since(start))
		l.publish("a", 1)
		l.publish("b", 1)
		l.all(6)
	})
}

// It does not rely on a count of events either while others are stored.
func TestCatchUpReadsWhatOneSessionLostAmongMany(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		ctx, stop := context.WithCancel(t.Context())
		lost := make(map[string]bool) // the events that the reader has to be given
		var mu sync.Mutex
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				d, err := l.r.Next(ctx)
				if err != nil {
					return
				}
				mu.Lock()
				delete(lost, d.Message().ID)
				mu.Unlock()
				if err := d.Ack(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}()
		for round := range 20 {
			l.publish("b", 1)
			l.republish(false)
			m := &transport.Message{To: transport.Address{Session: "a", Name: "a.done"}, ID: strconv.Itoa(round), Body: []byte("lost")}
			mu.Lock()
			lost[m.ID] = true
			mu.Unlock()
			require.NoError(t, l.publisher.Publish(ctx, m))
			l.republish(true)
			busy, quiet := context.WithCancel(ctx)
			silent := make(chan struct{})
			go func() {
				defer close(silent)
				for busy.Err() == nil {
					m := &transport.Message{To: transport.Address{Session: "b", Name: "a.done"}, Body: []byte("x")}
					if err := l.publisher.Publish(ctx, m); err != nil {
						t.Error(err)
					}
				}
			}()
			require.NoError(t, l.r.CatchUp(ctx, 0))
			mu.Lock()
			require.Empty(t, lost, "round %d", round)
			mu.Unlock()
			quiet()
			<-silent
		}
		stop()
		<-stopped
	})
}

// While the server is away it waits, or ends with ctx; when the server is back,
// what was published meanwhile comes first.
func TestCatchUpBehindACutCable(t *testing.T) {
	bothReaders(t, func(t *testing.T, l *liveTest, session string) {
		l.publish(session, 2)
		l.bodies(2)
		l.cable.Cut()
		l.publish(session, 200)
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := l.r.CatchUp(short, 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, transport.ErrUnavailable)

		done := l.catchUp(t.Context(), 0)
		time.Sleep(time.Minute)
		l.waits(done)
		l.cable.Mend()
		for want := 2; want < l.sent; want++ {
			require.Equal(t, want, l.bodies(1)[0])
		}
		require.NoError(t, <-done)
		l.quiet()

		l.cable.Cut()
		done = l.catchUp(t.Context(), 0)
		time.Sleep(time.Second)
		require.NoError(t, l.r.Close(t.Context()))
		require.ErrorIs(t, <-done, transport.ErrClosed)
		l.cable.Mend()
	})
}

// The same when the client gives up its connection, and with it the subscription.
func TestCatchUpOnAnotherConnection(t *testing.T) {
	bothReaders(t, func(t *testing.T, l *liveTest, session string) {
		l.publish(session, 1)
		l.reader.link.conn().Close()
		l.publish(session, 5)
		done := l.catchUp(t.Context(), 0)
		for want := range l.sent {
			require.Equal(t, want, l.bodies(1)[0])
		}
		require.NoError(t, <-done)
		l.publish(session, 1)
		require.Equal(t, []int{6}, l.bodies(1))
		require.NoError(t, l.r.CatchUp(t.Context(), 0))
	})
}

// Behind a consumer that is too slow, so that the client drops what it hears.
func TestCatchUpWithASlowConsumer(t *testing.T) {
	inLiveBubble(t, transport.Subscription{Session: "s", Prefetch: 1}, func(t *testing.T, l *liveTest) {
		ms := make([]*transport.Message, livePendingMsgs+500)
		for i := range ms {
			ms[i] = &transport.Message{To: transport.Address{Session: "s", Name: "a.done"}, Body: strconv.AppendInt(nil, int64(i), 10)}
		}
		require.NoError(t, l.publisher.Publish(t.Context(), ms...))
		l.sent = len(ms)
		synctest.Wait()
		require.NotZero(t, l.r.dropped())
		done := l.catchUp(t.Context(), 0)
		synctest.Wait()
		from := l.sent
		l.publish("s", 10) // later ones, which it does not wait for
		for want := range from {
			if want%1000 == 0 || want == from-1 {
				l.waits(done)
			}
			require.Equal(t, want, l.bodies(1)[0])
		}
		require.NoError(t, <-done)
		l.all(from)
	})
}

// A stream that was made anew counts from 1 again: its events are not taken for
// those that were handled, nor what waits to come again for them.
func TestCatchUpWhenTheStreamIsMadeAnew(t *testing.T) {
	bothReaders(t, func(t *testing.T, l *liveTest, session string) {
		ctx := t.Context()
		l.publish(session, 10)
		l.bodies(8)
		held, again := l.next(), l.next()
		require.NoError(t, again.Nak(ctx, time.Minute))
		before := l.catchUp(ctx, 0)
		l.waits(before)
		require.NoError(t, l.publisher.link.jetStream().DeleteStream(ctx, l.publisher.names.events()))
		require.NoError(t, l.publisher.provision(ctx))
		l.publish(session, 3)
		done := l.catchUp(ctx, 0)
		require.Equal(t, []int{10, 11, 12}, l.bodies(3))
		l.waits(done)
		require.NoError(t, held.Ack(ctx))
		l.waits(done)
		l.waits(before)
		start := time.Now()
		require.NoError(t, <-done)
		require.NoError(t, <-before)
		require.Equal(t, time.Minute, time.Since(start), "the event that waited is given up at its time")
		l.all(l.sent)
	})
}

// What was removed from the stream before it was settled is waited for as long as
// somebody can settle it.
func TestCatchUpWithRemovedEvents(t *testing.T) {
	bothReaders(t, func(t *testing.T, l *liveTest, session string) {
		ctx := t.Context()
		l.publish(session, 3)
		held, again, queued := l.next(), l.next(), 2
		require.NoError(t, again.Nak(ctx, time.Minute))
		st, err := l.publisher.link.jetStream().Stream(ctx, l.r.stream)
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, st.Purge(ctx))
		done := l.catchUp(ctx, 0)
		l.waits(done)
		require.NoError(t, held.Ack(ctx))
		l.waits(done)
		require.Equal(t, []int{queued}, l.bodies(1))
		l.waits(done)
		start := time.Now()
		require.NoError(t, <-done)
		require.Equal(t, time.Minute, time.Since(start))
		require.NoError(t, l.r.CatchUp(ctx, 0))
	})
}

// What is stored while the leader's answer is on its way does not count.
func TestCatchUpCountsNoLaterEvents(t *testing.T) {
	bothReaders(t, func(t *testing.T, l *liveTest, session string) {
		l.publish(session, 4)
		first := l.next()
		c := &liveCatchUp{seq: first.Sequence(), done: make(chan struct{})}
		second, third := l.next(), l.next()
		require.NoError(t, third.Nak(t.Context(), time.Hour))
		l.r.mu.Lock()
		l.r.asked = append(l.r.asked, c)
		l.r.mu.Unlock()
		l.r.wake()
		synctest.Wait()
		require.NoError(t, first.Ack(t.Context()))
		<-c.done
		require.NoError(t, second.Ack(t.Context()))
	})
}

// A closed or impatient CatchUp leaves nothing behind.
func TestCatchUpLeavesNothingBehind(t *testing.T) {
	bothReaders(t, func(t *testing.T, l *liveTest, session string) {
		l.publish(session, 3)
		l.cable.Cut()
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(1000))*time.Millisecond)
			require.Error(t, l.r.CatchUp(ctx, 0))
			cancel()
		}
		l.cable.Mend()
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(1000))*time.Millisecond)
			require.Error(t, l.r.CatchUp(ctx, 0))
			cancel()
		}
		empty := func() {
			synctest.Wait()
			l.r.mu.Lock()
			defer l.r.mu.Unlock()
			require.Empty(t, l.r.asked)
			require.Empty(t, l.r.begun)
			require.Empty(t, l.r.catching)
		}
		empty()
		l.bodies(3)
		require.NoError(t, l.r.CatchUp(t.Context(), 0))
		empty()
		require.Empty(t, l.r.unsettled)
	})
}

// Nor does one that gives up while what it waits for is being read.
func TestCatchUpGivesUpWhileEventsAreRead(t *testing.T) {
	inLiveBubble(t, transport.Subscription{Session: "s", Prefetch: 1}, func(t *testing.T, l *liveTest) {
		l.silently("s", 10)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, l.r.CatchUp(ctx, 0), context.DeadlineExceeded)
		held := l.next()
		l.bodies(9)
		synctest.Wait()
		require.Empty(t, l.r.begun)
		require.Empty(t, l.r.catching)
		require.NoError(t, held.Ack(t.Context()))
	})
}

// The reader of a session that has heard everything asks one question.
func TestCatchUpAsksOnce(t *testing.T) {
	inLiveBubble(t, transport.Subscription{Session: "s"}, func(t *testing.T, l *liveTest) {
		l.publish("s", 5)
		l.bodies(5)
		before := l.r.nc.Stats().OutMsgs
		require.NoError(t, l.r.CatchUp(t.Context(), 0))
		require.EqualValues(t, 1, l.r.nc.Stats().OutMsgs-before)
	})
}

// Whatever happens on the way, a CatchUp that returns says the truth.
func TestCatchUpUnderFaults(t *testing.T) {
	for seed := range uint64(10) {
		for _, session := range []string{"s", ""} {
			inLiveBubble(t, transport.Subscription{Session: session, Prefetch: 4}, func(t *testing.T, l *liveTest) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				var handled atomic.Int64
				stopped := make(chan struct{})
				ctx, stop := context.WithCancel(t.Context())
				go func() {
					defer close(stopped)
					slow := rand.New(rand.NewPCG(seed, 2))
					for {
						d, err := l.r.Next(ctx)
						if err != nil {
							return
						}
						if slow.IntN(20) == 0 {
							time.Sleep(time.Duration(slow.IntN(3000)) * time.Millisecond)
						}
						if slow.IntN(10) == 0 {
							err = d.Nak(t.Context(), time.Duration(slow.IntN(2000))*time.Millisecond)
						} else {
							handled.Add(1)
							err = d.Ack(t.Context())
						}
						if err != nil {
							t.Error(err)
						}
					}
				}()
				for range 40 {
					of := session
					if of == "" {
						of = "s" + strconv.Itoa(rnd.IntN(3))
					}
					switch n := 1 + rnd.IntN(10); rnd.IntN(6) {
					case 0:
						l.silently(of, n)
					case 1:
						l.cable.Blink()
						l.publish(of, n)
					case 2:
						l.cable.Cut()
						l.publish(of, n)
						time.AfterFunc(time.Duration(rnd.IntN(5))*time.Second, l.cable.Mend)
					case 3:
						l.reader.link.conn().Close()
						l.publish(of, n)
					default:
						l.publish(of, n)
					}
					patient, cancel := context.WithTimeout(t.Context(), time.Hour)
					require.NoError(t, l.r.CatchUp(patient, 0), "seed %d", seed)
					cancel()
					require.EqualValues(t, l.sent, handled.Load(), "seed %d", seed)
				}
				stop()
				<-stopped
			})
		}
	}
}
