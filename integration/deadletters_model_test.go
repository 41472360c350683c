package integration_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// TestDeadLettersModel runs random steps of the API against a list. The steps are
// drawn before the bubble begins, since rapid keeps time of its own.
func TestDeadLettersModel(t *testing.T) {
	steps := rapid.SliceOfN(rapid.Custom(drawDeadStep), 1, 60)
	rapid.Check(t, func(r *rapid.T) {
		drawn := steps.Draw(r, "steps")
		for _, cfg := range []memory.Config{{MaxDeadLetters: 40}, {MaxDeadLetters: 40, DropDeadLetters: true, Codec: codec.JSON}} {
			var failure any
			synctest.Test(t, func(t *testing.T) {
				defer func() { failure = recover() }()
				tr := memory.New(cfg)
				defer tr.Close(context.Background())
				w := newWorld(t, func(context.Context) (transport.Transport, error) { return shared{tr}, nil })
				w.inProcess = cfg.Codec == nil
				m := newDeadModel(w)
				m.limit, m.drops = cfg.MaxDeadLetters, cfg.DropDeadLetters
				m.run(drawn)
			})
			if failure != nil {
				r.Fatal(failure)
			}
		}
	})
	everywhere(t, func(w *world) { // some on every transport
		for seed := range 10 {
			m := newDeadModel(w)
			m.run(steps.Example(seed))
			m.step(deadStep{name: "purge all"})
		}
	})
}

// deadStep is one call; what its numbers mean depends on the model.
type deadStep struct {
	name   string
	id     int
	filter int
	newest bool
	limit  int
	count  int
}

func drawDeadStep(r *rapid.T) deadStep {
	return deadStep{
		name:   rapid.SampledFrom([]string{"add", "add", "add many", "discard", "get", "purge", "count", "list", "list", "all", "stats"}).Draw(r, "name"),
		id:     rapid.IntRange(0, 30).Draw(r, "id"),
		filter: rapid.IntRange(0, 4).Draw(r, "filter"),
		newest: rapid.Bool().Draw(r, "newest"),
		limit:  rapid.IntRange(1, 12).Draw(r, "limit"),
		count:  rapid.IntRange(1, 50).Draw(r, "count"),
	}
}

type deadModel struct {
	w     *world
	tr    transport.Transport
	dl    *bus.DeadLetters
	all   []int // oldest first
	limit int   // 0: none that matters
	drops bool
}

func newDeadModel(w *world) *deadModel {
	tr := w.open()
	return &deadModel{w: w, tr: tr, dl: w.busOn(tr, bus.Config{}).DeadLetters()}
}

func (m *deadModel) run(steps []deadStep) {
	for i, s := range steps {
		func() {
			defer func() {
				if p := recover(); p != nil {
					panic(fmt.Sprintf("step %d, %+v: %v", i, s, p))
				}
			}()
			m.step(s)
		}()
	}
}

// deadFilters select by what the number of a letter says.
var deadFilters = []struct {
	filter bus.DeadLetterFilter
	match  func(n int) bool
}{
	{bus.DeadLetterFilter{}, func(int) bool { return true }},
	{bus.DeadLetterFilter{Group: "g1"}, func(n int) bool { return n%3 == 1 }},
	{bus.DeadLetterFilter{Text: "FAILURE 1"}, func(n int) bool { return fmt.Sprint(n)[0] == '1' }},
	{bus.DeadLetterFilter{Group: "g2", Kind: bus.KindEvent, Code: "c1"}, func(n int) bool { return n%3 == 2 && n%2 == 1 }},
	{bus.DeadLetterFilter{Name: "no.such"}, func(int) bool { return false }},
}

func (m *deadModel) letter(n int) *transport.DeadLetter {
	d := m.w.letter(fmt.Sprint(n))
	d.Group, d.Error, d.Code = fmt.Sprint("g", n%3), fmt.Sprint("failure ", n), fmt.Sprint("c", n%2)
	return d
}

func (m *deadModel) add(n int) {
	err := m.tr.DeadLetters().Add(context.Background(), m.letter(n))
	full := m.limit > 0 && len(m.all) == m.limit
	switch {
	case slices.Contains(m.all, n):
		m.must(err)
	case full && !m.drops:
		if err == nil {
			panic("added over the limit")
		}
	default:
		m.must(err)
		if full {
			m.all = m.all[1:]
		}
		m.all = append(m.all, n)
	}
}

func (m *deadModel) must(err error) {
	if err != nil {
		panic(err)
	}
}

// check compares ids with the numbers that are wanted.
func (m *deadModel) check(want []int, got []string) {
	ids := make([]string, len(want))
	for i, n := range want {
		ids[i] = fmt.Sprint(n)
	}
	if !slices.Equal(ids, got) {
		panic(fmt.Sprintf("want %v, got %v", ids, got))
	}
}

func (m *deadModel) matching(s deadStep) []int {
	match := deadFilters[s.filter].match
	found := slices.DeleteFunc(slices.Clone(m.all), func(n int) bool { return !match(n) })
	if s.newest {
		slices.Reverse(found)
	}
	return found
}

func (m *deadModel) step(s deadStep) {
	ctx := context.Background()
	filter := deadFilters[s.filter].filter
	there := slices.Contains(m.all, s.id)
	switch s.name {
	case "add":
		m.add(s.id)
	case "add many":
		for n := s.id; n < s.id+s.count; n++ {
			m.add(n)
		}
	case "discard":
		if err := m.dl.Discard(ctx, fmt.Sprint(s.id)); (err == nil) != there {
			panic(err)
		}
		m.all = slices.DeleteFunc(m.all, func(n int) bool { return n == s.id })
	case "get":
		l, err := m.dl.Get(ctx, fmt.Sprint(s.id))
		if (err == nil) != there {
			panic(err)
		}
		if there {
			e, err := bus.DeadLetterValue[userCreated](l)
			m.must(err)
			m.check([]int{s.id}, []string{string(e.ID)})
		}
	case "purge", "purge all":
		want := m.matching(s)
		n, err := m.dl.Purge(ctx, filter)
		m.must(err)
		m.check([]int{len(want)}, []string{fmt.Sprint(n)})
		m.all = slices.DeleteFunc(m.all, func(n int) bool { return slices.Contains(want, n) })
	case "count":
		n, err := m.dl.Count(ctx, filter)
		m.must(err)
		m.check([]int{len(m.matching(s))}, []string{fmt.Sprint(n)})
	case "list":
		var got []string
		q := bus.DeadLetterQuery{DeadLetterFilter: filter, Newest: s.newest, Limit: s.limit}
		for first := true; first || q.Cursor != ""; first = false {
			page, err := m.dl.List(ctx, q)
			m.must(err)
			if len(page.Letters) > s.limit || page.Next != "" && len(page.Letters) < s.limit {
				panic(fmt.Sprintf("a page of %d, next %q", len(page.Letters), page.Next))
			}
			got = append(got, letterIDs(page.Letters)...)
			q.Cursor = page.Next
		}
		m.check(m.matching(s), got)
	case "all":
		want := m.matching(s)
		var got []string
		for l, err := range m.dl.All(ctx, bus.DeadLetterQuery{DeadLetterFilter: filter, Newest: s.newest, Limit: s.limit}) {
			m.must(err)
			got = append(got, l.ID)
		}
		m.check(want[:min(len(want), s.limit)], got)
	case "stats":
		st, err := m.dl.Stats(ctx)
		m.must(err)
		m.check([]int{len(m.all)}, []string{fmt.Sprint(st.Count)})
	}
}
