package filter_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/filter"
)

// formula is a composition and what it means.
type formula struct {
	filter bus.Filter
	means  func(m *bus.Message) bool
	value  bool
}

var (
	someSessions = []string{"", "a", "b", "c"}
	someNames    = []string{"x", "y"}
)

// atoms draws a filter that is no composition.
func atoms(t *rapid.T) formula {
	subset := func(of []string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 1, len(of), rapid.ID[string]).Draw(t, "of")
	}
	switch rapid.IntRange(0, 5).Draw(t, "atom") {
	case 0:
		ids := subset(someSessions)
		return formula{filter.Sessions(ids...), func(m *bus.Message) bool { return slices.Contains(ids, m.Session) }, false}
	case 1:
		ids := subset(someSessions)
		return formula{filter.NotSessions(ids...), func(m *bus.Message) bool { return !slices.Contains(ids, m.Session) }, false}
	case 2:
		names := subset(someNames)
		return formula{filter.Names(names...), func(m *bus.Message) bool { return slices.Contains(names, m.Name) }, false}
	case 3:
		return formula{filter.Where(big), func(m *bus.Message) bool { return m.Value.(placed).Total > 100 }, true}
	case 4: // one that names no session at all
		none := bus.Filter{Name: "none", Sessions: []string{}, Pass: func(*bus.Message) bool { return false }}
		return formula{none, none.Pass, false}
	default:
		return formula{bus.Filter{}, func(*bus.Message) bool { return true }, false}
	}
}

// formulas draws a filter of any depth up to depth.
func formulas(t *rapid.T, depth int) formula {
	if depth == 0 {
		return atoms(t)
	}
	var parts []formula
	var filters []bus.Filter
	value := false
	for range rapid.IntRange(1, 3).Draw(t, "parts") {
		p := formulas(t, depth-1)
		parts, filters, value = append(parts, p), append(filters, p.filter), value || p.value
	}
	holds := func(m *bus.Message) func(formula) bool { return func(f formula) bool { return f.means(m) } }
	switch rapid.IntRange(0, 3).Draw(t, "operator") {
	case 0:
		return formula{filter.All(filters...), func(m *bus.Message) bool {
			return !slices.ContainsFunc(parts, func(f formula) bool { return !f.means(m) })
		}, value}
	case 1:
		return formula{filter.Any(filters...), func(m *bus.Message) bool { return slices.ContainsFunc(parts, holds(m)) }, value}
	case 2:
		return formula{filter.Not(filters[0]), func(m *bus.Message) bool { return !parts[0].means(m) }, parts[0].value}
	default:
		return atoms(t)
	}
}

// Compositions are boolean algebra, and what they say of themselves is true: they
// pass no message of a session that they do not name.
func TestCompositions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := formulas(t, rapid.IntRange(0, 4).Draw(t, "depth"))
		require.NoError(t, f.filter.Err)
		require.Equal(t, f.value, f.filter.Value)
		for _, session := range someSessions {
			for _, name := range someNames {
				for _, total := range []int{1, 101} {
					m := &bus.Message{Session: session, Name: name, Value: placed{total}}
					want := f.means(m)
					pass := f.filter.Pass == nil || f.filter.Pass(m)
					require.Equal(t, want, pass, "%s of %+v", f.filter.Name, m)
					if pass && f.filter.Sessions != nil {
						require.Contains(t, f.filter.Sessions, session, f.filter.Name)
					}
				}
			}
		}
	})
}

func TestSessionsOfCompositions(t *testing.T) {
	ab, bc, x := filter.Sessions("a", "b"), filter.Sessions("b", "c"), filter.Names("x")
	for _, c := range []struct {
		f    bus.Filter
		want []string
	}{
		{filter.All(ab, bc), []string{"b"}},
		{filter.All(x, ab), []string{"a", "b"}},
		{filter.All(ab, filter.Sessions("c")), []string{}},
		{filter.All(x), nil},
		{filter.All(), nil},
		{filter.Any(ab, bc), []string{"a", "b", "b", "c"}},
		{filter.Any(ab, x), nil},
		{filter.Any(ab, bus.Filter{}), nil},
		{filter.Any(filter.All(ab, x), filter.All(x, bc)), []string{"a", "b", "b", "c"}},
		{filter.Not(ab), nil},
		{filter.Not(filter.NotSessions("a")), nil},
	} {
		require.Equal(t, c.want, c.f.Sessions, c.f.Name)
	}
}

func TestCompositionsAreLazyAndInOrder(t *testing.T) {
	var asked []string
	ask := func(name string, pass bool) bus.Filter {
		return bus.Filter{Name: name, Pass: func(*bus.Message) bool { asked = append(asked, name); return pass }}
	}
	yes, no, never := ask("yes", true), ask("no", false), ask("never", true)
	f := filter.All(filter.Any(no, yes, never), filter.Not(no), no, never)
	require.Equal(t, "all(any(no, yes, never), not(no), no, never)", f.Name)
	require.False(t, f.Pass(&bus.Message{}))
	require.Equal(t, []string{"no", "yes", "no", "no"}, asked)
}
