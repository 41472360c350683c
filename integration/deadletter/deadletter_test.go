package deadletter_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

func TestDeadLetterOfAFailedEvent(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Retry: world.Steady})
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { panic(world.ErrOops) }, bus.WithName("mail"))
		require.NoError(w, err)
		sent := time.Now()
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada", Note: "hello"},
			bus.WithID("evt-1"), bus.WithKey("k"), bus.WithHeader("Tenant", "t1")))
		world.Settle(time.Minute)

		// Another process sees it too.
		other := w.Bus(bus.Config{Service: "ops"}).DeadLetters()
		page, err := other.List(w.Context(), bus.DeadLetterQuery{})
		require.NoError(w, err)
		require.Len(w, page.Letters, 1)
		require.Empty(w, page.Next)
		l := page.Letters[0]
		got, err := other.Get(w.Context(), l.ID)
		require.NoError(w, err)
		require.Equal(w, l.String(), got.String())

		require.Equal(w, []any{bus.KindEvent, "user.created", "evt-1", "evt-1", "k", "application/json"},
			[]any{l.Kind, l.Name, l.MessageID, l.CorrelationID, l.Key, l.ContentType})
		require.Equal(w, []any{"svc", "mail", bus.CodePanic, 4, "svc"}, []any{l.Group, l.Handler, l.Code, l.Attempts, l.Service})
		require.Contains(w, l.Err, "oops")
		require.Contains(w, l.Stack, "TestDeadLetterOfAFailedEvent")
		require.Empty(w, l.Malformed)
		require.WithinDuration(w, sent, l.First, time.Second)
		require.WithinDuration(w, sent.Add(7*time.Second), l.Last, 2*time.Second)
		require.Equal(w, transport.Header{"Tenant": {"t1"}}, l.Header())
		require.Contains(w, l.String(), "user.created svc/mail attempts=4 id=evt-1 key=k code=panic")

		body, err := l.Body()
		require.NoError(w, err)
		require.JSONEq(w, `{"ID":"ada","Note":"hello"}`, string(body))
		e, err := bus.DeadLetterValue[world.UserCreated](l)
		require.NoError(w, err)
		require.Equal(w, world.UserCreated{ID: "ada", Note: "hello"}, e)
		p, err := bus.DeadLetterValue[*world.UserCreated](l)
		require.NoError(w, err)
		require.Equal(w, &e, p)
		_, err = bus.DeadLetterValue[world.UserDeleted](l)
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.created")

		// What is done to a copy does not show.
		l.Header()["Tenant"][0] = "spoiled"
		if !w.InProcess {
			body[0] = 'X'
		}
		got, err = other.Get(w.Context(), l.ID)
		require.NoError(w, err)
		require.Equal(w, "t1", got.Header().Get("Tenant"))
		again, err := l.Body()
		require.NoError(w, err)
		require.JSONEq(w, `{"ID":"ada","Note":"hello"}`, string(again))

		text, err := json.Marshal(l)
		require.NoError(w, err)
		require.NotContains(w, string(text), "hello")
		require.NotContains(w, string(text), "Tenant")
		var back bus.DeadLetter
		require.NoError(w, json.Unmarshal(text, &back))
		require.Equal(w, l.ID, back.ID)
		_, err = back.Body()
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		_, err = bus.DeadLetterValue[world.UserCreated](back)
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.Nil(w, back.Header())
	})
}

func TestDeadLettersAreFoundByFilter(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		began := time.Now()
		add := func(id string, change func(*transport.DeadLetter)) {
			world.Settle(time.Minute)
			d := letter(w, id)
			if change != nil {
				change(d)
			}
			add(w, tr, d)
		}
		add("plain", nil)
		add("command", func(d *transport.DeadLetter) { d.Kind, d.Group, d.Message.To.Name = "command", "", "user.create" })
		add("session", func(d *transport.DeadLetter) { d.Message.Session, d.Message.To.Session = "s 1", "s 1" })
		add("fallback", func(d *transport.DeadLetter) { d.Message.Session = "s 1" })
		add("other", func(d *transport.DeadLetter) { d.Group, d.Handler = "other", "index" })
		add("timeout", func(d *transport.DeadLetter) { d.Code, d.Error = "timeout", "SMTP: Timed out ✓" })
		add("private", func(d *transport.DeadLetter) { d.Group, d.Message.To.Name = "", "user.created_again" })
		world.Settle(time.Minute)

		for name, c := range map[string]struct {
			filter bus.DeadLetterFilter
			want   string
		}{
			"all":             {bus.DeadLetterFilter{}, "plain command session fallback other timeout private"},
			"commands":        {bus.DeadLetterFilter{Kind: bus.KindCommand}, "command"},
			"events":          {bus.DeadLetterFilter{Kind: bus.KindEvent}, "plain session fallback other timeout private"},
			"name":            {bus.DeadLetterFilter{Name: "user.created"}, "plain session fallback other timeout"},
			"group":           {bus.DeadLetterFilter{Group: "svc"}, "plain session fallback timeout"},
			"handler":         {bus.DeadLetterFilter{Handler: "index"}, "other"},
			"session":         {bus.DeadLetterFilter{Session: "s 1"}, "session fallback"},
			"message":         {bus.DeadLetterFilter{MessageID: "evt-other"}, "other"},
			"code":            {bus.DeadLetterFilter{Code: bus.CodeTimeout}, "timeout"},
			"text":            {bus.DeadLetterFilter{Text: "smtp: TIMED"}, "timeout"},
			"since":           {bus.DeadLetterFilter{Since: began.Add(5 * time.Minute)}, "other timeout private"},
			"until":           {bus.DeadLetterFilter{Until: began.Add(5 * time.Minute)}, "plain command session fallback"},
			"since and until": {bus.DeadLetterFilter{Since: began.Add(2 * time.Minute), Until: began.Add(4 * time.Minute)}, "command session"},
			"where":           {bus.DeadLetterFilter{Where: func(d bus.DeadLetter) bool { return d.Group == "" }}, "command private"},
			"several":         {bus.DeadLetterFilter{Group: "svc", Session: "s 1", Name: "user.created", Code: bus.CodeFailed}, "session fallback"},
			"none":            {bus.DeadLetterFilter{Group: "svc", Handler: "index"}, ""},
		} {
			want := strings.Fields(c.want)
			if want == nil {
				want = []string{}
			}
			for _, newest := range []bool{false, true} {
				page, err := dl.List(w.Context(), bus.DeadLetterQuery{DeadLetterFilter: c.filter, Newest: newest})
				require.NoError(w, err, name)
				got := letterIDs(page.Letters)
				if newest {
					for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
						got[i], got[j] = got[j], got[i]
					}
				}
				require.Equal(w, want, got, "%s, newest first: %v", name, newest)
				require.Empty(w, page.Next, name)
			}
			n, err := dl.Count(w.Context(), c.filter)
			require.NoError(w, err, name)
			require.Equal(w, len(want), n, name)
		}
	})
}

func TestDeadLettersInPages(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		addNumbered(w, tr, 0, 100)
		even := bus.DeadLetterFilter{Where: func(d bus.DeadLetter) bool { return d.ID[len(d.ID)-1]%2 == 0 }}

		pages := func(q bus.DeadLetterQuery) (all []string, sizes []int) {
			for {
				page, err := dl.List(w.Context(), q)
				require.NoError(w, err)
				all = append(all, letterIDs(page.Letters)...)
				sizes = append(sizes, len(page.Letters))
				if q.Cursor = page.Next; q.Cursor == "" {
					return all, sizes
				}
			}
		}
		all, sizes := pages(bus.DeadLetterQuery{Limit: 40})
		require.Equal(w, numbered(0, 99), all)
		require.Equal(w, []int{40, 40, 20}, sizes)
		all, sizes = pages(bus.DeadLetterQuery{Limit: 33, Newest: true})
		require.Equal(w, numbered(99, 0), all)
		require.Equal(w, []int{33, 33, 33, 1}, sizes)
		all, sizes = pages(bus.DeadLetterQuery{Limit: 20, DeadLetterFilter: even})
		require.Len(w, all, 50)
		require.Equal(w, []int{20, 20, 10}, sizes)

		// Coming and going shifts nothing.
		first, err := dl.List(w.Context(), bus.DeadLetterQuery{Limit: 10})
		require.NoError(w, err)
		require.NoError(w, dl.Discard(w.Context(), "9"), "the one that the cursor is at")
		require.NoError(w, dl.Discard(w.Context(), "11"))
		addNumbered(w, tr, 100, 101)
		rest, err := dl.List(w.Context(), bus.DeadLetterQuery{Cursor: first.Next})
		require.NoError(w, err)
		require.Equal(w, append([]string{"10"}, numbered(12, 100)...), letterIDs(rest.Letters))
		require.Empty(w, rest.Next)

		page, err := dl.List(w.Context(), bus.DeadLetterQuery{})
		require.NoError(w, err)
		require.Len(w, page.Letters, 99)
		addNumbered(w, tr, 101, 103)
		page, err = dl.List(w.Context(), bus.DeadLetterQuery{})
		require.NoError(w, err)
		require.Len(w, page.Letters, 100, "the default")
		require.NotEmpty(w, page.Next)

		for _, q := range []bus.DeadLetterQuery{
			{Cursor: first.Next, Newest: true}, {Cursor: "o"}, {Cursor: "x1"}, {Cursor: "o-1"}, {Cursor: "o0"},
			{Limit: -1}, {DeadLetterFilter: bus.DeadLetterFilter{Kind: 7}},
			{DeadLetterFilter: bus.DeadLetterFilter{Since: time.Now(), Until: time.Now()}},
		} {
			_, err := dl.List(w.Context(), q)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%+v", q)
		}
	})
}

func TestAllDeadLetters(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		for range dl.All(w.Context(), bus.DeadLetterQuery{}) {
			require.Fail(w, "there is none")
		}
		addNumbered(w, tr, 0, 70)
		all := func(q bus.DeadLetterQuery, meanwhile func(bus.DeadLetter)) (ids []string) {
			for l, err := range dl.All(w.Context(), q) {
				require.NoError(w, err)
				ids = append(ids, l.ID)
				meanwhile(l)
			}
			return ids
		}
		added := 70
		require.Equal(w, numbered(0, 69), all(bus.DeadLetterQuery{}, func(bus.DeadLetter) { // it ends, whatever comes
			addNumbered(w, tr, added, added+1)
			added++
		}))
		none := func(bus.DeadLetter) {}
		require.Equal(w, numbered(139, 0), all(bus.DeadLetterQuery{Newest: true}, none))
		require.Equal(w, numbered(0, 49), all(bus.DeadLetterQuery{Limit: 50}, none))
		page, err := dl.List(w.Context(), bus.DeadLetterQuery{Limit: 5})
		require.NoError(w, err)
		require.Equal(w, numbered(5, 9), all(bus.DeadLetterQuery{Limit: 5, Cursor: page.Next}, none))
		for l := range dl.All(w.Context(), bus.DeadLetterQuery{}) {
			require.Equal(w, "0", l.ID)
			break
		}
		n := 0
		for _, err := range dl.All(w.Context(), bus.DeadLetterQuery{Limit: -1}) {
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			n++
		}
		require.Equal(w, 1, n)
	})
}

func TestDiscardAndPurgeDeadLetters(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := world.NewFaulty(w.Open())
		dl := w.BusOn(tr, bus.Config{PublishTimeout: time.Second}).DeadLetters()
		addNumbered(w, tr, 0, 60)
		require.NoError(w, dl.Discard(w.Context(), "7"))
		for _, err := range []error{dl.Discard(w.Context(), "7"), second(dl.Get(w.Context(), "7"))} {
			require.ErrorIs(w, err, bus.ErrNoDeadLetter)
			require.Equal(w, bus.CodeNotFound, bus.CodeOf(err))
			require.ErrorContains(w, err, "7")
		}
		for _, id := range []string{"", "a.b", "*", ">", "ü", strings.Repeat("a", 129)} {
			for _, err := range []error{dl.Discard(w.Context(), id), second(dl.Get(w.Context(), id))} {
				require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), id)
			}
		}

		before := bus.DeadLetterFilter{Where: func(d bus.DeadLetter) bool {
			add(w, tr, letter(w, "later-"+d.ID)) // does not keep it going
			return len(d.ID) == 2
		}}
		n, err := dl.Purge(w.Context(), before)
		require.NoError(w, err)
		require.Equal(w, 50, n)
		n, err = dl.Count(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, 9+59, n)

		// When it fails it has done a part, and can be called again.
		removed := 0
		tr.Set(func(_ context.Context, op, _ string) error {
			if op == "unbury" {
				if removed++; removed > 20 {
					return transport.ErrUnavailable
				}
			}
			return nil
		})
		n, err = dl.Purge(w.Context(), bus.DeadLetterFilter{})
		require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err))
		require.Equal(w, 20, n)
		tr.Set(world.Hanging("unbury"))
		began := time.Now()
		n, err = dl.Purge(w.Context(), bus.DeadLetterFilter{})
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.Zero(w, n)
		require.Less(w, time.Since(began), 3*time.Second, "each step is bounded")
		tr.Set(nil)
		n, err = dl.Purge(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, 48, n)
		w.DeadLetters(tr, 0)
	})
}

func second[T any](_ T, err error) error { return err }

func TestDeadLetterStats(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		began := time.Now()
		addNumbered(w, tr, 0, 3)
		world.Settle(time.Hour)
		st, err := dl.Stats(w.Context())
		require.NoError(w, err)
		require.Equal(w, 3, st.Count)
		require.WithinDuration(w, began, st.Oldest, time.Second)
		require.GreaterOrEqual(w, st.Max, 1000)
		require.False(w, st.DropOldest)
		require.Zero(w, st.Dropped+st.Expired)
	})
}

func TestDeadLettersOfAClosedBus(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		dl := b.DeadLetters()
		require.NoError(w, b.Close(w.Context()))
		var errs []error
		add := func(err error) { errs = append(errs, err) }
		add(second(dl.Get(w.Context(), "a")))
		add(second(dl.List(w.Context(), bus.DeadLetterQuery{})))
		add(second(dl.Count(w.Context(), bus.DeadLetterFilter{})))
		add(second(dl.Count(w.Context(), bus.DeadLetterFilter{Name: "x"})))
		add(second(dl.Purge(w.Context(), bus.DeadLetterFilter{})))
		add(second(dl.Stats(w.Context())))
		add(dl.Discard(w.Context(), "a"))
		for _, err := range dl.All(w.Context(), bus.DeadLetterQuery{}) {
			add(err)
		}
		for _, err := range dl.Watch(w.Context(), bus.DeadLetterFilter{}) {
			add(err)
		}
		require.Len(w, errs, 9)
		for i, err := range errs {
			require.ErrorIs(w, err, bus.ErrClosed, i)
			require.Equal(w, bus.CodeClosed, bus.CodeOf(err), i)
		}
	})
}

// A record that another program wrote can be seen and discarded.
func TestDeadLetterOfAnotherProgram(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		dl := w.BusOn(tr, bus.Config{}).DeadLetters()
		d := letter(w, "foreign")
		d.Kind, d.Error, d.Message.To.Name = "saga", "\x1b[31mred\r\nlevel=ERROR", "no name\n"
		add(w, tr, d)
		l, err := dl.Get(w.Context(), "foreign")
		require.NoError(w, err)
		require.Zero(w, l.Kind)
		require.NotContains(w, l.String(), "\n")
		require.NotContains(w, l.String(), "\x1b")
		n, err := dl.Count(w.Context(), bus.DeadLetterFilter{Kind: bus.KindEvent})
		require.NoError(w, err)
		require.Zero(w, n)
		require.NoError(w, dl.Discard(w.Context(), "foreign"))
	})
}

func TestDeadLettersConcurrently(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		w.BusOn(tr, bus.Config{})
		addNumbered(w, tr, 0, 120)
		done := make(chan int, 8)
		for i := range 8 {
			dl := w.Bus(bus.Config{}).DeadLetters()
			go func() {
				n := 0 // -1: it failed
				switch i % 4 {
				case 0, 1: // two purge at once
					_, err := dl.Purge(w.Context(), bus.DeadLetterFilter{})
					if err != nil {
						n = -1
					}
				case 2:
					for _, err := range dl.All(w.Context(), bus.DeadLetterQuery{Newest: true}) {
						if err != nil {
							n = -1
						}
					}
				default:
					for i := range 120 {
						if err := dl.Discard(w.Context(), fmt.Sprint(i)); err != nil && bus.CodeOf(err) != bus.CodeNotFound {
							n = -1
						}
					}
				}
				done <- n
			}()
		}
		for range 8 {
			require.Zero(w, <-done)
		}
		w.DeadLetters(tr, 0)
	})
}
