package nats_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func event(name, id, body string) *transport.Message {
	return &transport.Message{To: transport.Address{Name: name}, ID: id, CorrelationID: id, Body: []byte(body)}
}

// limit is far above what any step of a test needs.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// The server is restarted while events are published and read: none is lost,
// none is stored twice, and requests work again.
func TestReconnectWithoutLoss(t *testing.T) {
	ctx := limit(t)
	s := natstest.Server(t)
	pub, sub := open(t, nats.Config{URL: s.URL()}), open(t, nats.Config{URL: s.URL()})
	src, err := sub.Subscribe(ctx, transport.Subscription{Name: "a.done", Group: "g", AckWait: 2 * time.Second})
	require.NoError(t, err)
	served, err := sub.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	require.NoError(t, err)
	go func() {
		for {
			r, err := served.Next(context.Background())
			if err != nil {
				return
			}
			_ = r.Reply(context.Background(), &transport.Message{Body: r.Message().Body})
		}
	}()
	const n, writers = 100, 4
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range n {
				if err := pub.Publish(ctx, event("a.done", fmt.Sprintf("%d-%d", w, i), "x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[string]bool{}
	next := func() {
		d, err := src.Next(ctx)
		require.NoError(t, err)
		seen[d.Message().ID] = true
		if err := d.Ack(ctx); err != nil {
			require.ErrorIs(t, err, transport.ErrUnavailable)
		}
	}
	for range 20 {
		next()
	}
	s.Restart()
	for len(seen) < n*writers/2 {
		next()
	}
	s.Restart()
	for len(seen) < n*writers {
		next()
	}
	wg.Wait()
	js, err := jetstream.New(s.Connect())
	require.NoError(t, err)
	st, err := js.Stream(ctx, "JITNEY_EVT")
	require.NoError(t, err)
	require.EqualValues(t, n*writers, st.CachedInfo().State.Msgs)
	for {
		reply, err := pub.Request(ctx, event("a.do", "1", "hello"))
		if errors.Is(err, transport.ErrUnavailable) || errors.Is(err, transport.ErrNoHandler) {
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "hello", string(reply.Body))
		return
	}
}

// A request is refused at once while the server is away, and does not run later.
func TestRequestWhileDisconnected(t *testing.T) {
	s := natstest.Server(t)
	tr := open(t, nats.Config{URL: s.URL()})
	s.Stop()
	for {
		// Until the client notices, a request may still go into the void.
		ctx, cancel := context.WithTimeout(limit(t), 100*time.Millisecond)
		_, err := tr.Request(ctx, event("a.do", "1", "x"))
		cancel()
		require.Error(t, err)
		if errors.Is(err, transport.ErrUnavailable) {
			return
		}
		require.NoError(t, t.Context().Err())
	}
}

// A publish that ctx ends while the server is away was not stored, and says so.
func TestPublishWhileDisconnected(t *testing.T) {
	s := natstest.Server(t)
	logs := &lines{}
	tr := open(t, nats.Config{URL: s.URL(), Logger: slog.New(slog.NewTextHandler(logs, nil))})
	s.Stop()
	require.Eventually(t, func() bool { return strings.Contains(logs.String(), "connection lost") }, 30*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := tr.Publish(ctx, event("a.done", "1", "x"))
	var pe *transport.PublishError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, transport.Refused, pe.Outcomes[0].Status)
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	done := make(chan error, 1)
	go func() { done <- tr.Publish(limit(t), event("a.done", "2", "x")) }()
	s.Start()
	require.NoError(t, <-done)
}

// lines collects a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The client closes a connection for good after an error that it does not know.
// The transport makes another, and everything works again on it.
func TestConnectionClosedForGood(t *testing.T) {
	ctx := limit(t)
	s := natstest.Server(t)
	var mu sync.Mutex
	var conns []*natsgo.Conn
	keep := func(o *natsgo.Options) error {
		o.ConnectedCB = func(nc *natsgo.Conn) {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, nc)
		}
		return nil
	}
	tr := open(t, nats.Config{URL: s.URL(), Options: []natsgo.Option{keep}})
	other := open(t, nats.Config{URL: s.URL()})
	group, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Group: "g"})
	require.NoError(t, err)
	served, err := tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	require.NoError(t, err)
	private, err := tr.Subscribe(ctx, transport.Subscription{Name: "a.done"})
	require.NoError(t, err)

	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(conns) == 1 }, 30*time.Second, time.Millisecond)
	mu.Lock()
	conns[0].Close() // as the client does by itself
	mu.Unlock()

	require.NoError(t, tr.Publish(ctx, event("a.done", "1", "x")))
	d, err := group.Next(ctx)
	require.NoError(t, err)
	require.NoError(t, d.Ack(ctx))
	d, err = private.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, "1", d.Message().ID)
	go func() {
		if r, err := served.Next(context.Background()); err == nil {
			_ = r.Reply(context.Background(), &transport.Message{Body: []byte("ok")})
		}
	}()
	for {
		reply, err := other.Request(ctx, event("a.do", "2", "x"))
		if errors.Is(err, transport.ErrNoHandler) {
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "ok", string(reply.Body))
		break
	}
}

// A server that closes while its connection is down, or is about to be, is not one
// again when the connection is back: requests would go to it unheard.
func TestServersThatCloseWhileDisconnectedAreGone(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		cable := natstest.NewCable(s)
		tr, other := open(t, nats.Config{Server: cable}), open(t, nats.Config{Server: s})
		ctx := t.Context()
		for round := range 60 {
			at := transport.Address{Session: fmt.Sprint(round), Name: "a.do"}
			src, err := tr.Serve(ctx, transport.Endpoint{Address: at})
			require.NoError(t, err)
			done := make(chan error, 1)
			closing := func() { done <- src.Close(ctx) }
			switch round % 3 {
			case 0:
				cable.Cut()
				time.Sleep(time.Second)
				go closing()
			case 1:
				go closing()
				cable.Cut()
			case 2:
				cable.Cut()
				go closing()
			}
			synctest.Wait()
			cable.Mend()
			require.NoError(t, <-done)
			time.Sleep(5 * time.Second)
			require.NoError(t, tr.Publish(ctx, event("a.done", "", "connected again")))
			ask, cancel := context.WithTimeout(ctx, 10*time.Second)
			_, err = other.Request(ask, &transport.Message{To: at, ID: "1"})
			cancel()
			require.ErrorIs(t, err, transport.ErrNoHandler, "round %d", round)
		}
	})
}

// A consumer that somebody deletes is made again where the group was.
func TestConsumerDeleted(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		tr := open(t, nats.Config{Server: s})
		js, err := jetstream.New(natstest.Connect(t, s))
		require.NoError(t, err)
		src, err := tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
		require.NoError(t, err)
		for i := range 3 {
			require.NoError(t, tr.Publish(t.Context(), event("a.done", fmt.Sprint(i), "x")))
			d, err := src.Next(t.Context())
			require.NoError(t, err)
			require.NoError(t, d.Ack(t.Context()))
		}
		time.Sleep(2 * time.Minute) // the group's progress is noted
		require.NoError(t, js.DeleteConsumer(t.Context(), "JITNEY_EVT", "g=a=done"))
		require.NoError(t, tr.Publish(t.Context(), event("a.done", "3", "x")))
		d, err := src.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, "3", d.Message().ID)
		require.NoError(t, d.Ack(t.Context()))
	})
}

// A stream that somebody deletes is an error that Next tells, not a busy loop.
func TestStreamDeleted(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		tr := open(t, nats.Config{Server: s})
		js, err := jetstream.New(natstest.Connect(t, s))
		require.NoError(t, err)
		src, err := tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
		require.NoError(t, err)
		require.NoError(t, js.DeleteStream(t.Context(), "JITNEY_EVT"))
		begin := time.Now()
		for range 5 {
			_, err = src.Next(t.Context())
			require.Error(t, err)
			require.NotErrorIs(t, err, transport.ErrClosed)
			require.ErrorContains(t, err, "JITNEY_EVT")
		}
		require.Greater(t, time.Since(begin), 5*time.Second)
	})
}

// What nobody reads goes back after half of AckWait, and that is no delivery.
func TestBufferedCopiesGoBack(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		tr := open(t, nats.Config{Server: s})
		idle, err := tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g", Prefetch: 8})
		require.NoError(t, err)
		require.NoError(t, tr.Publish(t.Context(), event("a.done", "1", "x")))
		synctest.Wait()
		busy, err := tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
		require.NoError(t, err)
		begin := time.Now()
		d, err := busy.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, d.Deliveries())
		require.GreaterOrEqual(t, time.Since(begin), 15*time.Second)
		require.Less(t, time.Since(begin), 3*time.Minute)
		require.NoError(t, d.Ack(t.Context()))
		require.NoError(t, idle.Close(t.Context()))
	})
}

func TestEventsOfOtherPrograms(t *testing.T) {
	ctx := limit(t)
	s := natstest.Server(t)
	tr := open(t, nats.Config{URL: s.URL()})
	nc := s.Connect()
	src, err := tr.Subscribe(ctx, transport.Subscription{Name: "user.created", Group: "g"})
	require.NoError(t, err)
	next := func() *transport.Message {
		d, err := src.Next(ctx)
		require.NoError(t, err)
		require.NoError(t, d.Ack(ctx))
		return d.Message()
	}
	// nats pub jitney.evt._.user.created '{}'
	require.NoError(t, nc.Publish("jitney.evt._.user.created", []byte("{}")))
	m := next()
	require.NoError(t, m.Malformed)
	require.WithinDuration(t, time.Now(), m.SentAt, time.Minute, "the time at which it was stored")
	m.SentAt = time.Time{}
	require.Equal(t, &transport.Message{To: transport.Address{Name: "user.created"}, Body: []byte("{}")}, m)

	for subject, h := range map[string]natsgo.Header{
		"jitney.evt.=ZZ.user.created": nil,
		"jitney.evt.s1.user.created":  {"Jitney-Session": {"s2"}},
		"jitney.evt._.user.created":   {"Jitney-Id": {"1", "2"}},
		"jitney.evt.s2.user.created":  {"Jitney-Sent": {"x"}},
	} {
		require.NoError(t, nc.PublishMsg(&natsgo.Msg{Subject: subject, Header: h, Data: []byte("x")}))
		m := next()
		require.ErrorIs(t, m.Malformed, transport.ErrInvalid, subject)
		require.Equal(t, "x", string(m.Body))
	}
	// A user's header that looks like the protocol's does not confuse the reader.
	require.NoError(t, nc.PublishMsg(&natsgo.Msg{Subject: "jitney.evt._.user.created", Header: natsgo.Header{"Status": {"409"}}}))
	require.Equal(t, "409", next().Header.Get("Status"))
}

func TestRequestsOfOtherPrograms(t *testing.T) {
	ctx := limit(t)
	s := natstest.Server(t)
	tr := open(t, nats.Config{URL: s.URL()})
	nc := s.Connect()
	src, err := tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "a.do"}, Backlog: 1})
	require.NoError(t, err)
	got := make(chan *natsgo.Msg, 1)
	go func() {
		m, err := nc.RequestWithContext(ctx, "jitney.cmd._.a.do", []byte("ping"))
		if err != nil {
			t.Error(err)
		}
		got <- m
	}()
	r, err := src.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, "ping", string(r.Message().Body))
	require.True(t, r.Deadline().IsZero())
	require.NoError(t, r.Reply(ctx, &transport.Message{Body: []byte("pong")}))
	m := <-got
	require.Equal(t, "pong", string(m.Data))
	require.Empty(t, m.Header, "a reply has no headers of ours")

	// Nobody takes requests: one waits, the next is told to come back.
	require.NoError(t, nc.PublishRequest("jitney.cmd._.a.do", natsgo.NewInbox(), nil))
	m, err = nc.RequestWithContext(ctx, "jitney.cmd._.a.do", nil)
	require.NoError(t, err)
	require.Equal(t, natsgo.Header{"Jitney-Status": {"busy"}, "Nats-Service-Error": {"handler busy"}, "Nats-Service-Error-Code": {"429"}}, m.Header)

	// A plain publish is a command whose sender wants no answer.
	_, err = src.Next(ctx)
	require.NoError(t, err)
	require.NoError(t, nc.Publish("jitney.cmd._.a.do", nil))
	r, err = src.Next(ctx)
	require.NoError(t, err)
	require.NoError(t, r.Reply(ctx, &transport.Message{}))
	require.ErrorIs(t, r.Reply(ctx, &transport.Message{}), transport.ErrSettled)
}

func TestPermissionsAreToldSoon(t *testing.T) {
	allow := func(pub, sub []string) *server.Permissions {
		return &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: pub},
			Subscribe: &server.SubjectPermission{Deny: sub},
		}
	}
	s := startServer(t, &server.Options{JetStream: true, Users: []*server.User{
		{Username: "owner", Password: "p"},
		{Username: "limited", Password: "p", Permissions: allow(
			[]string{"jitney.evt.*.secret.done", "jitney.cmd.*.secret.do", "$JS.API.CONSUMER.>"}, []string{"jitney.cmd.*.secret.do"})},
	}})
	open(t, nats.Config{URL: s.ClientURL(), User: "owner", Password: "p"})
	for _, owned := range []bool{true, false} {
		t.Run(fmt.Sprintf("owned %t", owned), func(t *testing.T) {
			ctx := limit(t)
			cfg := nats.Config{URL: s.ClientURL(), User: "limited", Password: "p"}
			if !owned {
				nc, err := natsgo.Connect(s.ClientURL(), natsgo.UserInfo("limited", "p"), natsgo.ErrorHandler(func(*natsgo.Conn, *natsgo.Subscription, error) {}))
				require.NoError(t, err)
				t.Cleanup(nc.Close)
				cfg = nats.Config{Conn: nc}
			}
			tr := open(t, cfg)
			err := tr.Publish(ctx, event("secret.done", "1", "x"))
			require.ErrorIs(t, err, transport.ErrPermission)
			require.ErrorContains(t, err, "jitney.evt._.secret.done")
			_, err = tr.Request(ctx, event("secret.do", "1", "x"))
			require.ErrorIs(t, err, transport.ErrPermission)
			_, err = tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "secret.do"}})
			require.ErrorIs(t, err, transport.ErrPermission)
			_, err = tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Group: "g"})
			require.ErrorIs(t, err, transport.ErrPermission)
			require.NoError(t, ctx.Err())
			require.NoError(t, tr.Publish(ctx, event("open.done", "1", "x")), "the rest works on")
		})
	}
}

func TestPublishFullStream(t *testing.T) {
	s := natstest.Server(t)
	tr := open(t, nats.Config{URL: s.URL(), MaxBytes: 64 << 10})
	ctx := limit(t)
	var err error
	for i := 0; err == nil; i++ {
		err = tr.Publish(ctx, event("a.done", fmt.Sprint(i), strings.Repeat("x", 8<<10)))
	}
	var backlog *transport.BacklogError
	require.ErrorAs(t, err, &backlog)
	require.ErrorIs(t, err, transport.ErrBacklog)
	var pe *transport.PublishError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, transport.Refused, pe.Outcomes[0].Status)
}

// "nats micro ls" and its kin find the commands.
func TestDiscovery(t *testing.T) {
	ctx := limit(t)
	s := natstest.Server(t)
	tr := open(t, nats.Config{URL: s.URL(), Name: "me"})
	nc := s.Connect()
	_, err := nc.RequestWithContext(ctx, "$SRV.PING", nil)
	require.ErrorIs(t, err, natsgo.ErrNoResponders, "nothing is served")
	src, err := tr.Serve(ctx, transport.Endpoint{Address: transport.Address{Name: "user.create"}})
	require.NoError(t, err)
	go func() {
		r, err := src.Next(ctx)
		if err == nil {
			err = r.Reply(ctx, &transport.Message{Header: transport.Header{"Jitney-Error": {"invalid"}}})
		}
		if err != nil {
			t.Error(err)
		}
	}()
	m, err := nc.RequestWithContext(ctx, "jitney.cmd._.user.create", nil)
	require.NoError(t, err)
	require.Equal(t, "invalid", m.Header.Get("Nats-Service-Error"))
	require.Equal(t, "500", m.Header.Get("Nats-Service-Error-Code"))

	var ping micro.Ping
	m, err = nc.RequestWithContext(ctx, "$SRV.PING.jitney", nil)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(m.Data, &ping))
	require.Equal(t, "jitney", ping.Name)
	require.Equal(t, "me", ping.Metadata["process"])
	var info micro.Info
	m, err = nc.RequestWithContext(ctx, "$SRV.INFO.jitney."+ping.ID, nil)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(m.Data, &info))
	require.Equal(t, []micro.EndpointInfo{{Name: "user_create", Subject: "jitney.cmd._.user.create", QueueGroup: "jitney"}}, info.Endpoints)
	var stats micro.Stats
	m, err = nc.RequestWithContext(ctx, "$SRV.STATS", nil)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(m.Data, &stats))
	require.Equal(t, 1, stats.Endpoints[0].NumRequests)
}
