package transporttest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func watchCases() []testCase {
	return []testCase{
		{name: "WatchInitial", run: watchInitial},
		{name: "WatchEmpty", run: watchEmpty},
		{name: "WatchChanges", run: watchChanges},
		{name: "WatchPrefix", run: watchPrefix},
		{name: "WatchExpiry", run: watchExpiry},
		{name: "WatchSlow", run: watchSlow},
		{name: "WatchUnreadDelete", run: watchUnreadDelete},
		{name: "WatchClose", run: watchClose},
	}
}

func (e *env) watch(s transport.Store, prefix string) transport.Source[transport.Entry] {
	e.t.Helper()
	w, err := s.Watch(e.ctx(), prefix)
	require.NoError(e.t, err, "watch %q", prefix)
	return w
}

func (e *env) change(w transport.Source[transport.Entry]) transport.Entry {
	e.t.Helper()
	x, err := w.Next(e.ctx())
	require.NoError(e.t, err, "next change")
	return x
}

// initial reads the keys that are there, up to the marker.
func (e *env) initial(w transport.Source[transport.Entry]) map[string]string {
	e.t.Helper()
	there := map[string]string{}
	for x := e.change(w); x.Key != ""; x = e.change(w) {
		require.False(e.t, x.Deleted, "%s is not there", x.Key)
		there[x.Key] = string(x.Value)
	}
	return there
}

func watchInitial(e *env) {
	one, two := e.open().Store(), e.open().Store()
	a := e.create(one, "p.a", "1", 0)
	e.create(one, "p.b", "2", 0)
	e.create(one, "p.c", "3", 0)
	a, err := one.Update(e.ctx(), "p.a", []byte("4"), a, 0)
	require.NoError(e.t, err)
	require.NoError(e.t, one.Delete(e.ctx(), "p.b", 0))
	w := e.watch(two, "p")
	require.Equal(e.t, map[string]string{"p.a": "4", "p.c": "3"}, e.initial(w))
	d := e.create(two, "p.d", "5", 0)
	require.Equal(e.t, transport.Entry{Key: "p.d", Value: []byte("5"), Revision: d}, e.change(w))
	a, err = two.Update(e.ctx(), "p.a", []byte("6"), a, 0)
	require.NoError(e.t, err)
	require.Equal(e.t, transport.Entry{Key: "p.a", Value: []byte("6"), Revision: a}, e.change(w))
}

func watchEmpty(e *env) {
	s := e.open().Store()
	w := e.watch(s, "")
	require.Equal(e.t, transport.Entry{}, e.change(w))
	e.create(s, "k", "v", 0)
	require.Equal(e.t, "k", e.change(w).Key)
}

func watchChanges(e *env) {
	one, two := e.open().Store(), e.open().Store()
	w := e.watch(one, "")
	e.initial(w)
	var rev uint64
	see := func(value string, deleted bool) {
		e.t.Helper()
		x := e.change(w)
		require.Equal(e.t, "k", x.Key)
		require.Equal(e.t, value, string(x.Value))
		require.Equal(e.t, deleted, x.Deleted)
		require.Greater(e.t, x.Revision, rev)
		rev = x.Revision
	}
	created := e.create(two, "k", "1", 0)
	see("1", false)
	_, err := two.Update(e.ctx(), "k", []byte("2"), created, 0)
	require.NoError(e.t, err)
	see("2", false)
	require.NoError(e.t, two.Delete(e.ctx(), "k", 0))
	see("", true)
	e.create(two, "k", "3", 0)
	see("3", false)
}

func watchPrefix(e *env) {
	s := e.open().Store()
	for _, key := range []string{"a", "a.b", "a.b.c", "a.bc", "a.c", "ab", "b.a.b"} {
		e.create(s, key, "", 0)
	}
	for prefix, want := range map[string][]string{
		"":    {"a", "a.b", "a.b.c", "a.bc", "a.c", "ab", "b.a.b"},
		"a":   {"a", "a.b", "a.b.c", "a.bc", "a.c"},
		"a.b": {"a.b", "a.b.c"},
		"z":   nil,
	} {
		w := e.watch(s, prefix)
		var got []string
		for key := range e.initial(w) {
			got = append(got, key)
		}
		require.ElementsMatch(e.t, want, got, "prefix %q", prefix)
	}
	w := e.watch(s, "a.b")
	e.initial(w)
	for _, key := range []string{"a.bd", "c", "a.x", "a.b.d", "aa.b"} {
		e.create(s, key, "", 0)
	}
	require.Equal(e.t, "a.b.d", e.change(w).Key)
	require.NoError(e.t, s.Delete(e.ctx(), "a.b", 0))
	require.Equal(e.t, "a.b", e.change(w).Key)
}

func watchExpiry(e *env) {
	one, two := e.open().Store(), e.open().Store()
	w := e.watch(two, "lease")
	e.initial(w)
	before := time.Now()
	rev := e.create(one, "lease.a", "v", e.ttl)
	require.Equal(e.t, rev, e.change(w).Revision)
	x := e.change(w)
	require.Equal(e.t, "lease.a", x.Key)
	require.True(e.t, x.Deleted)
	require.Empty(e.t, x.Value)
	require.Greater(e.t, x.Revision, rev)
	require.False(e.t, time.Now().Before(before.Add(e.ttl)), "expired early")
}

// watchSlow: a watcher that falls behind sees at least the last state of each
// key, and holds up nobody.
func watchSlow(e *env) {
	s := e.open().Store()
	w := e.watch(s, "")
	const keys, rounds = 20, 30
	ctx := e.ctx()
	for k := range keys {
		rev := e.create(s, fmt.Sprintf("k.%d", k), "0", 0)
		for r := 1; r <= rounds; r++ {
			var err error
			rev, err = s.Update(ctx, fmt.Sprintf("k.%d", k), []byte(fmt.Sprint(r)), rev, 0)
			require.NoError(e.t, err)
		}
	}
	e.create(s, "z", "end", 0)
	last := map[string]string{}
	for last["z"] == "" {
		x, err := w.Next(ctx)
		require.NoError(e.t, err)
		last[x.Key] = string(x.Value)
	}
	for k := range keys {
		require.Equal(e.t, fmt.Sprint(rounds), last[fmt.Sprintf("k.%d", k)])
	}
}

// watchUnreadDelete: a watcher that does not read while keys go learns of each
// that it was told of, and ends with what is there.
func watchUnreadDelete(e *env) {
	s := e.open().Store()
	e.create(s, "before", "1", 0)
	e.create(s, "told", "1", 0)
	e.create(s, "back", "1", 0)
	w := e.watch(s, "")
	there := e.initial(w)
	require.Len(e.t, there, 3)
	ctx := e.ctx()
	remove := func(key string) {
		e.t.Helper()
		require.NoError(e.t, s.Delete(ctx, key, 0))
	}
	remove("told")
	remove("back")
	e.create(s, "back", "2", 0)
	e.create(s, "brief", "1", 0)
	remove("brief")
	e.create(s, "brief.again", "1", 0)
	remove("brief.again")
	e.create(s, "brief.again", "2", 0)
	e.create(s, "end", "1", 0)
	for there["end"] == "" {
		if x := e.change(w); x.Deleted {
			delete(there, x.Key)
		} else {
			there[x.Key] = string(x.Value)
		}
	}
	require.Equal(e.t, map[string]string{"before": "1", "back": "2", "brief.again": "2", "end": "1"}, there)
}

func watchClose(e *env) {
	s := e.open().Store()
	w := e.watch(s, "")
	e.initial(w)
	ctx := e.ctx()
	waiting := start(func() error { _, err := w.Next(ctx); return err })
	e.close(w)
	require.ErrorIs(e.t, e.result(waiting), transport.ErrClosed)
	_, err := w.Next(e.ctx())
	require.ErrorIs(e.t, err, transport.ErrClosed)
	e.close(w)
	e.create(s, "k", "v", 0)
}
