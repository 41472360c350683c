package nats

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
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

// testNames are the names of a namespace.
func testNames(t testing.TB) names {
	t.Helper()
	n, err := newNames("test")
	require.NoError(t, err)
	return n
}

// faultyJS is the JetStream API with faults that a test plans.
type faultyJS struct {
	jetstream.JetStream

	mu      sync.Mutex
	publish func(ctx context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error)
}

func (f *faultyJS) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	f.mu.Lock()
	plan := f.publish
	f.mu.Unlock()
	next := func() (*jetstream.PubAck, error) { return f.JetStream.PublishMsg(ctx, m, opts...) }
	if plan == nil {
		return next()
	}
	return plan(ctx, m, next)
}

func (f *faultyJS) onPublish(plan func(ctx context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publish = plan
}

// testCaller returns a caller on nc, closed when the test ends.
func testCaller(t *testing.T, nc *nats.Conn) (*caller, *faultyJS) {
	t.Helper()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	f := &faultyJS{JetStream: js}
	c := newCaller(func() jetstream.JetStream { return f })
	t.Cleanup(c.close)
	return c, f
}

func bucketConfig(n names) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{Bucket: n.bucket(), History: 1, LimitMarkerTTL: time.Minute, Storage: jetstream.MemoryStorage}
}

func testStore(t *testing.T, nc *nats.Conn) (*store, *faultyJS) {
	t.Helper()
	c, f := testCaller(t, nc)
	_, err := f.CreateOrUpdateKeyValue(t.Context(), bucketConfig(testNames(t)))
	require.NoError(t, err)
	return newStore(c, testNames(t)), f
}

func inBubble(t *testing.T, f func(t *testing.T, s *store, js *faultyJS)) {
	t.Helper()
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		s, js := testStore(t, natstest.Connect(t, srv))
		f(t, s, js)
	})
}

func TestStoreKeys(t *testing.T) {
	for _, key := range []string{"", ".", "a.", ".a", "a..b", "a b", "a/b", "a.*", ">", "ж", "$a", strings.Repeat("a", maxStoreKey+1)} {
		require.ErrorIs(t, checkKey(key), transport.ErrInvalid, "%q", key)
	}
	for _, key := range []string{"a", "A.b_=-.9", strings.Repeat("a", maxStoreKey)} {
		require.NoError(t, checkKey(key), "%q", key)
	}
}

func TestStoreRefusesBadArguments(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store, _ *faultyJS) {
		ctx := t.Context()
		_, err := s.Create(ctx, "a b", nil, 0)
		require.ErrorIs(t, err, transport.ErrInvalid)
		_, err = s.Get(ctx, "*")
		require.ErrorIs(t, err, transport.ErrInvalid)
		_, err = s.Update(ctx, "a", nil, 0, 0)
		require.ErrorIs(t, err, transport.ErrInvalid, "it would create")
		require.ErrorIs(t, s.Delete(ctx, ">", 0), transport.ErrInvalid)
		_, err = s.Watch(ctx, "a.>")
		require.ErrorIs(t, err, transport.ErrInvalid)
		_, err = s.Create(ctx, "a", nil, -time.Second)
		require.ErrorIs(t, err, transport.ErrInvalid)
		var size *transport.SizeError
		_, err = s.Create(ctx, "a", make([]byte, 2<<20), 0)
		require.ErrorAs(t, err, &size)
	})
}

// loseAnswers lets the next n publishes land and swallows their answers.
func loseAnswers(js *faultyJS, n int) {
	js.onPublish(func(ctx context.Context, _ *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		ack, err := next()
		if n > 0 {
			n--
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return ack, err
	})
}

func TestStoreWriteWhoseAnswerIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store, js *faultyJS) {
		loseAnswers(js, 2)
		rev, err := s.Create(t.Context(), "a", []byte("1"), 0)
		require.NoError(t, err, "its own first copy is no conflict")
		e, err := s.Get(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, transport.Entry{Key: "a", Value: []byte("1"), Revision: rev}, e)

		loseAnswers(js, 1)
		rev2, err := s.Update(t.Context(), "a", []byte("2"), rev, 0)
		require.NoError(t, err)
		require.Equal(t, rev+1, rev2, "stored once")

		loseAnswers(js, 1)
		require.NoError(t, s.Delete(t.Context(), "a", rev2))
		loseAnswers(js, 1)
		rev, err = s.Create(t.Context(), "a", []byte("3"), 0)
		require.NoError(t, err)
		require.Equal(t, rev2+2, rev)
	})
}

// The server's memory of ids may be gone when the write is repeated.
func TestStoreWriteWhoseAnswerAndIDAreLost(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		n := testNames(t)
		c, js := testCaller(t, natstest.Connect(t, srv))
		st, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "KV_" + n.bucket(), Subjects: []string{"$KV." + n.bucket() + ".>"}, MaxMsgsPerSubject: 1, AllowRollup: true,
			AllowDirect: true, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute, Duplicates: 100 * time.Millisecond,
			Discard: jetstream.DiscardNew, Storage: jetstream.MemoryStorage,
		})
		require.NoError(t, err)
		s := newStore(c, n)
		loseAnswers(js, 1)
		rev, err := s.Create(t.Context(), "a", []byte("1"), 0)
		require.NoError(t, err)
		loseAnswers(js, 1)
		rev, err = s.Update(t.Context(), "a", []byte("2"), rev, 0)
		require.NoError(t, err)
		loseAnswers(js, 1)
		require.NoError(t, s.Delete(t.Context(), "a", rev))
		info, err := st.Info(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 3, info.State.LastSeq, "each stored once")

		// A foreign write that lands meanwhile is a conflict all the same.
		js.onPublish(func(ctx context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			js.onPublish(nil)
			_, err := js.JetStream.Publish(ctx, m.Subject, []byte("theirs"))
			require.NoError(t, err)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		_, err = s.Create(t.Context(), "a", []byte("ours"), 0)
		require.ErrorIs(t, err, transport.ErrExists)
	})
}

// In a replicated bucket a refusal may mean that another write is in flight, which
// may yet fail.
func TestStoreRefusedInFlight(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store, js *faultyJS) {
		refuse := func() {
			js.onPublish(func(context.Context, *nats.Msg, func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
				js.onPublish(nil)
				return nil, &jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequenceConstant}
			})
		}
		refuse()
		rev, err := s.Create(t.Context(), "a", nil, 0)
		require.NoError(t, err)
		refuse()
		rev, err = s.Update(t.Context(), "a", nil, rev, 0)
		require.NoError(t, err)
		refuse()
		_, err = s.Update(t.Context(), "a", nil, rev+1, 0)
		require.ErrorIs(t, err, transport.ErrConflict)
		refuse()
		require.NoError(t, s.Delete(t.Context(), "a", rev))
	})
}

func TestStoreWithoutAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store, js *faultyJS) {
		loseAnswers(js, 1000)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.Create(ctx, "a", nil, 0)
		require.ErrorIs(t, err, transport.ErrUnknown)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 5*time.Second, time.Since(start))

		// Nothing was sent: that is known.
		js.onPublish(func(context.Context, *nats.Msg, func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			return nil, jetstream.ErrNoStreamResponse
		})
		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = s.Create(ctx, "b", nil, 0)
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.NotErrorIs(t, err, transport.ErrUnknown)

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = s.Get(ended, "b")
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, transport.ErrUnavailable)
	})
}

func TestStoreAfterClose(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store, js *faultyJS) {
		w, err := s.Watch(t.Context(), "")
		require.NoError(t, err)
		next := make(chan error, 1)
		go func() {
			_, err := w.Next(t.Context())
			for err == nil {
				_, err = w.Next(t.Context())
			}
			next <- err
		}()
		loseAnswers(js, 1000)
		create := make(chan error, 1)
		go func() {
			_, err := s.Create(context.Background(), "a", nil, 0)
			create <- err
		}()
		synctest.Wait()
		s.c.close()
		require.ErrorIs(t, <-next, transport.ErrClosed)
		require.ErrorIs(t, <-create, transport.ErrClosed)
		_, err = s.Get(t.Context(), "a")
		require.ErrorIs(t, err, transport.ErrClosed)
		_, err = s.Watch(t.Context(), "")
		require.ErrorIs(t, err, transport.ErrClosed)
		require.NoError(t, w.Close(t.Context()))
	})
}

// changes reads n entries as "key=value" or "key gone"; the zero Entry is "-".
func changes(t *testing.T, w transport.Source[transport.Entry], n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	var all []string
	for range n {
		e, err := w.Next(ctx)
		require.NoError(t, err, "after %v", all)
		switch {
		case e.Key == "":
			all = append(all, "-")
		case e.Deleted:
			all = append(all, e.Key+" gone")
		default:
			all = append(all, e.Key+"="+string(e.Value))
		}
	}
	return all
}

// lastChange reads the one or two changes that wait.
func lastChange(t *testing.T, w transport.Source[transport.Entry]) string {
	t.Helper()
	if c := changes(t, w, 1)[0]; !strings.HasSuffix(c, "=1") {
		return c
	}
	return changes(t, w, 1)[0]
}

// requireQuiet says that a watcher has nothing more to tell.
func requireQuiet(t *testing.T, w transport.Source[transport.Entry]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := w.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "%+v", e)
}

func TestWatch(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store, _ *faultyJS) {
		ctx := t.Context()
		set := func(key, value string, ttl time.Duration) uint64 {
			rev, err := s.Create(ctx, key, []byte(value), ttl)
			require.NoError(t, err)
			return rev
		}
		set("a", "1", 0)
		set("a.b", "1", 0)
		rev := set("a.c", "1", 0)
		set("ab", "1", 0)
		require.NoError(t, s.Delete(ctx, "a.c", rev))
		w, err := s.Watch(ctx, "a")
		require.NoError(t, err)
		all, err := s.Watch(ctx, "")
		require.NoError(t, err)
		none, err := s.Watch(ctx, "nothing")
		require.NoError(t, err)
		require.Equal(t, []string{"a=1", "a.b=1", "-"}, changes(t, w, 3))
		require.Equal(t, []string{"a=1", "a.b=1", "ab=1", "-"}, changes(t, all, 4))
		require.Equal(t, []string{"-"}, changes(t, none, 1))

		set("a.lease", "x", 30*time.Second)
		rev = set("a.c", "2", 0)
		require.Equal(t, []string{"a.lease=x", "a.c=2"}, changes(t, w, 2))
		require.NoError(t, s.Delete(ctx, "a.c", rev))
		require.Equal(t, []string{"a.c gone", "a.lease gone"}, changes(t, w, 2))
		// A key that comes and goes at once is told at least as gone.
		require.NoError(t, s.Delete(ctx, "a.d", set("a.d", "1", 0)))
		synctest.Wait()
		require.Equal(t, "a.d gone", lastChange(t, w))
		requireQuiet(t, w)
		requireQuiet(t, none)
		// The traces of deleted keys go, and nobody hears of that.
		time.Sleep(5 * time.Minute)
		require.NoError(t, w.Close(ctx))
		require.NoError(t, w.Close(ctx))
		_, err = w.Next(ctx)
		require.ErrorIs(t, err, transport.ErrClosed)
	})
}

// A watcher that does not read keeps one change of a key, and of the keys that
// were there at the start one each before the zero Entry.
func TestWatchSlowly(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store, _ *faultyJS) {
		ctx := t.Context()
		revs := map[string]uint64{}
		var err error
		for _, k := range []string{"a", "b", "c"} {
			revs[k], err = s.Create(ctx, k, []byte("0"), 0)
			require.NoError(t, err)
		}
		w, err := s.Watch(ctx, "")
		require.NoError(t, err)
		synctest.Wait()
		for i := range 100 {
			for _, k := range []string{"b", "d"} {
				if revs[k] == 0 {
					revs[k], err = s.Create(ctx, k, nil, 0)
				} else {
					revs[k], err = s.Update(ctx, k, fmt.Append(nil, i), revs[k], 0)
				}
				require.NoError(t, err)
			}
		}
		require.NoError(t, s.Delete(ctx, "c", 0))
		synctest.Wait()
		require.Equal(t, []string{"a=0", "b=99", "-", "d=99", "c gone"}, changes(t, w, 5))
		requireQuiet(t, w)
	})
}

// What was lost on the way, or changed while the server was away, is told by the
// next feed: every key once, and those that are gone.
func TestWatchAfterLoss(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		cable := natstest.NewCable(srv)
		s, _ := testStore(t, natstest.Connect(t, cable, nats.ReconnectWait(time.Second), nats.MaxReconnects(-1)))
		ctx := t.Context()
		for _, k := range []string{"a", "b", "c"} {
			_, err := s.Create(ctx, k, []byte("0"), 0)
			require.NoError(t, err)
		}
		w, err := s.Watch(ctx, "")
		require.NoError(t, err)
		require.Equal(t, []string{"a=0", "b=0", "c=0", "-"}, changes(t, w, 4))

		// Another process changes the keys while this one is cut off, for longer
		// than the server keeps the feed and the traces of deleted keys.
		other, _ := testStore(t, natstest.Connect(t, srv))
		cable.Cut()
		require.NoError(t, other.Delete(ctx, "a", 0))
		e, err := other.Get(ctx, "b")
		require.NoError(t, err)
		_, err = other.Update(ctx, "b", []byte("1"), e.Revision, 0)
		require.NoError(t, err)
		_, err = other.Create(ctx, "d", []byte("1"), 0)
		require.NoError(t, err)
		time.Sleep(5 * time.Minute)
		cable.Mend()
		got := changes(t, w, 3)
		slices.Sort(got)
		require.Equal(t, []string{"a gone", "b=1", "d=1"}, got)
		requireQuiet(t, w)
	})
}

// A key that goes before the watch has begun and before anybody heard of it is
// not told; one that was handed out is.
func TestWatchKeyGoneDuringScan(t *testing.T) {
	w := newWatcher(&store{c: newCaller(nil)})
	entry := func(key string, deleted bool) { w.push(transport.Entry{Key: key, Revision: 1, Deleted: deleted}) }
	entry("a", false)
	entry("b", false)
	require.Equal(t, []string{"a="}, changes(t, w, 1))
	entry("a", true)
	entry("b", true)
	w.scanned(nil)
	entry("c", true)
	require.Equal(t, []string{"a gone", "-", "c gone"}, changes(t, w, 3))
}

func TestFeedNoticesLoss(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		nc := natstest.Connect(t, srv)
		s, js := testStore(t, nc)
		for name, fault := range map[string]func(f *feed){
			"a message": func(f *feed) {
				f.seq-- // it did not come
				_, err := s.Create(t.Context(), "k2", nil, time.Second)
				require.NoError(t, err)
			},
			"the tail": func(f *feed) {
				require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: f.sub.Subject, Header: nats.Header{"Status": {"100"}, hdrLastConsumer: {"2"}}}))
			},
			"sense": func(f *feed) { require.NoError(t, nc.Publish(f.sub.Subject, []byte("x"))) },
		} {
			_, err := s.Create(t.Context(), "k", nil, 0)
			require.NoError(t, err)
			f, err := openFeed(t.Context(), js, s.stream, []string{s.subject(">")})
			require.NoError(t, err)
			m, md, err := f.next(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 1, md.Sequence.Consumer)
			require.Equal(t, s.subject("k"), m.Subject)
			m, _, err = f.next(t.Context())
			require.NoError(t, err)
			require.Nil(t, m, "a heartbeat that agrees")
			fault(f)
			_, _, err = f.next(t.Context())
			require.Error(t, err, name)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			f.close()
			require.NoError(t, s.Delete(t.Context(), "k", 0))
			time.Sleep(2 * deleteMarkerTTL)
		}
		// And silence.
		f, err := openFeed(t.Context(), js, s.stream, []string{s.subject(">")})
		require.NoError(t, err)
		require.NoError(t, js.DeleteConsumer(t.Context(), s.stream, f.name))
		for err == nil {
			_, _, err = f.next(t.Context())
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		f.close()
	})
}
