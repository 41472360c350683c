//go:build unix

package process

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// sound is a history in which nothing is wrong.
func sound() []record {
	return []record{
		{What: trying, ID: "e-p1-1"}, {What: trying, ID: "e-p1-2"}, {What: trying, ID: "e-p1-poison-3"}, {What: trying, ID: "e-s-1"},
		{What: published, ID: "e-p1-1", At: 1}, {What: doubted, ID: "e-p1-2", At: 2}, {What: published, ID: "e-p1-2", At: 3},
		{What: began, ID: "e-p1-1", Group: "g", Attempt: 1, At: 4, by: "h1"}, {What: ended, ID: "e-p1-1", Group: "g", Text: "done", At: 5, by: "h1"},
		{What: began, ID: "e-p1-2", Group: "g", Attempt: 1, At: 6, by: "h1"}, // killed there
		{What: began, ID: "e-p1-2", Group: "g", Attempt: 2, At: 7, by: "h2"}, {What: ended, ID: "e-p1-2", Group: "g", Text: "done", At: 8, by: "h2"},
		{What: published, ID: "e-p1-poison-3", At: 9}, {What: buried, ID: "e-p1-poison-3", Group: "g", At: 10},
		{What: heard, ID: "e-s-1", Group: "s", Session: "s", At: 11},
		{What: asked, ID: "k-1", At: 12}, {What: executing, ID: "k-1", At: 13, by: "h1"}, {What: executing, ID: "k-1", At: 14, by: "h2"},
		{What: executed, ID: "k-1", At: 15, by: "h2"}, {What: answered, ID: "k-1", Text: "k-1 by h2", At: 16}, {What: answered, ID: "k-1", Text: "k-1 by h2", At: 17},
		{What: asked, ID: "c-1", At: 18}, {What: executing, ID: "c-1", At: 19, by: "h2"}, {What: executed, ID: "c-1", At: 20, by: "h2"},
		{What: answered, ID: "c-1", Text: "c-1 by h2", At: 21},
		{What: stored, ID: "e-p1-1", Group: "p1", Text: "1", At: 22}, {What: stored, ID: "e-p1-2", Group: "p1", Text: "2", At: 23},
		{What: stored, ID: "e-p1-poison-3", Group: "p1", Text: "3", At: 24},
	}
}

func check(rs []record) []string {
	h := newHistory()
	h.dead["h1"] = true
	h.all = rs
	return h.violations([]string{"g"})
}

func TestCheckerFindsNothingInASoundHistory(t *testing.T) { require.Empty(t, check(sound())) }

// The checker is worth nothing if it lets things pass.
func TestCheckerFindsWhatIsPlanted(t *testing.T) {
	without := func(f func(record) bool) func([]record) []record {
		return func(rs []record) []record { return slices.DeleteFunc(rs, f) }
	}
	with := func(more ...record) func([]record) []record {
		return func(rs []record) []record { return append(rs, more...) }
	}
	change := func(what, id string, f func(*record)) func([]record) []record {
		return func(rs []record) []record {
			f(&rs[slices.IndexFunc(rs, func(r record) bool { return r.What == what && r.ID == id })])
			return rs
		}
	}
	for name, c := range map[string]struct {
		plant func([]record) []record
		want  string
	}{
		"an event lost from the stream": {without(func(r record) bool { return r.What == stored && r.ID == "e-p1-2" }), "not in the stream"},
		"an event stored twice":         {with(record{What: stored, ID: "e-p1-2", Group: "p1", Text: "2", At: 25}), "stored 2 times"},
		"an event out of order":         {change(stored, "e-p1-1", func(r *record) { r.At = 30 }), "stored after number"},
		"an event of nobody":            {with(record{What: stored, ID: "e-p9-1", Group: "p9", Text: "1", At: 25}), "nobody published"},
		"an event that was not handled": {without(func(r record) bool { return r.What == ended && r.ID == "e-p1-2" }), "neither handled"},
		"a run of what nobody sent":     {with(record{What: began, ID: "e-x", Group: "g", At: 25}), "nobody published"},
		"a dead letter that vanished":   {without(func(r record) bool { return r.What == buried }), "neither handled"},
		"a dead letter twice":           {with(record{What: buried, ID: "e-p1-poison-3", Group: "g", At: 25}), "two dead letters"},
		"a dead letter without cause":   {with(record{What: buried, ID: "e-p1-1", Group: "g", At: 25}), "second run handles"},
		"an event of another session":   {change(heard, "e-s-1", func(r *record) { r.Session = "other" }), "of session \"other\""},
		"a late execution":              {with(record{What: executing, ID: "k-1", At: 25, by: "h2"}), "after its caller had the result"},
		"two executions at once":        {change(executing, "k-1", func(r *record) { r.by = "h3" }), "while it ran in h3"},
		"a command that ran twice":      {with(record{What: executing, ID: "c-1", At: 25, by: "h2"}), "ran 2 times"},
		"two results":                   {change(answered, "k-1", func(r *record) { r.Text = "k-1 by h3" }), "had the results"},
		"somebody else's result":        {change(answered, "c-1", func(r *record) { r.Text = "c-2 by h2" }), "result of another"},
		"an answer without a run":       {without(func(r record) bool { return r.What == executing && r.ID == "c-1" }), "did not run"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := check(c.plant(sound()))
			require.NotEmpty(t, bad)
			require.Contains(t, bad[0], c.want, "%q", bad)
		})
	}
}
