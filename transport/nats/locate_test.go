package nats_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func ExampleTransport_Locate() {
	ctx := context.Background()
	s, err := embedded.Start(embedded.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Shutdown(ctx)
	tr, err := nats.Open(ctx, nats.Config{Server: s})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tr.Close(ctx)
	fmt.Println(tr.Locate("command", transport.Address{Name: "user.create"}))
	fmt.Println(tr.Locate("event", transport.Address{Name: "user.created", Group: "mailer"}))
	fmt.Println(tr.Locate("event", transport.Address{Name: "user.created", Session: "import/42"}))
	// Output:
	// [jitney.cmd._.user.create]
	// [jitney.evt.*.user.created jitney.retry.mailer.user.created]
	// [jitney.live.import=2F42.user.created]
}

// What Locate says is where the messages are: the consumers of a group filter by
// its subjects, and what is sent to the others' is received.
func TestLocate(t *testing.T) {
	ctx := limit(t)
	s := natstest.Server(t)
	tr := open(t, nats.Config{URL: s.URL(), Namespace: "shop"})
	nc := s.Connect()
	js, err := jetstream.New(nc)
	require.NoError(t, err)

	_, err = tr.Subscribe(ctx, transport.Subscription{Name: "a.done", Group: "g"})
	require.NoError(t, err)
	var filters []string
	for _, stream := range []string{"SHOP_EVT", "SHOP_RETRY"} {
		c, err := js.Consumer(ctx, stream, "g=a=done")
		require.NoError(t, err)
		filters = append(filters, c.CachedInfo().Config.FilterSubject)
	}
	require.Equal(t, filters, tr.Locate("event", transport.Address{Name: "a.done", Group: "g"}))

	for _, session := range []string{"", "import/1"} {
		at := transport.Address{Session: session, Name: "a.do"}
		src, err := tr.Serve(ctx, transport.Endpoint{Address: at})
		require.NoError(t, err)
		subjects := tr.Locate("command", at)
		require.Len(t, subjects, 1)
		require.NoError(t, nc.Publish(subjects[0], []byte("x")))
		r, err := src.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, at, r.Message().To)

		at.Name = "a.done"
		subjects = tr.Locate("event", at)
		require.Len(t, subjects, 1)
		sub, err := nc.SubscribeSync(subjects[0])
		require.NoError(t, err)
		require.NoError(t, nc.Flush())
		require.NoError(t, tr.Publish(ctx, &transport.Message{To: at, Body: []byte("x")}))
		m, err := sub.NextMsgWithContext(ctx)
		require.NoError(t, err)
		require.Equal(t, "shop.evt."+strings.TrimPrefix(m.Subject, "shop.live."), m.Header.Get("Nats-Subject"))
		require.NoError(t, sub.Unsubscribe())
	}
}

func TestLocateNowhere(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		nc := natstest.Connect(t, s, natsgo.Name("caller's"))
		tr := open(t, nats.Config{Conn: nc})
		for kind, at := range map[string]transport.Address{
			"command": {Name: "a.do", Group: "g"},
			"event":   {Name: "a.done", Group: "g", Session: "s"},
			"query":   {Name: "a.do"},
			"":        {Name: "a.do"},
		} {
			require.Nil(t, tr.Locate(kind, at), "%q %+v", kind, at)
		}
		for _, at := range []transport.Address{
			{}, {Name: "A"}, {Name: "a.*"}, {Name: "a", Session: "\xff"}, {Name: "a", Group: "g.h"},
		} {
			require.Nil(t, tr.Locate("event", at), "%+v", at)
			require.Nil(t, tr.Locate("command", at), "%+v", at)
		}
		require.NoError(t, tr.Close(t.Context()))
		require.Equal(t, []string{"jitney.cmd._.a"}, tr.Locate("command", transport.Address{Name: "a"}), "after Close")
	})
}
