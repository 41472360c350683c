package natstest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func TestMain(m *testing.M) { natstest.Main(m) }

func open(t *testing.T, nc *nats.Conn, cfg jetstream.StreamConfig) (jetstream.JetStream, jetstream.Consumer) {
	t.Helper()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	cfg.Name, cfg.Storage = "S", jetstream.MemoryStorage
	_, err = js.CreateOrUpdateStream(t.Context(), cfg)
	require.NoError(t, err)
	c, err := js.CreateOrUpdateConsumer(t.Context(), "S", jetstream.ConsumerConfig{
		Durable: "C", FilterSubject: "s.event", AckWait: 30 * time.Second, MaxDeliver: -1,
	})
	require.NoError(t, err)
	return js, c
}

func TestTwoDaysPassInABubble(t *testing.T) {
	real := time.Now()
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		nc := natstest.Connect(t, s)
		js, c := open(t, nc, jetstream.StreamConfig{Subjects: []string{"s.>"}})
		_, err := js.Publish(t.Context(), "s.event", []byte("x"))
		require.NoError(t, err)
		start := time.Now()
		for i, elapsed := range []time.Duration{0, 30 * time.Second, 48*time.Hour + 30*time.Second} {
			m, err := c.Next(jetstream.FetchMaxWait(49 * time.Hour))
			require.NoError(t, err)
			require.InDelta(t, elapsed.Seconds(), time.Since(start).Seconds(), 1)
			md, err := m.Metadata()
			require.NoError(t, err)
			require.EqualValues(t, i+1, md.NumDelivered)
			if i == 1 {
				require.NoError(t, m.NakWithDelay(48*time.Hour))
			} else if i == 2 {
				require.NoError(t, m.DoubleAck(t.Context()))
			} // else AckWait passes
		}
	})
	require.Less(t, time.Since(real), 24*time.Hour)
}

func TestScheduleFiresInABubble(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		nc := natstest.Connect(t, s)
		js, c := open(t, nc, jetstream.StreamConfig{Subjects: []string{"s.>"}, AllowMsgSchedules: true, AllowMsgTTL: true})
		start := time.Now()
		at := start.Add(90*time.Minute + 250*time.Millisecond)
		m := nats.NewMsg("s.sched.1")
		m.Header.Set("Nats-Schedule", "@at "+at.UTC().Format(time.RFC3339Nano))
		m.Header.Set("Nats-Schedule-Target", "s.event")
		_, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		got, err := c.Next(jetstream.FetchMaxWait(2 * time.Hour))
		require.NoError(t, err)
		require.NoError(t, got.Ack())
		late := time.Since(at)
		require.GreaterOrEqual(t, late, time.Duration(0))
		require.Less(t, late, 300*time.Millisecond)
	})
}

func TestBubblesFollowEachOther(t *testing.T) {
	for range 5 {
		natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
			nc := natstest.Connect(t, s)
			sub, err := nc.SubscribeSync("a")
			require.NoError(t, err)
			require.NoError(t, nc.FlushTimeout(time.Second)) // these take pooled timers
			_, err = sub.NextMsg(time.Hour)
			require.ErrorIs(t, err, nats.ErrTimeout)
			synctest.Wait()
		})
		in := natstest.Start(t, embedded.Config{Listen: "127.0.0.1:0"})
		require.NoError(t, in.Connect().FlushTimeout(time.Minute))
	}
}

func TestRestartKeepsPortAndData(t *testing.T) {
	s := natstest.Server(t)
	back := make(chan struct{}, 1)
	nc := s.Connect(nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	inside := natstest.Connect(t, s, nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S"})
	require.NoError(t, err)
	url := s.URL()
	_, err = js.Publish(t.Context(), "S", nil)
	require.NoError(t, err)

	s.Restart()
	require.Equal(t, url, s.URL())
	<-back
	<-back
	require.NoError(t, inside.Flush())
	st, err := js.Stream(t.Context(), "S")
	require.NoError(t, err)
	require.EqualValues(t, 1, st.CachedInfo().State.Msgs)

	s.Stop()
	s.Stop()
	_, err = s.InProcessConn()
	require.ErrorIs(t, err, embedded.ErrClosed)
}

func TestCable(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		cable := natstest.NewCable(s)
		nc := natstest.Connect(t, cable, nats.MaxReconnects(-1), nats.ReconnectWait(time.Second))
		require.NoError(t, nc.Flush())
		cable.Cut()
		time.Sleep(time.Minute)
		require.False(t, nc.IsConnected())
		cable.Mend()
		time.Sleep(2 * time.Second)
		require.True(t, nc.IsConnected())
		cable.Blink()
		time.Sleep(2 * time.Second)
		require.True(t, nc.IsConnected())
		require.EqualValues(t, 2, nc.Stats().Reconnects)
	})
}
