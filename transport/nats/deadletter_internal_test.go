package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func deadLetter(id string) *transport.DeadLetter {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	return &transport.DeadLetter{
		ID: id, Kind: "event", Group: "mailer", Handler: "sendWelcome", Code: "internal", Error: "it broke", Stack: "main.main()\n\tmain.go:1",
		Attempts: 4, First: at, Last: at.Add(time.Minute), Service: "accounts", Host: "h1", StreamSequence: 7,
		Message: &transport.Message{
			To: transport.Address{Session: "s", Name: "user.created"}, ID: "m1", Key: "k", Session: "s", CorrelationID: "m1",
			SentAt: at, ContentType: "text/plain", Header: transport.Header{"A": {"1", ""}}, Body: []byte("body"),
		},
	}
}

// stored passes a record through the encodings of a publish and a read.
func overStream(t *testing.T, dl *transport.DeadLetter, limit int) *transport.DeadLetter {
	t.Helper()
	h, body := encodeRecord(dl, limit)
	size := len("NATS/1.0\r\n\r\n") + len(body)
	for k, vs := range h {
		for _, v := range vs {
			size += len(k) + len(v) + 4
		}
	}
	require.LessOrEqual(t, size, max(limit, recordFields))
	require.LessOrEqual(t, size-len(body), 64<<10-publishRoom)
	got := decodeRecord(overWire(t, h), body)
	got.ID = dl.ID
	return got
}

func TestRecordKeepsTheOriginal(t *testing.T) {
	const limit = 1 << 20
	for name, change := range map[string]func(*transport.DeadLetter){
		"as it is": func(*transport.DeadLetter) {},
		"nothing more": func(d *transport.DeadLetter) {
			*d = transport.DeadLetter{ID: d.ID, Kind: "command", Message: &transport.Message{}}
		},
		"line breaks": func(d *transport.DeadLetter) {
			d.Error, d.Message.Key, d.Message.Header = " a\r\n%41\x00 ", "\n", transport.Header{"A": {" x", "100%"}}
		},
		"one group only":      func(d *transport.DeadLetter) { d.Message.To.Group = "mailer" },
		"the bus's fallback":  func(d *transport.DeadLetter) { d.Message.To.Session = "" },
		"an empty envelope":   func(d *transport.DeadLetter) { d.Message.ID, d.Message.CorrelationID = "", "" },
		"another correlation": func(d *transport.DeadLetter) { d.Message.CorrelationID = "c" },
		"no correlation":      func(d *transport.DeadLetter) { d.Message.CorrelationID = "" },
		"a delay":             func(d *transport.DeadLetter) { d.Message.DeliverAt = d.First },
		"no body":             func(d *transport.DeadLetter) { d.Message.Body = nil },
		"reserved headers": func(d *transport.DeadLetter) {
			d.Message.Header = transport.Header{"Nats-TTL": {"1s"}, "Status": {"503"}, hdrID: {"forged"}, deadError: {"forged\n"}, "": {"x"}, "a b:ж": {"y"}}
		},
		"a name that breaks the rules": func(d *transport.DeadLetter) { d.Message.To.Name = "A..*" },
		"malformed":                    func(d *transport.DeadLetter) { d.Message.Malformed = errors.New("two\nvalues") },
	} {
		dl := deadLetter("d1")
		change(dl)
		got := overStream(t, dl, limit)
		if len(dl.Message.Body) == 0 {
			got.Message.Body = dl.Message.Body
		}
		require.Equal(t, dl, got, name)
	}
}

// What does not fit is cut in the order of its worth, and that is told.
func TestRecordFits(t *testing.T) {
	const limit = 256 << 10
	dl := deadLetter("d1")
	dl.Error, dl.Stack = strings.Repeat("é\n", 50<<10), strings.Repeat("main.main()\n\tmain.go:1\n", 50<<10)
	dl.Message.Body = make([]byte, limit-64<<10)
	dl.Message.Header["Large"] = []string{strings.Repeat("x", 30<<10)}
	got := overStream(t, dl, limit)
	require.Equal(t, dl.Message, got.Message, "the original goes before the rest")
	require.True(t, utf8.ValidString(got.Error))
	require.True(t, strings.HasPrefix(dl.Error, got.Error))
	require.Greater(t, len(got.Error), 2<<10)
	require.True(t, strings.HasPrefix(dl.Stack, got.Stack))
	require.Greater(t, len(got.Stack), 10<<10)

	// Another program's message may be as large as the server takes.
	dl.Message.Header["Large"][0] = strings.Repeat("x", 60<<10)
	got = overStream(t, dl, limit)
	require.ErrorContains(t, got.Message.Malformed, "1 headers")
	require.Equal(t, transport.Header{"A": {"1", ""}}, got.Message.Header)
	dl = deadLetter("d1")
	dl.Message.Body = make([]byte, limit-100)
	got = overStream(t, dl, limit)
	require.ErrorContains(t, got.Message.Malformed, fmt.Sprintf("%d bytes was cut", limit-100))
	require.Equal(t, "mailer", got.Group)
	require.Equal(t, "m1", got.Message.ID)
}

func FuzzRecordRoundTrip(f *testing.F) {
	f.Add("id", "key", "h", "v", "error", "stack", []byte("body"))
	f.Add("", "\n", "Nats-X", " v", "%", "\x00", []byte{})
	f.Add("a", "", "Jitney-Dead-Header-%41", "v\r\n", " ", "é", []byte(nil))
	f.Fuzz(func(t *testing.T, id, key, hk, hv, errText, stack string, body []byte) {
		dl := deadLetter("d1")
		dl.Error, dl.Stack = errText, stack
		dl.Message.ID, dl.Message.Key, dl.Message.Body = id, key, body
		dl.Message.Header = transport.Header{hk: {hv}}
		if len(id)+len(key)+len(hk)*3+len(hv)*3+len(errText)*3+len(stack)*3 > 4<<10 {
			return // may be cut
		}
		got := overStream(t, dl, 1<<20)
		require.Equal(t, dl, got)
	})
}

// FuzzRecordDecode: a record may come from anybody.
func FuzzRecordDecode(f *testing.F) {
	f.Add("t.dlq.a.event._.x", deadKind, "event", hdrEscaped, "1", []byte("x"))
	f.Add("t.dlq.a", deadAttempts, "-1", deadFirst, "%", []byte(nil))
	f.Add("", deadHeader+"%zz", "%zz", deadSize, "99999999999999999999", []byte{0})
	d := newDeadLetters(nil, names{ns: "t", upper: "T"}, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, subject, k1, v1, k2, v2 string, body []byte) {
		dl := d.decode(&jetstream.RawStreamMsg{Subject: subject, Sequence: 9, Header: nats.Header{k1: {v1}, k2: {v2, v1}, "E": nil}, Data: body})
		require.NotEmpty(t, dl.ID)
		require.NotNil(t, dl.Message)
		require.Equal(t, body, dl.Message.Body)
		require.GreaterOrEqual(t, dl.Attempts, 0)
		if !strings.HasPrefix(dl.ID, strayID) {
			require.NoError(t, checkDeadID(dl.ID))
		}
		require.True(t, dl.Kind != "" || dl.Message.Malformed != nil)
	})
}

func testDeadLetters(t *testing.T, nc *nats.Conn, limit int64) (*deadLetters, *faultyJS) {
	t.Helper()
	c, js := testCaller(t, nc)
	n := testNames(t)
	_, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
		Name: n.deadLetters(), Subjects: []string{n.below("dlq")}, Discard: jetstream.DiscardNew, MaxMsgs: limit,
		AllowDirect: true, Storage: jetstream.MemoryStorage,
	})
	require.NoError(t, err)
	return newDeadLetters(c, n, slog.New(slog.DiscardHandler)), js
}

func TestDeadLetterWhoseAnswerIsLost(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		d, js := testDeadLetters(t, natstest.Connect(t, srv), 2)
		loseAnswers(js, 2)
		require.NoError(t, d.Add(t.Context(), deadLetter("one")))
		loseAnswers(js, 1)
		require.NoError(t, d.Add(t.Context(), deadLetter("two")), "the one that fills the stream")
		st, err := d.Stats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, st.Count)

		err = d.Add(t.Context(), deadLetter("three"))
		require.ErrorIs(t, err, transport.ErrBacklog)
		require.NoError(t, d.Add(t.Context(), deadLetter("one")), "it is there")
		other := deadLetter("one")
		other.Kind, other.Group, other.Message.To.Name = "command", "", "another"
		require.NoError(t, d.Add(t.Context(), other), "the id decides")
		got, err := d.Get(t.Context(), "one")
		require.NoError(t, err)
		require.Equal(t, "event", got.Kind)
	})
}

func TestDeadLetterRefusesBadArguments(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		d, _ := testDeadLetters(t, natstest.Connect(t, srv), -1)
		bad := func(change func(*transport.DeadLetter)) *transport.DeadLetter {
			dl := deadLetter("d")
			change(dl)
			return dl
		}
		for name, dl := range map[string]*transport.DeadLetter{
			"nil":        nil,
			"no message": bad(func(d *transport.DeadLetter) { d.Message = nil }),
			"a value":    bad(func(d *transport.DeadLetter) { d.Message.Value = 1 }),
			"no id":      bad(func(d *transport.DeadLetter) { d.ID = "" }),
			"wildcard":   bad(func(d *transport.DeadLetter) { d.ID = ">" }),
			"dots":       bad(func(d *transport.DeadLetter) { d.ID = "a.b" }),
			"stray":      bad(func(d *transport.DeadLetter) { d.ID = "_seq-1" }),
			"long":       bad(func(d *transport.DeadLetter) { d.ID = strings.Repeat("a", maxDeadID+1) }),
			"kind":       bad(func(d *transport.DeadLetter) { d.Kind = "*" }),
		} {
			require.ErrorIs(t, d.Add(t.Context(), dl), transport.ErrInvalid, name)
		}
		_, err := d.Get(t.Context(), "*")
		require.ErrorIs(t, err, transport.ErrInvalid)
		require.ErrorIs(t, d.Remove(t.Context(), "a.>"), transport.ErrInvalid)
		for _, id := range []string{"none", "_seq-0", "_seq-x", "_seq-5"} {
			_, err = d.Get(t.Context(), id)
			require.ErrorIs(t, err, transport.ErrNotFound, id)
			require.NoError(t, d.Remove(t.Context(), id), id)
		}
	})
}

// In a replicated stream a refusal may mean that another copy is being stored,
// which may yet fail.
func TestDeadLetterRefusedInFlight(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		d, js := testDeadLetters(t, natstest.Connect(t, srv), -1)
		js.onPublish(func(context.Context, *nats.Msg, func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			js.onPublish(nil)
			return nil, &jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequenceConstant}
		})
		require.NoError(t, d.Add(t.Context(), deadLetter("one")))
		_, err := d.Get(t.Context(), "one")
		require.NoError(t, err)
	})
}

// Whatever anybody stores in the stream can be listed, read and removed.
func TestForeignDeadLetters(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		d, js := testDeadLetters(t, natstest.Connect(t, srv), -1)
		ctx := t.Context()
		require.NoError(t, d.Add(ctx, deadLetter("ours")))
		for _, m := range []*nats.Msg{
			{Subject: "test.dlq.a"},
			{Subject: "test.dlq.a=b.event.g.x", Data: []byte("x")},
			{Subject: "test.dlq.c.event.g.x", Header: nats.Header{deadAttempts: {"many"}, deadKind: {"event"}}},
			{Subject: "test.dlq._seq-1.event.g.x", Header: nats.Header{hdrSequence: {"77"}, hdrSubject: {"test.dlq.forged.a.b.c"}}},
		} {
			_, err := js.JetStream.PublishMsg(ctx, m)
			require.NoError(t, err)
		}
		list, err := d.List(ctx, transport.DeadLetterQuery{})
		require.NoError(t, err)
		var ids []string
		for i, dl := range list {
			ids = append(ids, dl.ID)
			require.EqualValues(t, i+1, dl.Sequence)
			got, err := d.Get(ctx, dl.ID)
			require.NoError(t, err)
			if i > 0 {
				require.ErrorIs(t, dl.Message.Malformed, transport.ErrInvalid)
				require.EqualError(t, got.Message.Malformed, dl.Message.Malformed.Error())
			}
		}
		require.Equal(t, []string{"ours", "_seq-2", "_seq-3", "c", "_seq-5"}, ids)
		for _, id := range ids {
			require.NoError(t, d.Remove(ctx, id))
		}
		st, err := d.Stats(ctx)
		require.NoError(t, err)
		require.Zero(t, st.Count)
	})
}

// Pages from the newest on cross stretches where everything was removed.
func TestDeadLetterListNewestWithHoles(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		d, _ := testDeadLetters(t, natstest.Connect(t, srv), -1)
		ctx := t.Context()
		var want []string
		for i := range 400 {
			id := fmt.Sprint(i)
			require.NoError(t, d.Add(ctx, deadLetter(id)))
			if i > 20 && i < 380 && i != 200 {
				require.NoError(t, d.Remove(ctx, id))
			} else {
				want = append([]string{id}, want...)
			}
		}
		for _, limit := range []int{1, 3, 30, 1000} {
			var got []string
			for q := (transport.DeadLetterQuery{Newest: true, Limit: limit}); ; {
				page, err := d.List(ctx, q)
				require.NoError(t, err)
				if len(page) == 0 {
					break
				}
				require.LessOrEqual(t, len(page), limit)
				for _, dl := range page {
					got = append(got, dl.ID)
				}
				q.After = page[len(page)-1].Sequence
			}
			require.Equal(t, want, got, "limit %d", limit)
		}
	})
}

func TestDeadLettersWithoutBroker(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		cable := natstest.NewCable(srv)
		d, _ := testDeadLetters(t, natstest.Connect(t, cable, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1)), -1)
		require.NoError(t, d.Add(t.Context(), deadLetter("one")))
		cable.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := d.Get(ctx, "one")
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Minute, cable.Mend)
		got, err := d.Get(t.Context(), "one")
		require.NoError(t, err, "it waits")
		require.Equal(t, "it broke", got.Error)
	})
}

// The server drops the oldest without a word; the driver says so.
func TestDeadLettersDropped(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T, srv *embedded.Server) {
		ctx := t.Context()
		d, js := testDeadLetters(t, natstest.Connect(t, srv), 3)
		var logged bytes.Buffer
		d.log = slog.New(slog.NewTextHandler(&logged, nil))
		st, err := js.JetStream.Stream(ctx, d.stream)
		require.NoError(t, err)
		cfg := st.CachedInfo().Config
		cfg.Discard = jetstream.DiscardOld
		_, err = js.UpdateStream(ctx, cfg)
		require.NoError(t, err)
		dropped := func() uint64 {
			st, err := d.Stats(ctx)
			require.NoError(t, err)
			return st.Dropped
		}
		for i := range 3 {
			require.NoError(t, d.Add(ctx, deadLetter(fmt.Sprint(i))))
		}
		require.NoError(t, d.Add(ctx, deadLetter("0")), "it is there")
		require.Zero(t, dropped())
		require.Empty(t, logged.String())
		require.NoError(t, d.Add(ctx, deadLetter("3")))
		require.EqualValues(t, 1, dropped())
		require.Equal(t, 1, strings.Count(logged.String(), "level=ERROR"))
		require.Contains(t, logged.String(), "id=0 name=user.created group=mailer")

		// A large one takes the place of several.
		cfg.MaxBytes = 20 << 10
		_, err = js.UpdateStream(ctx, cfg)
		require.NoError(t, err)
		large := deadLetter("large")
		large.Message.Body = make([]byte, 18<<10)
		require.NoError(t, d.Add(ctx, large))
		require.GreaterOrEqual(t, dropped(), uint64(3))
		left, err := d.Stats(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 5-left.Count, dropped())
	})
}
