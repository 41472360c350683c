package deadletter_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// TestDeadLettersModel runs random steps of the API against a list. The steps are
// drawn before the bubble begins, since rapid keeps time of its own.
func TestDeadLettersModel(t *testing.T) {
	steps := rapid.SliceOfN(rapid.Custom(drawDeadStep), 40, 100)
	rapid.Check(t, func(r *rapid.T) {
		drawn := steps.Draw(r, "steps")
		for _, cfg := range []memory.Config{{MaxDeadLetters: 40}, {MaxDeadLetters: 40, DropDeadLetters: true, Codec: codec.JSON}} {
			var failure any
			synctest.Test(t, func(t *testing.T) {
				defer func() { failure = recover() }()
				tr := memory.New(cfg)
				defer tr.Close(context.Background())
				w := world.New(t, func(context.Context) (transport.Transport, error) { return world.Shared{Transport: tr}, nil })
				w.InProcess = cfg.Codec == nil
				m := newDeadModel(w, "m", redriven(w))
				m.limit, m.drops = cfg.MaxDeadLetters, cfg.DropDeadLetters
				m.run(drawn)
				m.checkDeliveries()
			})
			if failure != nil {
				r.Fatal(failure)
			}
		}
	})
	world.Everywhere(t, func(w *world.World) { // some on every transport
		seen := redriven(w)
		for seed := range 10 {
			m := newDeadModel(w, fmt.Sprint("s", seed), seen)
			m.run(steps.Example(seed))
			m.step(deadStep{name: "purge all"})
			m.checkDeliveries()
		}
	})
}

// lowIDs are those of letters that are redriven one by one.
const lowIDs = 5

// deadStep is one call; what its numbers mean depends on the model.
type deadStep struct {
	name   string
	id     int
	filter int
	newest bool
	limit  int
	count  int
	edit   int
	fault  int
}

func drawDeadStep(r *rapid.T) deadStep {
	return deadStep{
		name:   rapid.SampledFrom([]string{"add", "add", "add low", "add low", "add many", "discard", "get", "purge", "count", "list", "list", "all", "stats", "redrive", "redrive", "redrive", "redrive", "redrive", "redrive", "redrive all", "wait"}).Draw(r, "name"),
		id:     rapid.IntRange(0, 30).Draw(r, "id"),
		filter: rapid.IntRange(0, 4).Draw(r, "filter"),
		newest: rapid.Bool().Draw(r, "newest"),
		limit:  rapid.IntRange(1, 12).Draw(r, "limit"),
		count:  rapid.IntRange(1, 50).Draw(r, "count"),
		edit:   rapid.IntRange(0, 2).Draw(r, "edit"),
		fault:  rapid.IntRange(0, len(deadFaults)).Draw(r, "fault"),
	}
}

// deadFaults interrupt a redrive, as the death of its process or of the connection
// would at that point.
var deadFaults = []struct {
	op     string
	after  bool
	err    error
	marked bool // the mark is made
	stored bool // the copy is
	gone   bool // the dead letter is
}{
	{op: "create", err: transport.ErrUnavailable},
	{op: "create", err: transport.ErrUnavailable, after: true, marked: true},
	{op: "publish", err: transport.ErrInvalid}, // refused: it may be redriven in another way
	{op: "publish", err: transport.ErrUnknown, marked: true},
	{op: "publish", err: transport.ErrUnknown, after: true, marked: true, stored: true},
	{op: "unbury", err: transport.ErrUnavailable, marked: true, stored: true},
	{op: "unbury", err: transport.ErrUnavailable, after: true, marked: true, stored: true, gone: true},
}

// redriveState is what a redrive has left behind of one letter: it outlives the letter,
// for an hour at least.
type redriveState struct {
	edit   int
	stored bool // and the group has got it
}

type deadModel struct {
	w      *world.World
	prefix string
	tr     *world.Faulty
	dl     *bus.DeadLetters
	all    []int // oldest first
	limit  int   // 0: none that matters
	drops  bool

	marks map[int]*redriveState
	seen  *world.Record[world.UserCreated]
	waits int
}

func newDeadModel(w *world.World, prefix string, seen *world.Record[world.UserCreated]) *deadModel {
	tr := world.NewFaulty(w.Open())
	return &deadModel{
		w: w, prefix: prefix, tr: tr, dl: w.BusOn(tr, bus.Config{}).DeadLetters(),
		marks: map[int]*redriveState{}, seen: seen,
	}
}

// redriven listens in the groups of the letters.
func redriven(w *world.World) *world.Record[world.UserCreated] {
	w.Helper()
	seen := world.NewRecord[world.UserCreated]()
	b := w.Bus(bus.Config{Service: "handlers"})
	for i := range 3 {
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error { seen.Add(e); return nil },
			bus.WithGroup(fmt.Sprint("g", i)))
		require.NoError(w, err)
	}
	return seen
}

func (m *deadModel) id(n int) string { return fmt.Sprint(m.prefix, "-", n) }

// edited is the option of an edit; 0 is none.
func edited(edit int) []bus.RedriveOption {
	if edit == 0 {
		return nil
	}
	return []bus.RedriveOption{noted(fmt.Sprint("edit ", edit))}
}

// redrive redrives one letter, with a fault or none.
func (m *deadModel) redrive(s deadStep) {
	n := s.id % lowIDs // so that one is redriven again and again
	there := slices.Contains(m.all, n)
	mark := m.marks[n]
	want := bus.Code("") // "": success
	next, gone := &redriveState{edit: s.edit, stored: true}, true
	fault := s.fault - 1
	if fault >= 0 {
		f := deadFaults[fault]
		hit := world.Times(1, world.Failing(f.op, f.err))
		if f.after {
			m.tr.SetAfter(hit)
		} else {
			m.tr.Set(hit)
		}
		code := bus.CodeUnavailable
		switch f.err {
		case transport.ErrInvalid:
			code = bus.CodeInvalid
		case transport.ErrUnknown:
			code = bus.CodeUnknown
		}
		switch {
		case !there:
		case f.op == "create" && !f.after: // before anything is known
			want, next, gone = code, mark, false
		case mark != nil && mark.edit != s.edit:
			want, next, gone = bus.CodeConflict, mark, false
		case mark != nil && f.op == "create": // there is one, so the fault is not met
		case mark != nil && mark.stored && f.op == "publish": // it is not published again
		case mark == nil && !f.marked:
			want, next, gone = code, nil, false
		default:
			want, gone = code, f.gone
			next = &redriveState{edit: s.edit, stored: f.stored || mark != nil && mark.stored}
		}
	} else if there && mark != nil && mark.edit != s.edit {
		want, next, gone = bus.CodeConflict, mark, false
	}
	res, err := m.dl.Redrive(context.Background(), m.id(n), edited(s.edit)...)
	m.tr.Set(nil)
	m.tr.SetAfter(nil)
	world.Settle(time.Second) // the group takes what is stored
	if !there {
		want, next, gone = bus.CodeNotFound, mark, false
	}
	if bus.CodeOf(err) != want {
		panic(fmt.Sprintf("want %q, got %v (%+v)", want, err, res))
	}
	if next == nil {
		delete(m.marks, n)
	} else {
		m.marks[n] = next
	}
	if gone {
		m.all = slices.DeleteFunc(m.all, func(o int) bool { return o == n })
	}
}

// redriveAll redrives what matches, without a fault.
func (m *deadModel) redriveAll(s deadStep) {
	want := m.matching(deadStep{filter: s.filter})
	conflicts := 0
	for _, n := range want {
		if mark := m.marks[n]; mark != nil && mark.edit != s.edit {
			conflicts++
			continue
		}
		m.marks[n] = &redriveState{edit: s.edit, stored: true}
		m.all = slices.DeleteFunc(m.all, func(o int) bool { return o == n })
	}
	report, err := m.dl.RedriveAll(context.Background(), deadFilters[s.filter].filter, edited(s.edit)...)
	m.must(err)
	if report.Redriven != len(want)-conflicts || report.Failed != conflicts || report.Refused != 0 {
		panic(fmt.Sprintf("want %d redriven and %d conflicts, got %+v", len(want)-conflicts, conflicts, report))
	}
}

// checkDeliveries compares what the handlers had with what was stored: each copy once.
func (m *deadModel) checkDeliveries() {
	world.Settle(time.Minute)
	got := map[string][]string{}
	for _, e := range m.seen.All() {
		if strings.HasPrefix(string(e.ID), m.prefix+"-") {
			got[string(e.ID)] = append(got[string(e.ID)], e.Note)
		}
	}
	for n, mark := range m.marks {
		var want []string
		if mark.stored {
			want = []string{""}
			if mark.edit > 0 {
				want[0] = fmt.Sprint("edit ", mark.edit)
			}
		}
		if !slices.Equal(want, got[m.id(n)]) {
			panic(fmt.Sprintf("letter %d: handled %q, want %q", n, got[m.id(n)], want))
		}
		delete(got, m.id(n))
	}
	if len(got) > 0 {
		panic(fmt.Sprintf("never redriven, and handled: %v", got))
	}
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
	d := letter(m.w, m.id(n))
	d.Handler = ""
	d.Group, d.Error, d.Code = fmt.Sprint("g", n%3), fmt.Sprint("failure ", n), fmt.Sprint("c", n%2)
	return d
}

func (m *deadModel) add(n int) {
	err := m.tr.Transport.DeadLetters().Add(context.Background(), m.letter(n))
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
		ids[i] = m.id(n)
	}
	if !slices.Equal(ids, got) {
		panic(fmt.Sprintf("want %v, got %v", ids, got))
	}
}

func (m *deadModel) number(want, got int) {
	if want != got {
		panic(fmt.Sprintf("want %d, got %d", want, got))
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
	case "add low":
		m.add(s.id % lowIDs)
	case "add many":
		for n := s.id; n < s.id+s.count; n++ {
			m.add(n)
		}
	case "discard":
		if err := m.dl.Discard(ctx, m.id(s.id)); (err == nil) != there {
			panic(err)
		}
		m.all = slices.DeleteFunc(m.all, func(n int) bool { return n == s.id })
	case "get":
		l, err := m.dl.Get(ctx, m.id(s.id))
		if (err == nil) != there {
			panic(err)
		}
		if there {
			e, err := bus.DeadLetterValue[world.UserCreated](l)
			m.must(err)
			m.check([]int{s.id}, []string{string(e.ID)})
		}
	case "purge", "purge all":
		want := m.matching(s)
		n, err := m.dl.Purge(ctx, filter)
		m.must(err)
		m.number(len(want), n)
		m.all = slices.DeleteFunc(m.all, func(n int) bool { return slices.Contains(want, n) })
	case "count":
		n, err := m.dl.Count(ctx, filter)
		m.must(err)
		m.number(len(m.matching(s)), n)
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
	case "redrive":
		m.redrive(s)
	case "wait": // past the dedup window, and not to the end of a mark
		if m.waits++; m.waits <= 10 {
			world.Settle(3 * time.Minute)
		}
	case "redrive all":
		m.redriveAll(s)
	case "stats":
		st, err := m.dl.Stats(ctx)
		m.must(err)
		m.number(len(m.all), st.Count)
	}
}
