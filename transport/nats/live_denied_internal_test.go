package nats

import (
	"context"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

// A listener may be refused the reading of replicas, as a session's is by
// docs/permissions.conf, and reads what it has missed from the leader.
func TestLiveReadsWithoutTheReplicas(t *testing.T) {
	for name, session := range map[string]string{"of a session": "job-1", "of all": ""} {
		t.Run(name, func(t *testing.T) {
			s, err := natsserver.NewServer(&natsserver.Options{
				Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
				Users: []*natsserver.User{{Username: "all"}, {Username: "listener", Permissions: &natsserver.Permissions{
					Publish: &natsserver.SubjectPermission{Deny: []string{"$JS.API.DIRECT.GET.JITNEY_EVT", "$JS.API.DIRECT.GET.JITNEY_EVT.>"}},
				}}},
			})
			require.NoError(t, err)
			s.Start()
			t.Cleanup(func() {
				s.Shutdown()
				s.WaitForShutdown()
			})
			require.True(t, s.ReadyForConnections(30*time.Second))
			l := &liveTest{t: t}
			l.publisher = testOpen(t, Config{URL: s.ClientURL(), User: "all"})
			l.reader = testOpen(t, Config{URL: s.ClientURL(), User: "listener"})
			l.r = l.subscribe(transport.Subscription{Session: session})
			l.publish(session, 1)
			require.Equal(t, []int{0}, l.bodies(1))

			for range 2 {
				l.silently(session, 3)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				done := l.catchUp(ctx, 0)
				for want := l.sent - 3; want < l.sent; want++ {
					d, err := l.r.Next(ctx)
					require.NoError(t, err)
					require.Equal(t, want, l.number(d))
					require.NoError(t, d.Ack(ctx))
				}
				require.NoError(t, <-done)
			}
			l.publish(session, 2) // and it hears again
			require.Equal(t, []int{l.sent - 2, l.sent - 1}, l.bodies(2))
		})
	}
}
