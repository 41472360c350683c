package nats

import (
	"context"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// liveTest is a private reader behind a cable, and a publisher with one of its
// own.
type liveTest struct {
	t         *testing.T
	cable     *natstest.Cable
	reader    *Transport
	publisher *Transport
	r         *liveReader
	sent      int
}

func testOpen(t *testing.T, cfg Config) *Transport {
	t.Helper()
	tr, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close(context.Background())) })
	return tr
}

func inLiveBubble(t *testing.T, sub transport.Subscription, f func(*testing.T, *liveTest)) {
	t.Helper()
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		l := &liveTest{t: t, cable: natstest.NewCable(srv)}
		memory := jetstream.MemoryStorage
		l.publisher = testOpen(t, Config{Server: srv, Storage: memory})
		l.reader = testOpen(t, Config{Server: l.cable, Storage: memory})
		l.r = l.subscribe(sub)
		f(t, l)
	})
}

func (l *liveTest) subscribe(sub transport.Subscription) *liveReader {
	l.t.Helper()
	sub.Name = "a.done"
	src, err := l.reader.Subscribe(l.t.Context(), sub)
	require.NoError(l.t, err)
	return src.(*liveReader)
}

// publish stores n events of a session, whose bodies count all that were sent.
func (l *liveTest) publish(session string, n int) {
	l.t.Helper()
	for range n {
		m := &transport.Message{To: transport.Address{Session: session, Name: "a.done"}, Body: strconv.AppendInt(nil, int64(l.sent), 10)}
		require.NoError(l.t, l.publisher.Publish(l.t.Context(), m))
		l.sent++
	}
}

// silently stores n events that nobody hears of, as when two servers lose sight
// of each other.
func (l *liveTest) silently(session string, n int) {
	l.t.Helper()
	l.republish(false)
	l.publish(session, n)
	l.republish(true)
}

func (l *liveTest) republish(on bool) {
	l.t.Helper()
	cfg := l.publisher.eventStream()
	if !on {
		cfg.RePublish = nil
	}
	_, err := l.publisher.link.jetStream().UpdateStream(l.t.Context(), cfg)
	require.NoError(l.t, err)
}

func (l *liveTest) next() transport.Delivery {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Hour)
	defer cancel()
	d, err := l.r.Next(ctx)
	require.NoError(l.t, err)
	require.NoError(l.t, d.Message().Malformed)
	return d
}

// bodies returns the numbers of the next n events, which it acks.
func (l *liveTest) bodies(n int) []int {
	l.t.Helper()
	got := make([]int, n)
	for i := range got {
		d := l.next()
		got[i] = l.number(d)
		require.Equal(l.t, 1, d.Deliveries())
		require.NoError(l.t, d.Ack(l.t.Context()))
	}
	return got
}

func (l *liveTest) number(d transport.Delivery) int {
	l.t.Helper()
	n, err := strconv.Atoi(string(d.Message().Body))
	require.NoError(l.t, err)
	return n
}

// all reads every event that was sent and is not read yet, in order, and that no
// other comes.
func (l *liveTest) all(from int) {
	l.t.Helper()
	for want := from; want < l.sent; want++ {
		require.Equal(l.t, want, l.bodies(1)[0])
	}
	l.quiet()
}

func (l *liveTest) quiet() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*liveSilenceMost)
	defer cancel()
	d, err := l.r.Next(ctx)
	require.ErrorIs(l.t, err, context.DeadlineExceeded, "%v", d)
}

func TestLiveFillsAGap(t *testing.T) {
	for _, session := range []string{"", "s.1"} {
		inLiveBubble(t, transport.Subscription{Session: session}, func(t *testing.T, l *liveTest) {
			l.publish(session, 3)
			require.Equal(t, []int{0, 1, 2}, l.bodies(3))
			l.silently(session, 100)
			l.publish(session, 1)
			start := time.Now()
			l.bodies(100)
			require.Equal(t, 103, l.bodies(1)[0])
			require.Less(t, time.Since(start), liveSilence, "found by the sequence, not by asking")
			l.publish(session, 1)
			l.all(104)
		})
	}
}

func TestLiveFillsTheFirstGap(t *testing.T) {
	inLiveBubble(t, transport.Subscription{Session: "s"}, func(t *testing.T, l *liveTest) {
		l.silently("s", 2)
		l.publish("s", 1)
		l.all(0)
	})
}

// The gap of one session is found when its next event comes, however many of the
// others came meanwhile.
func TestLiveFillsAGapOfOneSession(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		l.publish("a", 1)
		l.publish("b", 1)
		l.silently("a", 2) // 2 and 3
		l.publish("b", 2)  // 4 and 5
		require.Equal(t, []int{0, 1, 4, 5}, l.bodies(4))
		l.silently("b", 1) // 6
		l.publish("a", 1)  // 7
		require.Equal(t, []int{2, 3, 6, 7}, l.bodies(4))
		l.publish("b", 1)
		l.all(8)
	})
}

func TestLiveAsksAfterSilence(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		l.publish("", 1)
		l.bodies(1)
		l.silently("", 3)
		start := time.Now()
		require.Equal(t, []int{1, 2, 3}, l.bodies(3))
		require.LessOrEqual(t, time.Since(start), liveSilence)
		time.Sleep(time.Hour) // by now it asks less often
		l.silently("", 1)
		start = time.Now()
		require.Equal(t, []int{4}, l.bodies(1))
		require.LessOrEqual(t, time.Since(start), liveSilenceMost)
		l.quiet()
	})
}

func TestLiveAfterReconnect(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		for round := range 3 {
			l.publish("", 10)
			l.cable.Cut()
			l.publish("", 200)
			time.Sleep(time.Duration(round) * time.Minute)
			l.cable.Mend()
			time.Sleep(2 * time.Second) // until it is connected
			start := time.Now()
			l.bodies(210)
			l.publish("new"+strconv.Itoa(round), 10)
			l.bodies(10)
			require.Zero(t, time.Since(start), "it did not have to wait")
			l.quiet()
		}
	})
}

// A connection that closes for good is replaced, and with it the subscription.
func TestLiveAfterAnotherConnection(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		l.publish("", 1)
		l.reader.link.conn().Close()
		l.publish("", 10)
		l.all(0)
		start := time.Now()
		l.publish("", 10)
		l.bodies(10)
		require.Zero(t, time.Since(start), "it listens again")
	})
}

// A reader that is too slow loses nothing and keeps little.
func TestLiveSlowReader(t *testing.T) {
	inLiveBubble(t, transport.Subscription{Prefetch: 1}, func(t *testing.T, l *liveTest) {
		ms := make([]*transport.Message, livePendingMsgs+2000)
		for i := range ms {
			ms[i] = &transport.Message{To: transport.Address{Name: "a.done"}, Body: strconv.AppendInt(nil, int64(i), 10)}
		}
		require.NoError(t, l.publisher.Publish(t.Context(), ms...))
		l.sent = len(ms)
		synctest.Wait()
		require.NotZero(t, l.r.dropped())
		from := l.sent
		for want := range from {
			require.Equal(t, want, l.bodies(1)[0])
			if want == 100 { // another session, whose events name none that was dropped
				l.publish("new", 5)
			}
		}
		l.all(from)
	})
}

// A stream that was made anew counts from 1 again.
func TestLiveAfterTheStreamIsMadeAnew(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		l.publish("", 10)
		l.all(0)
		require.NoError(t, l.publisher.link.jetStream().DeleteStream(t.Context(), l.publisher.names.events()))
		require.NoError(t, l.publisher.provision(t.Context()))
		from := l.sent
		l.publish("", 3)
		l.all(from)
	})
}

func TestLiveIgnoresForgeries(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		nc := l.publisher.link.conn()
		for _, h := range []nats.Header{
			nil,
			{hdrStream: {l.r.stream}},
			{hdrStream: {"OTHER"}, hdrSequence: {"5"}, hdrLastSequence: {"0"}},
			{hdrStream: {l.r.stream}, hdrSequence: {"x"}, hdrLastSequence: {"0"}},
		} {
			require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: "jitney.live._.a.done", Header: h, Data: []byte("forged")}))
		}
		// A publisher may write the server's headers; the server's own come last.
		_, err := l.publisher.link.jetStream().PublishMsg(t.Context(), &nats.Msg{
			Subject: "jitney.evt._.a.done", Data: []byte("0"),
			Header: nats.Header{hdrSequence: {"900"}, hdrLastSequence: {"800"}, hdrSubject: {"jitney.evt.x.b"}, hdrStream: {"X"}},
		})
		require.NoError(t, err)
		l.sent++
		l.publish("", 2)
		l.all(0)
	})
}

func TestLiveRedelivers(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		ctx := t.Context()
		m := &transport.Message{To: transport.Address{Name: "a.done"}, ID: "m", Body: []byte("body\x00"), Header: transport.Header{"A": {"a\nb"}}}
		require.NoError(t, l.publisher.Publish(ctx, m))
		d := l.next()
		want := *d.Message()
		want.Header, want.Body = want.Header.Clone(), append([]byte(nil), want.Body...)
		// What a receiver does to its copy is not in the next one.
		d.Message().Body[0], d.Message().Header["A"][0] = 'x', "spoiled"
		start := time.Now()
		require.NoError(t, d.Nak(ctx, time.Hour/2))
		d2 := l.next()
		require.Equal(t, time.Hour/2, time.Since(start))
		require.Equal(t, &want, d2.Message())
		require.Equal(t, 2, d2.Deliveries())
		require.Equal(t, d.Sequence(), d2.Sequence())

		// By time, and by settlement where times are equal.
		require.NoError(t, d2.Ack(ctx))
		l.publish("", 3)
		for i, delay := range []time.Duration{2, 1, 1} {
			d := l.next()
			require.Equal(t, i, l.number(d))
			require.NoError(t, d.Nak(ctx, delay*time.Second))
		}
		require.Equal(t, []int{1, 2, 0}, []int{l.number(l.next()), l.number(l.next()), l.number(l.next())})

		// While the server is away it waits; what was removed is given up.
		l.publish("", 2)
		a, b := l.next(), l.next()
		require.NoError(t, a.Nak(ctx, time.Second))
		require.NoError(t, b.Nak(ctx, time.Second))
		st, err := l.publisher.link.jetStream().Stream(ctx, l.r.stream)
		require.NoError(t, err)
		require.NoError(t, st.DeleteMsg(ctx, a.Sequence()))
		l.cable.Cut()
		time.Sleep(time.Minute)
		l.cable.Mend()
		require.Equal(t, b.Sequence(), l.next().Sequence())
		l.quiet()
		l.r.mu.Lock()
		defer l.r.mu.Unlock()
		require.Empty(t, l.r.again)
	})
}

func TestLiveNaksAreBounded(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		ctx := t.Context()
		l.publish("", liveWaiting+1)
		for range liveWaiting {
			require.NoError(t, l.next().Nak(ctx, time.Hour))
		}
		d := l.next()
		require.ErrorIs(t, d.Nak(ctx, time.Hour), transport.ErrBacklog)
		require.NoError(t, d.Term(ctx, "too many"), "it is still to be settled")
		require.ErrorIs(t, d.Nak(ctx, 0), transport.ErrSettled)
		time.Sleep(2 * time.Hour)
		for i := range liveWaiting {
			require.Equal(t, i, l.number(l.next()))
		}
	})
}

func TestLiveClose(t *testing.T) {
	inLiveBubble(t, transport.Subscription{Prefetch: 1}, func(t *testing.T, l *liveTest) {
		ctx := t.Context()
		l.publish("", 50)
		a, b := l.next(), l.next()
		require.NoError(t, a.Nak(ctx, time.Minute))
		waits := make(chan error, 1)
		other := l.subscribe(transport.Subscription{})
		go func() {
			_, err := other.Next(ctx)
			waits <- err
		}()
		synctest.Wait()
		require.NoError(t, other.Close(ctx))
		require.ErrorIs(t, <-waits, transport.ErrClosed)
		require.NoError(t, l.r.Close(ctx), "while it waits for room")
		require.NoError(t, l.r.Close(ctx))
		_, err := l.r.Next(ctx)
		require.ErrorIs(t, err, transport.ErrClosed)
		require.ErrorIs(t, b.Nak(ctx, 0), transport.ErrClosed)
		require.NoError(t, b.Ack(ctx))
		require.ErrorIs(t, a.Ack(ctx), transport.ErrSettled)

		late := l.subscribe(transport.Subscription{})
		require.NoError(t, l.reader.Close(ctx))
		_, err = late.Next(ctx)
		require.ErrorIs(t, err, transport.ErrClosed)
	})
}

func TestLiveRefusesBadArguments(t *testing.T) {
	inLiveBubble(t, transport.Subscription{}, func(t *testing.T, l *liveTest) {
		for _, s := range []transport.Subscription{
			{Name: ""}, {Name: "A"}, {Name: "a.*"}, {Name: "a", Session: "\xff"}, {Name: "a", Prefetch: -1},
		} {
			_, err := l.reader.Subscribe(t.Context(), s)
			require.ErrorIs(t, err, transport.ErrInvalid, "%+v", s)
		}
	})
}

// Whatever happens on the way, every event comes once, and those of a session in
// order.
func TestLiveUnderFaults(t *testing.T) {
	for seed := range uint64(10) {
		inLiveBubble(t, transport.Subscription{Prefetch: 4}, func(t *testing.T, l *liveTest) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			const events = 400
			done := make(chan []transport.Delivery)
			go func() {
				var ds []transport.Delivery
				slow := rand.New(rand.NewPCG(seed, 2))
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				for len(ds) < events {
					d, err := l.r.Next(ctx)
					if err != nil {
						break
					}
					ds = append(ds, d)
					if slow.IntN(20) == 0 {
						time.Sleep(time.Duration(slow.IntN(3000)) * time.Millisecond)
					}
				}
				done <- ds
			}()
			for l.sent < events {
				session := "s" + strconv.Itoa(rnd.IntN(5))
				switch n := min(1+rnd.IntN(20), events-l.sent); rnd.IntN(6) {
				case 0:
					l.silently(session, n)
				case 1:
					l.cable.Blink()
					l.publish(session, n)
				case 2:
					l.cable.Cut()
					l.publish(session, n)
					time.Sleep(time.Duration(rnd.IntN(10)) * time.Second)
					l.cable.Mend()
				case 3:
					l.reader.link.conn().Close()
					l.publish(session, n)
				default:
					l.publish(session, n)
				}
				time.Sleep(time.Duration(rnd.IntN(2000)) * time.Millisecond)
			}
			ds := <-done
			require.Len(t, ds, events, "seed %d", seed)
			last := map[string]uint64{}
			seen := map[uint64]bool{}
			for _, d := range ds {
				require.Less(t, last[d.Message().Session], d.Sequence(), "seed %d: order of %s", seed, d.Message().Session)
				last[d.Message().Session] = d.Sequence()
				require.False(t, seen[d.Sequence()], "seed %d: twice", seed)
				seen[d.Sequence()] = true
			}
			l.quiet()
		})
	}
}

// The same over TCP, with a server that restarts.
func TestLiveOverTCP(t *testing.T) {
	srv := natstest.Server(t)
	tr := testOpen(t, Config{URL: srv.URL()})
	l := &liveTest{t: t, reader: tr, publisher: testOpen(t, Config{URL: srv.URL()})}
	l.r = l.subscribe(transport.Subscription{})
	for range 3 {
		l.publish("s", 50)
		srv.Restart()
		l.publish("", 50)
	}
	for want := range l.sent {
		require.Equal(t, want, l.bodies(1)[0])
	}
}
