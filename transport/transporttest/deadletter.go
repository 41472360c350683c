package transporttest

import (
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func deadLetterCases() []testCase {
	return []testCase{
		{name: "DeadLetterFidelity", run: deadLetterFidelity},
		{name: "DeadLetterAddTwice", run: deadLetterAddTwice},
		{name: "DeadLetterList", run: deadLetterList},
		{name: "DeadLetterListDefaultLimit", run: deadLetterListDefaultLimit},
		{name: "DeadLetterRemove", run: deadLetterRemove},
		{name: "DeadLetterConcurrently", run: deadLetterConcurrently},
		{name: "DeadLetterStats", run: deadLetterStats},
		{name: "DeadLetterFull", run: deadLetterFull, needs: func(f Features) bool { return f.MaxDeadLetters > 0 && !f.DropDeadLetters }},
		{name: "DeadLetterDropsOldest", run: deadLetterDropsOldest, needs: func(f Features) bool { return f.MaxDeadLetters > 0 && f.DropDeadLetters }},
		{name: "DeadLetterAge", run: deadLetterAge, needs: func(f Features) bool { return f.Bubble && f.DeadLetterMaxAge > 0 }},
	}
}

func (e *env) deadLetter(id string) *transport.DeadLetter {
	now := time.Now().Truncate(time.Millisecond)
	m := &transport.Message{To: transport.Address{Session: "s.1 ü", Name: "a.done"}, ID: "id of " + id, Key: "k",
		Session: "s.1 ü", CorrelationID: "corr", CausationID: "cause", SentAt: now, ContentType: "text/plain",
		Header: transport.Header{"K": {"a", ""}, "k": {"ü"}}}
	e.fill(m, "text of "+id)
	return &transport.DeadLetter{ID: id, Message: m, Kind: "event", Group: "g", Handler: "pkg.Handle",
		Code: "internal", Error: "it broke:\r\n\tthere ✓", Stack: "goroutine 1\nmain.main()", Attempts: 4,
		First: now.Add(-time.Minute), Last: now, Service: "accounts", Host: "h-1", StreamSequence: 77}
}

func (e *env) add(dead transport.DeadLetters, ids ...string) {
	e.t.Helper()
	for _, id := range ids {
		require.NoError(e.t, dead.Add(e.ctx(), e.deadLetter(id)), "add %s", id)
	}
}

// list is a page: its IDs, and the Sequence of its last record.
func (e *env) list(dead transport.DeadLetters, q transport.DeadLetterQuery) (ids []string, last uint64) {
	e.t.Helper()
	ds, err := dead.List(e.ctx(), q)
	require.NoError(e.t, err, "list %+v", q)
	for _, d := range ds {
		ids, last = append(ids, d.ID), d.Sequence
	}
	return ids, last
}

func (e *env) stats(dead transport.DeadLetters) transport.DeadLetterStats {
	e.t.Helper()
	st, err := dead.Stats(e.ctx())
	require.NoError(e.t, err)
	return st
}

func deadLetterFidelity(e *env) {
	writer, reader := e.open(), e.open()
	want := e.deadLetter("d-1_X")
	require.NoError(e.t, writer.DeadLetters().Add(e.ctx(), want))
	got, err := reader.DeadLetters().Get(e.ctx(), "d-1_X")
	require.NoError(e.t, err)
	listed, err := reader.DeadLetters().List(e.ctx(), transport.DeadLetterQuery{})
	require.NoError(e.t, err)
	require.Len(e.t, listed, 1)
	for _, d := range []*transport.DeadLetter{got, listed[0]} {
		require.NotZero(e.t, d.Sequence)
		require.Equal(e.t, text(want.Message), text(d.Message))
		require.True(e.t, want.First.Equal(d.First) && want.Last.Equal(d.Last), "%v to %v", d.First, d.Last)
		require.True(e.t, want.Message.SentAt.Equal(d.Message.SentAt))
		// Compare the rest field by field: times and bodies have equal forms.
		g, m, w, wm := *d, *d.Message, *want, *want.Message
		g.Sequence, g.First, g.Last, g.Message = 0, time.Time{}, time.Time{}, nil
		w.Sequence, w.First, w.Last, w.Message = 0, time.Time{}, time.Time{}, nil
		m.SentAt, m.Body, m.Value, wm.SentAt, wm.Body, wm.Value = time.Time{}, nil, nil, time.Time{}, nil, nil
		require.Equal(e.t, w, g)
		require.Equal(e.t, wm, m)
	}

	got.Message.Header["K"][0], got.Error = "spoiled", "spoiled"
	again, err := reader.DeadLetters().Get(e.ctx(), "d-1_X")
	require.NoError(e.t, err)
	require.Equal(e.t, want.Message.Header, again.Message.Header)
	require.Equal(e.t, want.Error, again.Error)

	command := e.deadLetter("d-2")
	command.Kind, command.Group, command.StreamSequence = "command", "", 0
	require.NoError(e.t, writer.DeadLetters().Add(e.ctx(), command))
	got, err = reader.DeadLetters().Get(e.ctx(), "d-2")
	require.NoError(e.t, err)
	require.Equal(e.t, "command", got.Kind)
	require.Empty(e.t, got.Group)
}

func deadLetterAddTwice(e *env) {
	dead := e.open().DeadLetters()
	e.add(dead, "one", "two")
	changed := e.deadLetter("one")
	changed.Error = "another"
	require.NoError(e.t, dead.Add(e.ctx(), changed))
	got, err := dead.Get(e.ctx(), "one")
	require.NoError(e.t, err)
	require.Equal(e.t, e.deadLetter("one").Error, got.Error, "the first one stays")
	ids, _ := e.list(dead, transport.DeadLetterQuery{})
	require.Equal(e.t, []string{"one", "two"}, ids)
	require.Equal(e.t, 2, e.stats(dead).Count)
}

func deadLetterList(e *env) {
	dead := e.open().DeadLetters()
	ids, _ := e.list(dead, transport.DeadLetterQuery{})
	require.Empty(e.t, ids)
	e.add(dead, "0", "1", "2", "3", "4", "5", "6")
	require.NoError(e.t, dead.Remove(e.ctx(), "3"))

	for newest, want := range map[bool][][]string{
		false: {{"0", "1"}, {"2", "4"}, {"5", "6"}, nil},
		true:  {{"6", "5"}, {"4", "2"}, {"1", "0"}, nil},
	} {
		var after uint64
		for i, page := range want {
			ids, last := e.list(dead, transport.DeadLetterQuery{After: after, Newest: newest, Limit: 2})
			require.Equal(e.t, page, ids, "page %d, newest first: %v", i, newest)
			after = last
		}
	}

	ids, last := e.list(dead, transport.DeadLetterQuery{Limit: 3})
	require.Equal(e.t, []string{"0", "1", "2"}, ids)
	e.add(dead, "7") // new records do not disturb a listing
	require.NoError(e.t, dead.Remove(e.ctx(), "2"))
	ids, _ = e.list(dead, transport.DeadLetterQuery{After: last})
	require.Equal(e.t, []string{"4", "5", "6", "7"}, ids)
}

func deadLetterListDefaultLimit(e *env) {
	dead := e.open().DeadLetters()
	for i := range 105 {
		e.add(dead, fmt.Sprint(i))
	}
	ids, last := e.list(dead, transport.DeadLetterQuery{})
	require.Equal(e.t, numbers(0, 99), ids)
	ids, _ = e.list(dead, transport.DeadLetterQuery{After: last})
	require.Equal(e.t, numbers(100, 104), ids)
}

func deadLetterRemove(e *env) {
	dead := e.open().DeadLetters()
	require.NoError(e.t, dead.Remove(e.ctx(), "nothing"))
	_, err := dead.Get(e.ctx(), "nothing")
	require.ErrorIs(e.t, err, transport.ErrNotFound)
	e.add(dead, "one", "two")
	before, err := dead.Get(e.ctx(), "two")
	require.NoError(e.t, err)
	require.NoError(e.t, dead.Remove(e.ctx(), "one"))
	require.NoError(e.t, dead.Remove(e.ctx(), "one"))
	_, err = dead.Get(e.ctx(), "one")
	require.ErrorIs(e.t, err, transport.ErrNotFound)
	ids, _ := e.list(dead, transport.DeadLetterQuery{})
	require.Equal(e.t, []string{"two"}, ids)
	require.Equal(e.t, 1, e.stats(dead).Count)

	e.add(dead, "one") // failed again after it was removed
	again, err := dead.Get(e.ctx(), "one")
	require.NoError(e.t, err)
	require.Greater(e.t, again.Sequence, before.Sequence)
}

func deadLetterConcurrently(e *env) {
	one, two := e.open().DeadLetters(), e.open().DeadLetters()
	ctx := e.ctx()
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for w := range 8 { // two writers for each record
		dead := one
		if w%2 == 1 {
			dead = two
		}
		var ds []*transport.DeadLetter
		for i := range 25 {
			ds = append(ds, e.deadLetter(fmt.Sprint(w/2*25+i)))
		}
		wg.Go(func() {
			for _, d := range ds {
				if err := dead.Add(ctx, d); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		require.NoError(e.t, err)
	default:
	}
	ids, _ := e.list(one, transport.DeadLetterQuery{Limit: 200})
	require.ElementsMatch(e.t, numbers(0, 99), ids)
}

func deadLetterFull(e *env) {
	dead := e.open().DeadLetters()
	for i := range e.features.MaxDeadLetters {
		e.add(dead, fmt.Sprint(i))
	}
	require.ErrorIs(e.t, dead.Add(e.ctx(), e.deadLetter("more")), transport.ErrBacklog)
	e.add(dead, "0") // it is there
	require.NoError(e.t, dead.Remove(e.ctx(), "1"))
	e.add(dead, "more")
	require.Equal(e.t, e.features.MaxDeadLetters, e.stats(dead).Count)
}

func deadLetterStats(e *env) {
	dead := e.open().DeadLetters()
	st := e.stats(dead)
	require.Equal(e.t, transport.DeadLetterStats{Max: st.Max, MaxAge: st.MaxAge, DropOldest: e.features.DropDeadLetters}, st)
	if e.features.MaxDeadLetters > 0 {
		require.Equal(e.t, e.features.MaxDeadLetters, st.Max)
	}
	began := time.Now()
	for i := range 4 {
		e.add(dead, fmt.Sprint(i))
		e.pass(e.quiet)
	}
	all, err := dead.List(e.ctx(), transport.DeadLetterQuery{})
	require.NoError(e.t, err)
	for i, d := range all { // a gap is of what is gone
		require.Equal(e.t, all[0].Sequence+uint64(i), d.Sequence)
	}
	st = e.stats(dead)
	require.Equal(e.t, 4, st.Count)
	require.Equal(e.t, all[3].Sequence, st.Last)
	require.WithinDuration(e.t, began, st.Oldest, e.quiet/2)

	require.NoError(e.t, dead.Remove(e.ctx(), "0"))
	require.True(e.t, e.stats(dead).Oldest.After(began.Add(e.quiet/2)))
	for _, id := range []string{"1", "2", "3"} {
		require.NoError(e.t, dead.Remove(e.ctx(), id))
	}
	st = e.stats(dead)
	require.Zero(e.t, st.Count)
	require.Zero(e.t, st.Oldest)
	require.Equal(e.t, all[3].Sequence, st.Last, "of the last one that was added")
	require.Zero(e.t, st.Dropped+st.Expired, "removed is not lost")
	e.add(dead, "4")
	_, last := e.list(dead, transport.DeadLetterQuery{})
	require.Equal(e.t, all[3].Sequence+1, last)
}

func deadLetterDropsOldest(e *env) {
	one, two := e.open().DeadLetters(), e.open().DeadLetters()
	limit := e.features.MaxDeadLetters
	for i := range limit {
		e.add(one, fmt.Sprint(i))
	}
	require.Zero(e.t, e.stats(one).Dropped)
	e.add(one, "0") // it is there: nothing has to make room
	require.Zero(e.t, e.stats(one).Dropped)
	e.add(one, "more", "most")
	ids, _ := e.list(two, transport.DeadLetterQuery{Limit: 2})
	require.Equal(e.t, []string{"2", "3"}, ids)
	st := e.stats(one)
	require.Equal(e.t, limit, st.Count)
	require.EqualValues(e.t, 2, st.Dropped)
	_, err := two.Get(e.ctx(), "0")
	require.ErrorIs(e.t, err, transport.ErrNotFound)
}

func deadLetterAge(e *env) {
	dead := e.open().DeadLetters()
	age := e.features.DeadLetterMaxAge
	require.Equal(e.t, age, e.stats(dead).MaxAge)
	e.add(dead, "old", "removed")
	require.NoError(e.t, dead.Remove(e.ctx(), "removed"))
	e.pass(age * 3 / 4)
	e.add(dead, "young")
	e.pass(age / 2)
	ids, _ := e.list(dead, transport.DeadLetterQuery{})
	require.Equal(e.t, []string{"young"}, ids)
	_, err := dead.Get(e.ctx(), "old")
	require.ErrorIs(e.t, err, transport.ErrNotFound)
	e.pass(age)
	require.Zero(e.t, e.stats(dead).Count)
	e.add(dead, "old") // failed again
	ids, _ = e.list(dead, transport.DeadLetterQuery{})
	require.Equal(e.t, []string{"old"}, ids)
}
