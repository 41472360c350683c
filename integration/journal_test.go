package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec/msgpack"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// journal returns what the journal answers.
func journal(w *world.World, b *bus.Bus, q bus.JournalQuery) []bus.JournalEntry {
	w.Helper()
	entries, err := b.Journal(q)
	require.NoError(w, err)
	return entries
}

// entryLines are entries in short.
func entryLines(entries []bus.JournalEntry) []string {
	lines := []string{}
	for _, e := range entries {
		lines = append(lines, fmt.Sprintf("%s %s %s/%s %d %s", e.Stage, e.Name, e.Group, e.Handler, e.Attempt, e.Code))
	}
	return lines
}

func TestJournalKeepsWhatWasObserved(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{
			Journal: bus.JournalConfig{Size: 100}, Retry: resilience.Retry{MaxRetries: 1, Initial: 2 * time.Second, Jitter: resilience.NoJitter}})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error {
			time.Sleep(3 * time.Second)
			return fmt.Errorf("mailbox full: %w", world.ErrOops)
		}, bus.WithName("mailer"))
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			return "1", bus.Publish(ctx, b, world.UserCreated{ID: "1"}, bus.WithKey("k"), bus.WithID("evt"))
		}))
		began := time.Now()
		_, err = bus.Execute(bus.ContextWithSession(w.Context(), "s/1"), b, world.CreateUser{Name: "ada"}, bus.WithID("cmd"))
		require.NoError(w, err)
		told.Wait(w, 7)
		world.Settle(time.Minute)

		entries := journal(w, b, bus.JournalQuery{})
		require.ElementsMatch(w, []string{
			"sent user.created / 0 ", "handled user.create /svc 1 ", "sent user.create / 0 ",
			"handled user.created svc/mailer 1 failed", "retrying user.created svc/mailer 1 failed",
			"handled user.created svc/mailer 2 failed", "dead-lettered user.created svc/mailer 2 failed",
			"sent jitney.dead_lettered / 0 ",
		}, entryLines(entries))
		for i, r := range told.All() {
			e, m := entries[i], r.Meta()
			require.Equal(w, uint64(i+1), e.Number)
			require.WithinRange(w, e.Time, began, time.Now())
			require.True(w, m.SentAt.Equal(e.SentAt))
			require.Equal(w, []any{r.Stage, r.Kind, r.Name, r.Group, r.Handler, r.Attempt, r.Elapsed, r.Delay},
				[]any{e.Stage, e.Kind, e.Name, e.Group, e.Handler, e.Attempt, e.Elapsed, e.Delay})
			require.Equal(w, []string{m.ID, "s/1", "cmd", m.CausationID, m.Key},
				[]string{e.ID, e.Session, e.CorrelationID, e.CausationID, e.Key})
			if r.Err != nil {
				require.Equal(w, r.Err.Error(), e.Err)
				require.Contains(w, e.Err, "mailbox full: oops")
			} else {
				require.Empty(w, e.Err)
			}
		}
	})
}

func TestJournalAnswersQueries(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Journal: bus.JournalConfig{Size: 100}})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"}, bus.WithID("c1")) // 1 and 2
		require.NoError(w, err)
		world.Settle(time.Second)
		middle := time.Now()
		world.Settle(time.Second)
		require.NoError(w, bus.Publish(bus.ContextWithSession(w.Context(), "job"), b, world.UserCreated{}, bus.WithID("e1"))) // 3
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e2")))                                // 4
		world.Settle(time.Second)
		for what, c := range map[string]struct {
			q    bus.JournalQuery
			want []uint64
		}{
			"all, oldest first": {bus.JournalQuery{}, []uint64{1, 2, 3, 4}},
			"newest first":      {bus.JournalQuery{Newest: true}, []uint64{4, 3, 2, 1}},
			"the first two":     {bus.JournalQuery{Limit: 2}, []uint64{1, 2}},
			"the last two":      {bus.JournalQuery{Limit: 2, Newest: true}, []uint64{4, 3}},
			"limit over all":    {bus.JournalQuery{Limit: 9}, []uint64{1, 2, 3, 4}},
			"name":              {bus.JournalQuery{Name: "user.created"}, []uint64{3, 4}},
			"kind":              {bus.JournalQuery{Kind: bus.KindCommand}, []uint64{1, 2}},
			"stage":             {bus.JournalQuery{Stage: bus.StageHandled}, []uint64{1}},
			"session":           {bus.JournalQuery{Session: "job"}, []uint64{3}},
			"id":                {bus.JournalQuery{ID: "e2"}, []uint64{4}},
			"correlation id":    {bus.JournalQuery{CorrelationID: "c1"}, []uint64{1, 2}},
			"since":             {bus.JournalQuery{Since: middle}, []uint64{3, 4}},
			"all must match":    {bus.JournalQuery{Kind: bus.KindCommand, Stage: bus.StageSent, Newest: true}, []uint64{2}},
			"nothing":           {bus.JournalQuery{Name: "user"}, nil},
		} {
			var got []uint64
			for _, e := range journal(w, b, c.q) {
				got = append(got, e.Number)
			}
			require.Equal(w, c.want, got, what)
		}
		require.NotNil(w, journal(w, b, bus.JournalQuery{Name: "user"}), "as JSON it is an empty list")
		_, err = b.Journal(bus.JournalQuery{Limit: -1})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.EqualError(w, err, "journal: limit -1 is negative; 0 is no limit")

		require.NoError(w, b.Close(context.Background()))
		require.Len(w, journal(w, b, bus.JournalQuery{}), 4, "it can be read after Close")
	})
}

func TestJournalKeepsTheLast(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Journal: bus.JournalConfig{Size: 3, MaxAge: time.Minute}})
		require.Empty(w, journal(w, b, bus.JournalQuery{}))
		ids := func(q bus.JournalQuery) (ids []string) {
			for _, e := range journal(w, b, q) {
				ids = append(ids, strconv.FormatUint(e.Number, 10)+e.ID)
			}
			return ids
		}
		for i := range 8 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID(strings.Repeat(string(rune('a'+i)), 1+i%4))))
			world.Settle(10 * time.Second)
			if i == 1 {
				require.Equal(w, []string{"1a", "2bb"}, ids(bus.JournalQuery{}))
			}
		}
		require.Equal(w, []string{"6ff", "7ggg", "8hhhh"}, ids(bus.JournalQuery{}))
		require.Equal(w, []string{"8hhhh", "7ggg", "6ff"}, ids(bus.JournalQuery{Newest: true}))
		world.Settle(35 * time.Second)
		require.Equal(w, []string{"7ggg", "8hhhh"}, ids(bus.JournalQuery{}), "6 is older than a minute")
		require.Equal(w, []string{"8hhhh"}, ids(bus.JournalQuery{Since: time.Now().Add(-50 * time.Second)}))
		require.Equal(w, []string{"7ggg", "8hhhh"}, ids(bus.JournalQuery{Since: time.Now().Add(-time.Hour)}))
		world.Settle(time.Minute)
		require.Empty(w, ids(bus.JournalQuery{}))
	})
}

func TestJournalKeepsNoBodiesAndNoHeaders(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{Journal: bus.JournalConfig{Size: 10}})
		_, err := bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "secret"}, bus.WithHeader("Authorization", "secret")))
		told.Wait(w, 2)
		text, err := json.Marshal(journal(w, b, bus.JournalQuery{}))
		require.NoError(w, err)
		require.Contains(w, string(text), "user.created")
		require.NotContains(w, string(text), "secret")
		require.NotContains(w, string(text), "Authorization")
	})
}

func TestJournalBodies(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b, told := w.Observed(tr, bus.Config{Journal: bus.JournalConfig{Bodies: true, MaxBody: 41}})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, *world.UserCreated) error { return nil })
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		e := &world.UserCreated{ID: "ada", Note: "short"}
		require.NoError(w, bus.Publish(w.Context(), b, e, bus.WithHeader("Authorization", "secret")))
		require.NoError(w, bus.Publish(w.Context(), b, &world.UserCreated{ID: "bob", Note: strings.Repeat("ä", 20)}))
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "eve"})
		require.NoError(w, err)
		told.Wait(w, 6)
		e.ID = "changed" // it is ours again: every listener has handled it
		count := map[string]int{}
		entries := journal(w, b, bus.JournalQuery{})
		for _, e := range entries {
			count[fmt.Sprint(e.Name, " ", e.BodySize, " ", e.Body)]++
			require.NotContains(w, e.String(), "secret")
		}
		require.Equal(w, map[string]int{
			`user.created 27 {"ID":"ada","Note":"short"}`:    2,
			`user.created 62 {"ID":"bob","Note":"ääääääääää`: 2, // the limit is inside a character
			`user.create 14 {"Name":"eve"}`:                  2,
		}, count)
	})
}

// What travels in another encoding is JSON in the journal, and a sender may use its
// event again as soon as PublishAsync has returned.
func TestJournalBodiesOfOtherCodecs(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, told := w.Observed(w.Open(), bus.Config{Codec: msgpack.Codec, Journal: bus.JournalConfig{Bodies: true}})
		_, err := bus.SubscribeBatch(w.Context(), b, func(_ context.Context, es []*world.UserCreated) error {
			if !w.InProcess {
				es[0].ID = "kept by the handler"
			}
			return nil
		})
		require.NoError(w, err)
		e := &world.UserCreated{ID: "ada", Note: "n"}
		p, err := bus.PublishAsync(w.Context(), b, e)
		require.NoError(w, err)
		if !w.InProcess {
			e.ID = "next"
		}
		require.NoError(w, p.Wait(w.Context()))
		told.Wait(w, 2)
		entries := journal(w, b, bus.JournalQuery{})
		require.Len(w, entries, 2)
		for _, e := range entries {
			require.Equal(w, `{"ID":"ada","Note":"n"}`, e.Body, e.Stage)
		}
	})
}

// reentrant is a message and an error whose methods ask the journal.
type reentrant struct{ journal func() }

func (reentrant) MessageName() string            { return "reentrant" }
func (r reentrant) MarshalJSON() ([]byte, error) { r.journal(); return []byte(`"asked"`), nil }
func (r reentrant) Error() string                { r.journal(); return "asked" }

// unwilling cannot be encoded.
type unwilling struct{}

func (unwilling) MessageName() string          { return "unwilling" }
func (unwilling) MarshalJSON() ([]byte, error) { panic("not today") }

func TestJournalRunsUsersCodeWithoutALock(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if !w.InProcess {
			return // there it is encoded before anything is observed
		}
		b, told := w.Observed(w.Open(), bus.Config{Journal: bus.JournalConfig{Size: 2, Bodies: true}})
		ask := func() { _ = journal(w, b, bus.JournalQuery{}) }
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, r reentrant) error { return bus.Permanent(r) })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, reentrant{ask}))
		told.Wait(w, 3)
		world.Settle(time.Second) // the news of the dead letter takes the place of the first two
		require.Equal(w, `"asked"`, journal(w, b, bus.JournalQuery{Name: "reentrant"})[0].Body)

		require.NoError(w, bus.Publish(w.Context(), b, unwilling{}))
		e := journal(w, b, bus.JournalQuery{Name: "unwilling"})[0]
		require.Equal(w, []any{"unwilling", bus.StageSent, "", 0}, []any{e.Name, e.Stage, e.Body, e.BodySize})
	})
}

func TestJournalOfWhatCannotBeDecoded(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if w.InProcess {
			return // values are not decoded
		}
		tr := w.Open()
		b, told := w.Observed(tr, bus.Config{Journal: bus.JournalConfig{Bodies: true}})
		_, err := bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed))
		require.NoError(w, err)
		long := strings.Repeat("x", 5000)
		require.NoError(w, tr.Publish(w.Context(), &transport.Message{
			To: transport.Address{Name: "user.created"}, ID: "bad", Key: long, CorrelationID: long, Body: []byte("{\x00\n" + long)}))
		told.Wait(w, 1)
		e := journal(w, b, bus.JournalQuery{CorrelationID: long})[0]
		require.Equal(w, []any{bus.StageDeadLettered, bus.CodeInvalid, "bad", 5003}, []any{e.Stage, e.Code, e.ID, e.BodySize})
		require.Equal(w, "{\x00\n"+long[:4093], e.Body)
		require.Len(w, e.Key, 256)
		require.Contains(w, e.String(), `body={\x00\nxxx`)
		require.True(w, strings.HasSuffix(e.String(), "xxx… and 907 bytes"), e.String())
	})
}

func TestJournalCutsErrors(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Journal: bus.JournalConfig{Size: 10}})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) {
			return "", errors.New(strings.Repeat("long ", 1000))
		}))
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.Error(w, err)
		for _, e := range journal(w, b, bus.JournalQuery{}) {
			require.Len(w, e.Err, 1024)
			require.Equal(w, bus.CodeFailed, e.Code)
		}
	})
}

func TestJournalIsBesideObservers(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		cfg := bus.Config{Journal: bus.JournalConfig{Size: 10}}
		one, two := world.NewRecord[bus.Record](), world.NewRecord[bus.Record]()
		observers := make([]bus.Observer, 1, 4)
		observers[0] = one.Add
		cfg.Observers = observers
		cfg.Observers = observers
		first := w.Bus(cfg)
		observers = append(observers, two.Add) // in the same array
		b := w.Bus(bus.Config{Observers: observers, Journal: cfg.Journal})
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		require.Len(w, journal(w, b, bus.JournalQuery{}), 1)
		require.Len(w, one.All(), 1)
		require.Len(w, two.All(), 1)
		require.NoError(w, bus.Publish(w.Context(), first, world.UserCreated{}))
		require.Len(w, journal(w, first, bus.JournalQuery{}), 1)
		require.Len(w, one.All(), 2)
		require.Len(w, two.All(), 1)
	})
}

func TestNoJournal(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		entries, err := b.Journal(bus.JournalQuery{})
		require.Nil(w, entries)
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.EqualError(w, err, "journal: this bus keeps no journal: set Config.Journal, such as its Size")
	})
}

func TestJournalEntriesAreJSON(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Journal: bus.JournalConfig{Bodies: true}})
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) { return "", world.ErrOops }))
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.Error(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithDelay(time.Hour)))
		all := journal(w, b, bus.JournalQuery{})
		require.Len(w, all, 3)
		text, err := json.Marshal(all)
		require.NoError(w, err)
		var fields []map[string]any
		require.NoError(w, json.Unmarshal(text, &fields))
		for _, entry := range fields {
			for field := range entry {
				require.Regexp(w, `^[a-z_]+$`, field)
			}
		}
		var back []bus.JournalEntry
		require.NoError(w, json.Unmarshal(text, &back))
		for i := range all {
			require.True(w, all[i].Time.Equal(back[i].Time))
			require.True(w, all[i].SentAt.Equal(back[i].SentAt))
			all[i].Time, all[i].SentAt = back[i].Time, back[i].SentAt
		}
		require.Equal(w, all, back)
	})
	for _, text := range []string{`{"stage":"unknown"}`, `{"kind":"unknown"}`, `{"kind":""}`} {
		require.ErrorContains(t, json.Unmarshal([]byte(text), new(bus.JournalEntry)), "unknown ")
	}
}

// Entries are whole and in order while the ring is written to from all sides.
func TestJournalUnderLoad(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		const writers, each = 8, 50
		b, told := w.Observed(w.Open(), bus.Config{Journal: bus.JournalConfig{Size: 7, Bodies: true}})
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		stop := make(chan struct{})
		var readers, wg sync.WaitGroup
		check := func(newest bool) {
			var last uint64
			for i, e := range journal(w, b, bus.JournalQuery{Newest: newest}) {
				if i > 0 {
					require.Equal(w, newest, e.Number < last, "in order")
				}
				last = e.Number
				want := fmt.Sprintf(`{"Name":"%s"}`, e.ID)
				require.Equal(w, []string{want, e.ID}, []string{e.Body, e.CorrelationID}, "of one message")
			}
		}
		for i := range 2 {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						check(i == 0)
						runtime.Gosched()
					}
				}
			})
		}
		for i := range writers {
			wg.Go(func() {
				for k := range each {
					id := strings.Repeat(fmt.Sprintf("%d-%d.", i, k), 1+k%5)
					_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: id}, bus.WithID(id))
					if err != nil {
						w.Error(err)
					}
				}
			})
		}
		wg.Wait()
		close(stop)
		readers.Wait()
		total := uint64(len(told.All()))
		require.Equal(w, uint64(2*writers*each), total)
		entries := journal(w, b, bus.JournalQuery{})
		require.Len(w, entries, 7)
		for i, e := range entries {
			require.Equal(w, total-6+uint64(i), e.Number)
		}
	})
}
