package nats_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// failing returns the texts of the checks that are not well.
func failing(checks []transport.Check) map[string]string {
	m := map[string]string{}
	for _, c := range checks {
		if c.Err != nil {
			m[c.Name] = c.Err.Error()
		}
	}
	return m
}

// unwell returns their names.
func unwell(checks []transport.Check) (names []string) {
	for _, c := range checks {
		if c.Err != nil {
			names = append(names, c.Name)
		}
	}
	return names
}

func TestHealthWithoutAServer(t *testing.T) {
	s := natstest.Server(t)
	tr := open(t, nats.Config{URL: s.URL()})
	require.Empty(t, unwell(tr.Health(limit(t))))
	s.Stop()
	require.Eventually(t, func() bool {
		return len(unwell(tr.Health(limit(t)))) == 3
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, []string{"connection", "jetstream", "streams"}, unwell(tr.Health(limit(t))))
	s.Start()
	require.Eventually(t, func() bool { return len(unwell(tr.Health(limit(t)))) == 0 }, time.Minute, 10*time.Millisecond)
}

func TestHealthOfWhatIsMissing(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		tr, err := nats.Open(t.Context(), nats.Config{Server: s})
		require.NoError(t, err)
		defer tr.Close(context.Background())
		src, err := tr.Subscribe(t.Context(), transport.Subscription{Name: "a.done", Group: "g"})
		require.NoError(t, err)
		defer src.Close(context.Background())
		js, err := jetstream.New(natstest.Connect(t, s))
		require.NoError(t, err)
		require.Empty(t, unwell(tr.Health(t.Context())))

		// A consumer that somebody deletes is made again; a stream is not.
		require.NoError(t, js.DeleteStream(t.Context(), "JITNEY_DLQ"))
		require.Equal(t, map[string]string{"streams": "stream JITNEY_DLQ is not there"}, failing(tr.Health(t.Context())))
		require.NoError(t, js.DeleteStream(t.Context(), "JITNEY_EVT"))
		time.Sleep(time.Minute)
		synctest.Wait()
		checks := failing(tr.Health(t.Context()))
		require.Contains(t, checks["streams"], "stream JITNEY_EVT is not there")
		require.Contains(t, checks["consumers"], "consumer g=a=done of stream JITNEY_EVT cannot be read")
	})
}

// A server that does not answer is found out within the context.
func TestHealthOfAServerThatHangs(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, s *embedded.Server) {
		cable := natstest.NewCable(s)
		tr, err := nats.Open(t.Context(), nats.Config{Server: cable})
		require.NoError(t, err)
		defer tr.Close(context.Background())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cable.Cut()
		synctest.Wait()
		began := time.Now()
		require.Contains(t, unwell(tr.Health(ctx)), "connection")
		require.LessOrEqual(t, time.Since(began), time.Second)
	})
}

func note(t *testing.T, tr *nats.Transport) string {
	t.Helper()
	for _, c := range tr.Health(t.Context()) {
		if c.Name == "durability" {
			require.NoError(t, c.Err)
			return c.Note
		}
	}
	require.Fail(t, "no check of durability")
	return ""
}

// What is known of durability is said at the start and in Health.
func TestHealthTellsOfDurability(t *testing.T) {
	start := func(cfg embedded.Config) *embedded.Server {
		s, err := embedded.Start(cfg)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Shutdown(context.Background())) })
		return s
	}
	for _, c := range []struct {
		name string
		cfg  nats.Config
		want string
	}{
		{"in memory", nats.Config{Server: start(embedded.Config{})}, "keeps no events across its restarts"},
		{"in a folder", nats.Config{Server: start(embedded.Config{Dir: t.TempDir()})}, "may be lost with the machine's power"},
		{"synced", nats.Config{Server: start(embedded.Config{Dir: t.TempDir(), SyncAlways: true})}, ""},
		{"elsewhere", nats.Config{URL: natstest.Server(t).URL()}, "sync_interval: always"},
		{"elsewhere and said to be synced", nats.Config{URL: natstest.Server(t).URL(), SyncAlways: true}, ""},
		{"elsewhere in memory", nats.Config{URL: natstest.Server(t).URL(), Storage: jetstream.MemoryStorage, Namespace: "mem"}, "stored in memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log strings.Builder
			c.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			tr := open(t, c.cfg)
			got := note(t, tr)
			if c.want == "" {
				require.Empty(t, got)
				require.NotContains(t, log.String(), "durability")
				return
			}
			require.Contains(t, got, c.want)
			require.Equal(t, 1, strings.Count(log.String(), "level=INFO msg=durability"), log.String())
		})
	}
}
