package embedded_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func start(t *testing.T, cfg embedded.Config) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Shutdown(context.Background())) })
	return s
}

func connect(t *testing.T, url string, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

func stream(t *testing.T, js jetstream.JetStream, storage jetstream.StorageType) jetstream.Stream {
	t.Helper()
	st, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Storage: storage})
	require.NoError(t, err)
	return st
}

func messages(t *testing.T, st jetstream.Stream) uint64 {
	t.Helper()
	info, err := st.Info(t.Context())
	require.NoError(t, err)
	return info.State.Msgs
}

func TestInMemory(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := start(t, embedded.Config{})
	require.Empty(t, s.ClientURL(), "no port unless asked")
	kept, synced := s.Durable()
	require.False(t, kept)
	require.False(t, synced)

	_, js := connect(t, "", nats.InProcessServer(s))
	st := stream(t, js, jetstream.MemoryStorage)
	_, err := js.Publish(t.Context(), "s.1", []byte("x"))
	require.NoError(t, err)
	require.EqualValues(t, 1, messages(t, st))

	folders, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Len(t, folders, 1)
	require.NoError(t, s.Shutdown(t.Context()))
	folders, err = os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, folders, "the temporary folder is removed")
}

func TestTwoServersSideBySide(t *testing.T) {
	var js [2]jetstream.JetStream
	for i := range js {
		s := start(t, embedded.Config{})
		_, js[i] = connect(t, "", nats.InProcessServer(s))
		stream(t, js[i], jetstream.MemoryStorage)
	}
	_, err := js[0].Publish(t.Context(), "s.1", nil)
	require.NoError(t, err)
	for i, want := range []uint64{1, 0} {
		st, err := js[i].Stream(t.Context(), "S")
		require.NoError(t, err)
		require.Equal(t, want, messages(t, st))
	}
}

func TestDirKeepsData(t *testing.T) {
	for _, always := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "made", "on demand")
		cfg := embedded.Config{Dir: dir, SyncAlways: always}
		s := start(t, cfg)
		kept, synced := s.Durable()
		require.True(t, kept)
		require.Equal(t, always, synced)

		nc, js := connect(t, "", nats.InProcessServer(s))
		stream(t, js, jetstream.FileStorage)
		for range 10 {
			_, err := js.Publish(t.Context(), "s.1", []byte("kept"))
			require.NoError(t, err)
		}
		nc.Close()
		require.NoError(t, s.Shutdown(t.Context()))

		s = start(t, cfg)
		_, js = connect(t, "", nats.InProcessServer(s))
		st, err := js.Stream(t.Context(), "S")
		require.NoError(t, err)
		require.EqualValues(t, 10, messages(t, st))
		m, err := st.GetMsg(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, "kept", string(m.Data))
	}
}

func TestDirIsLocked(t *testing.T) {
	dir := t.TempDir()
	s := start(t, embedded.Config{Dir: dir})

	t.Chdir(filepath.Dir(dir))
	_, err := embedded.Start(embedded.Config{Dir: filepath.Base(dir)}) // another spelling of it
	var locked *embedded.LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, dir, locked.Dir)
	require.ErrorContains(t, err, dir)

	require.NoError(t, s.Shutdown(t.Context()))
	start(t, embedded.Config{Dir: dir})
}

func TestFailedStartReleasesTheFolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	dir := t.TempDir()
	_, err = embedded.Start(embedded.Config{Dir: dir, Listen: l.Addr().String()})
	require.ErrorContains(t, err, l.Addr().String(), "an occupied port")
	start(t, embedded.Config{Dir: dir})
}

func TestLoopbackPort(t *testing.T) {
	s := start(t, embedded.Config{Listen: "127.0.0.1:0"})
	nc, _ := connect(t, s.ClientURL())
	require.NoError(t, nc.Flush())
	inside, _ := connect(t, "", nats.InProcessServer(s))
	sub, err := inside.SubscribeSync("hello")
	require.NoError(t, err)
	require.NoError(t, inside.Flush())
	require.NoError(t, nc.Publish("hello", nil))
	_, err = sub.NextMsgWithContext(t.Context())
	require.NoError(t, err)
}

func TestRestartOnTheSamePort(t *testing.T) {
	s := start(t, embedded.Config{Listen: "127.0.0.1:0"})
	url := s.ClientURL()
	back := make(chan struct{})
	nc, _ := connect(t, url, nats.ReconnectWait(5*time.Millisecond), nats.MaxReconnects(-1),
		nats.ReconnectHandler(func(*nats.Conn) { close(back) }))
	require.NoError(t, s.Shutdown(t.Context()))
	start(t, embedded.Config{Listen: strings.TrimPrefix(url, "nats://")})
	<-back
	require.NoError(t, nc.Flush())
}

func TestShutdown(t *testing.T) {
	s := start(t, embedded.Config{})
	ended, cancel := context.WithCancelCause(t.Context())
	cause := context.DeadlineExceeded
	cancel(cause)
	if err := s.Shutdown(ended); err != nil { // it may be quicker than the look at ctx
		require.ErrorIs(t, err, cause)
	}
	require.NoError(t, s.Shutdown(t.Context()), "goes on by itself")
	require.NoError(t, s.Shutdown(t.Context()), "again")
	_, err := s.InProcessConn()
	require.ErrorIs(t, err, embedded.ErrClosed)
}

func TestConfigIsChecked(t *testing.T) {
	for want, cfg := range map[string]embedded.Config{
		"Listen \"nats\"":          {Listen: "nats"},
		"port must be a number":    {Listen: "127.0.0.1:x"},
		"loopback":                 {Listen: "0.0.0.0:4222"},
		"\":4222\"":                {Listen: ":4222"},
		"example.org":              {Listen: "example.org:4222"},
		"white space":              {Name: "a b"},
		"SyncAlways needs a Dir":   {SyncAlways: true},
		"MaxPayload is -1":         {MaxPayload: -1},
		"must not be negative":     {MaxMemory: -1},
		"StartTimeout must not be": {StartTimeout: -1},
	} {
		_, err := embedded.Start(cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestUnusableDir(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := embedded.Start(embedded.Config{Dir: file})
	require.ErrorContains(t, err, file)
}

func TestLimits(t *testing.T) {
	s := start(t, embedded.Config{MaxPayload: 1000, MaxMemory: 1 << 20})
	nc, js := connect(t, "", nats.InProcessServer(s))
	require.EqualValues(t, 1000, nc.MaxPayload())
	a, err := js.AccountInfo(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, a.API.Level, 4)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Storage: jetstream.MemoryStorage, MaxBytes: 2 << 20})
	require.ErrorContains(t, err, "insufficient memory")
}

func TestReportsGoToTheLogger(t *testing.T) {
	var text bytes.Buffer
	s := start(t, embedded.Config{Logger: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	require.NoError(t, s.Shutdown(t.Context()))
	require.Contains(t, text.String(), "level=DEBUG")
	require.Contains(t, text.String(), "Server is ready")
	require.NotContains(t, text.String(), "level=ERROR")
}
