package nats_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
)

// open opens a transport that is closed when the test ends.
func open(t *testing.T, cfg nats.Config) *nats.Transport {
	t.Helper()
	tr, err := nats.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close(context.Background())) })
	return tr
}

// startServer runs a server with options that embedded.Config does not have.
func startServer(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog, o.StoreDir = "127.0.0.1", -1, true, true, t.TempDir()
	s, err := server.NewServer(o)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func TestConfigValidate(t *testing.T) {
	require.NoError(t, nats.Config{}.Validate())
	require.NoError(t, nats.Config{URL: "nats://u:p@a:4222, tls://b:4222"}.Validate())
	for name, c := range map[string]nats.Config{
		"namespace":     {Namespace: "A.b"},
		"url":           {URL: "http://a:1"},
		"no host":       {URL: "nats://"},
		"two ways":      {User: "a", Token: "b"},
		"password only": {Password: "a"},
		"inbox":         {InboxPrefix: "a.>"},
		"timeout":       {ConnectTimeout: -1},
		"replicas":      {Replicas: 6},
		"storage":       {Storage: 7},
		"bytes":         {MaxBytes: -1},
		"dedup":         {DedupWindow: time.Millisecond},
		"dedup and age": {DedupWindow: time.Hour, MaxAge: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, c.Validate(), transport.ErrInvalid)
			_, err := nats.Open(t.Context(), c)
			require.ErrorIs(t, err, transport.ErrInvalid)
		})
	}
	// All that is wrong is told at once.
	err := nats.Config{Namespace: "A", Replicas: 9, URL: "http://user:secret@a"}.Validate()
	require.ErrorContains(t, err, "Namespace")
	require.ErrorContains(t, err, "Replicas")
	require.NotContains(t, err.Error(), "secret")
}

func TestOpenAbsentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	for _, url := range []string{"nats://user:secret@" + addr, "nats://secret@" + addr} {
		_, err = nats.Open(t.Context(), nats.Config{URL: url, ConnectTimeout: 300 * time.Millisecond})
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorContains(t, err, addr)
		require.NotContains(t, err.Error(), "secret")
	}
}

// A server that starts a moment later than its clients is waited for.
func TestOpenWaitsForServer(t *testing.T) {
	s := natstest.Server(t)
	s.Stop()
	opened := make(chan error, 1)
	var tr *nats.Transport
	go func() {
		var err error
		tr, err = nats.Open(context.Background(), nats.Config{URL: s.URL(), ConnectTimeout: 30 * time.Second})
		opened <- err
	}()
	s.Start()
	require.NoError(t, <-opened)
	require.NoError(t, tr.Close(t.Context()))
}

func TestOpenWrongPassword(t *testing.T) {
	s := startServer(t, &server.Options{JetStream: true, Username: "u", Password: "p"})
	_, err := nats.Open(t.Context(), nats.Config{URL: s.ClientURL(), User: "u", Password: "wrong"})
	require.ErrorIs(t, err, transport.ErrPermission)
	open(t, nats.Config{URL: s.ClientURL(), User: "u", Password: "p"})
}

func TestOpenJetStreamDisabled(t *testing.T) {
	s := startServer(t, &server.Options{})
	_, err := nats.Open(t.Context(), nats.Config{URL: s.ClientURL()})
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, "JetStream is disabled")
}

func TestOpenJetStreamDisabledForAccount(t *testing.T) {
	a := server.NewAccount("A")
	s := startServer(t, &server.Options{JetStream: true, Accounts: []*server.Account{a},
		Users: []*server.User{{Username: "u", Password: "p", Account: a}}})
	_, err := nats.Open(t.Context(), nats.Config{URL: s.ClientURL(), User: "u", Password: "p"})
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, "JetStream is disabled")
}

// fakeServer speaks as much of the protocol as a client needs to connect, and
// says that it is version and has the given API level.
func fakeServer(t *testing.T, version string, level int) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serveFake(c, version, level)
		}
	}()
	return "nats://" + l.Addr().String()
}

func serveFake(c net.Conn, version string, level int) {
	defer c.Close()
	fmt.Fprintf(c, "INFO {\"server_id\":\"X\",\"version\":%q,\"proto\":1,\"headers\":true,\"max_payload\":1048576,\"jetstream\":true}\r\n", version)
	r := bufio.NewReader(c)
	sid := ""
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case f[0] == "PING":
			fmt.Fprint(c, "PONG\r\n")
		case f[0] == "SUB":
			sid = f[len(f)-1]
		case f[0] == "PUB" && len(f) == 4:
			body := fmt.Sprintf(`{"type":"io.nats.jetstream.api.v1.account_info_response","api":{"level":%d}}`, level)
			fmt.Fprintf(c, "MSG %s %s %d\r\n%s\r\n", f[2], sid, len(body), body)
		}
	}
}

func TestOpenOldServer(t *testing.T) {
	_, err := nats.Open(t.Context(), nats.Config{URL: fakeServer(t, "2.10.29", 0)})
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, "2.10.29")
	require.ErrorContains(t, err, "2.14")
}

// The meta leader of a mixed cluster may be older than the server connected to.
func TestOpenLowAPILevel(t *testing.T) {
	_, err := nats.Open(t.Context(), nats.Config{URL: fakeServer(t, "2.15.0", 1)})
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, "level 1")
	require.ErrorContains(t, err, "2.14")
}

func TestCallersConnectionStaysOpen(t *testing.T) {
	s := natstest.Server(t)
	nc := s.Connect()
	subs := nc.NumSubscriptions()
	tr, err := nats.Open(t.Context(), nats.Config{Conn: nc})
	require.NoError(t, err)
	src, err := tr.Serve(t.Context(), transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	require.NoError(t, err)
	_, err = tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
	require.NoError(t, err)
	require.NoError(t, tr.Publish(t.Context(), &transport.Message{To: transport.Address{Name: "a.done"}, ID: "1"}))
	require.NoError(t, tr.Close(t.Context()))
	_, err = src.Next(t.Context())
	require.ErrorIs(t, err, transport.ErrClosed)
	require.True(t, nc.IsConnected())
	require.NoError(t, nc.Flush())
	// Only the client's own reply subscription is left.
	require.LessOrEqual(t, nc.NumSubscriptions(), subs+1)
}

func TestOpenClosedConnection(t *testing.T) {
	nc := natstest.Server(t).Connect()
	nc.Close()
	_, err := nats.Open(t.Context(), nats.Config{Conn: nc})
	require.ErrorIs(t, err, transport.ErrClosed)
}

func TestOpenInParallel(t *testing.T) {
	s := natstest.Server(t)
	const n = 8
	errs := make(chan error, n)
	for range n {
		go func() {
			tr, err := nats.Open(context.Background(), nats.Config{URL: s.URL()})
			if err == nil {
				err = tr.Close(context.Background())
			}
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
}

func TestProvisionIsUpdated(t *testing.T) {
	s := natstest.Server(t)
	js, err := jetstream.New(s.Connect())
	require.NoError(t, err)
	open(t, nats.Config{URL: s.URL()})
	// A longer age, and defaults that accept what is there.
	open(t, nats.Config{URL: s.URL(), MaxAge: 14 * 24 * time.Hour})
	open(t, nats.Config{URL: s.URL()})
	st, err := js.Stream(t.Context(), "JITNEY_EVT")
	require.NoError(t, err)
	got := st.CachedInfo().Config
	require.Equal(t, 14*24*time.Hour, got.MaxAge)
	require.Equal(t, "1", got.Metadata["jitney.schema"])
	require.Equal(t, 2*time.Minute, got.Duplicates)
}

func TestProvisionConflicts(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*jetstream.StreamConfig)
		cfg    nats.Config
		want   []string
	}{
		"subjects":    {change: func(s *jetstream.StreamConfig) { s.Subjects = append(s.Subjects, "more.>") }, want: []string{"Subjects", "more.>"}},
		"republish":   {change: func(s *jetstream.StreamConfig) { s.RePublish = nil }, want: []string{"RePublish is none", "jitney.live.>"}},
		"discard":     {change: func(s *jetstream.StreamConfig) { s.Discard = jetstream.DiscardOld }, want: []string{"Discard"}},
		"shorter age": {cfg: nats.Config{MaxAge: time.Hour}, want: []string{"MaxAge is 168h0m0s, wanted 1h0m0s"}},
		"two": {change: func(s *jetstream.StreamConfig) { s.RePublish = nil }, cfg: nats.Config{MaxAge: time.Hour},
			want: []string{"RePublish", "MaxAge"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := natstest.Server(t)
			js, err := jetstream.New(s.Connect())
			require.NoError(t, err)
			open(t, nats.Config{URL: s.URL()})
			st, err := js.Stream(t.Context(), "JITNEY_EVT")
			require.NoError(t, err)
			before := st.CachedInfo().Config
			if c.change != nil {
				c.change(&before)
				_, err = js.UpdateStream(t.Context(), before)
				require.NoError(t, err)
			}
			c.cfg.URL = s.URL()
			_, err = nats.Open(t.Context(), c.cfg)
			require.ErrorIs(t, err, transport.ErrConfig)
			for _, w := range append(c.want, "JITNEY_EVT") {
				require.ErrorContains(t, err, w)
			}
			// Nothing was changed.
			st, err = js.Stream(t.Context(), "JITNEY_EVT")
			require.NoError(t, err)
			require.Equal(t, before.MaxAge, st.CachedInfo().Config.MaxAge)
		})
	}
}

// An old program leaves alone what a newer one changed.
func TestProvisionNewerSchema(t *testing.T) {
	s := natstest.Server(t)
	js, err := jetstream.New(s.Connect())
	require.NoError(t, err)
	open(t, nats.Config{URL: s.URL()})
	st, err := js.Stream(t.Context(), "JITNEY_EVT")
	require.NoError(t, err)
	next := st.CachedInfo().Config
	next.Metadata["jitney.schema"] = "99"
	next.Subjects = append(next.Subjects, "jitney.more.>")
	_, err = js.UpdateStream(t.Context(), next)
	require.NoError(t, err)
	open(t, nats.Config{URL: s.URL(), MaxAge: 30 * 24 * time.Hour})
	st, err = js.Stream(t.Context(), "JITNEY_EVT")
	require.NoError(t, err)
	require.Equal(t, next.Subjects, st.CachedInfo().Config.Subjects)
	require.Equal(t, next.MaxAge, st.CachedInfo().Config.MaxAge)
}

func TestBindOnlyCreatesNothing(t *testing.T) {
	s := natstest.Server(t)
	js, err := jetstream.New(s.Connect())
	require.NoError(t, err)
	_, err = nats.Open(t.Context(), nats.Config{URL: s.URL(), BindOnly: true})
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, "BindOnly")
	_, err = js.Stream(t.Context(), "JITNEY_EVT")
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)

	owner := open(t, nats.Config{URL: s.URL()})
	bound := open(t, nats.Config{URL: s.URL(), BindOnly: true})
	_, err = bound.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
	require.ErrorIs(t, err, transport.ErrConfig)
	_, err = owner.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
	require.NoError(t, err)
	_, err = bound.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
	require.NoError(t, err)
}

func TestGroupRefusesForeignConsumer(t *testing.T) {
	s := natstest.Server(t)
	js, err := jetstream.New(s.Connect())
	require.NoError(t, err)
	tr := open(t, nats.Config{URL: s.URL()})
	_, err = js.CreateConsumer(t.Context(), "JITNEY_EVT", jetstream.ConsumerConfig{Durable: "g=a=done", FilterSubject: "jitney.evt._.a.done"})
	require.NoError(t, err)
	_, err = tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, `"jitney.evt.*.a.done"`)
	_, err = js.CreateConsumer(t.Context(), "JITNEY_EVT", jetstream.ConsumerConfig{
		Durable: "h=a=done", FilterSubject: "jitney.evt.*.a.done", AckPolicy: jetstream.AckNonePolicy})
	require.NoError(t, err)
	_, err = tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "h"})
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, "AckPolicy")
}

// Two namespaces on one server do not see each other.
func TestNamespaces(t *testing.T) {
	s := natstest.Server(t)
	a, b := open(t, nats.Config{URL: s.URL(), Namespace: "a"}), open(t, nats.Config{URL: s.URL(), Namespace: "b"})
	_, err := a.Serve(t.Context(), transport.Endpoint{Address: transport.Address{Name: "x.do"}})
	require.NoError(t, err)
	_, err = b.Request(t.Context(), &transport.Message{To: transport.Address{Name: "x.do"}})
	require.ErrorIs(t, err, transport.ErrNoHandler)
}

func TestNoOptionOfTheCallersIsLost(t *testing.T) {
	s := natstest.Server(t)
	closed := make(chan struct{})
	tr, err := nats.Open(t.Context(), nats.Config{URL: s.URL(), Name: "me", Options: []natsgo.Option{
		natsgo.ClosedHandler(func(nc *natsgo.Conn) {
			if nc.Opts.Name == "me" {
				close(closed)
			}
		}),
	}})
	require.NoError(t, err)
	require.NoError(t, tr.Close(t.Context()))
	<-closed
}

func TestDeadLettersThatDropTheOldest(t *testing.T) {
	s := natstest.Server(t)
	dropping := nats.Config{URL: s.URL(), DropDeadLetters: true}
	open(t, dropping)
	open(t, nats.Config{URL: s.URL()}) // the default accepts it

	refusing := nats.Config{URL: s.URL(), Namespace: "other"}
	open(t, refusing)
	refusing.DropDeadLetters = true
	_, err := nats.Open(t.Context(), refusing)
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, "OTHER_DLQ")
	require.ErrorContains(t, err, "Discard")
}
