package filter_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/filter"
)

type placed struct{ Total int }

func (placed) MessageName() string { return "order.placed" }

type unnamed[T any] struct{ V T }

func named(name string) *bus.Message   { return &bus.Message{Name: name} }
func in(session string) *bus.Message   { return &bus.Message{Session: session} }
func with(h bus.Header) *bus.Message   { return &bus.Message{Header: h} }
func valued(v any) *bus.Message        { return &bus.Message{Value: v} }
func big(e placed) bool                { return e.Total > 100 }
func bigPointer(e *placed) bool        { return e.Total > 100 }
func kinds(kinds ...string) bus.Header { return bus.Header{"Kind": kinds} }

func TestPass(t *testing.T) {
	for _, c := range []struct {
		f    bus.Filter
		m    *bus.Message
		pass bool
	}{
		{filter.Type[placed](), named("order.placed"), true},
		{filter.Type[*placed](), named("order.placed"), true},
		{filter.Type[placed](), named("order.paid"), false},
		{filter.Names("a", "b"), named("b"), true},
		{filter.Names("a", "b"), named("c"), false},
		{filter.Names("a"), named("a.b"), false},

		{filter.Pattern("order.*"), named("order.placed"), true},
		{filter.Pattern("order.*"), named("order.item.added"), true},
		{filter.Pattern("order.*"), named("order"), false},
		{filter.Pattern("order.*"), named("reorder.placed"), false},
		{filter.Pattern("*.placed"), named("order.placed"), true},
		{filter.Pattern("order.p?id"), named("order.paid"), true},
		{filter.Pattern("order.p[ab]id"), named("order.paid"), true},
		{filter.Pattern("order.p[^ab]id"), named("order.paid"), false},
		{filter.Pattern("order.placed"), named("orderxplaced"), false},
		{filter.Pattern("*"), named("x"), true},

		{filter.Sessions("a", "b"), in("b"), true},
		{filter.Sessions("a", "b"), in("c"), false},
		{filter.Sessions("a"), in(""), false},
		{filter.Sessions(""), in(""), true},
		{filter.NotSessions("a", "b"), in("b"), false},
		{filter.NotSessions("a", "b"), in("c"), true},
		{filter.NotSessions("a"), in(""), true},
		{filter.NotSessions(""), in(""), false},
		{filter.NotSessions(""), in("a"), true},

		{filter.Headers("Kind"), with(kinds("x")), true},
		{filter.Headers("Kind"), with(kinds("")), true},
		{filter.Headers("Kind"), with(bus.Header{"Kind": nil}), false},
		{filter.Headers("kind"), with(kinds("x")), false},
		{filter.Headers("Kind"), with(nil), false},
		{filter.Headers("Kind", "Tenant"), with(kinds("x")), false},
		{filter.Headers("Kind", "Tenant"), with(bus.Header{"Kind": {"x"}, "Tenant": {"t"}}), true},
		{filter.Header("Kind", "x", "y"), with(kinds("y")), true},
		{filter.Header("Kind", "x", "y"), with(kinds("z")), false},
		{filter.Header("Kind", "x"), with(kinds("z", "x")), true},
		{filter.Header("Kind", ""), with(kinds("")), true},
		{filter.Header("Kind", ""), with(nil), false},

		{filter.Where(big), valued(placed{101}), true},
		{filter.Where(big), valued(&placed{101}), true},
		{filter.Where(big), valued(placed{1}), false},
		{filter.Where(big), valued(&placed{1}), false},
		{filter.Where(bigPointer), valued(placed{101}), true},
		{filter.Where(bigPointer), valued(&placed{1}), false},
		{filter.Where(bigPointer), valued(placed{1}), false},
		{filter.Where(big), valued((*placed)(nil)), true},
		{filter.Where(big), valued("another type"), true},
		{filter.Where(big), valued(nil), true},
		{filter.Where(bigPointer), valued(nil), true},

		{filter.Sample(0), &bus.Message{ID: "x"}, false},
		{filter.Sample(1), &bus.Message{ID: "x"}, true},
		{filter.Sample(1), &bus.Message{}, true},

		{filter.All(), named("x"), true},
		{filter.All(bus.Filter{}, filter.Names("x")), named("x"), true},
		{filter.All(filter.Names("x"), filter.Headers("Kind")), named("x"), false},
		{filter.Any(filter.Names("x"), filter.Headers("Kind")), named("x"), true},
		{filter.Any(filter.Names("x"), filter.Headers("Kind")), named("y"), false},
		{filter.Any(bus.Filter{}), named("y"), true},
		{filter.Not(filter.Names("x")), named("x"), false},
		{filter.Not(filter.Names("x")), named("y"), true},
		{filter.Not(bus.Filter{}), named("y"), false},
	} {
		t.Run(fmt.Sprint(c.f.Name, " ", c.m.Name, c.m.Session, c.m.Header, c.m.Value), func(t *testing.T) {
			require.NoError(t, c.f.Err)
			require.NotEmpty(t, c.f.Name)
			require.Equal(t, c.pass, c.f.Pass(c.m))
		})
	}
}

func TestBadInput(t *testing.T) {
	long := strings.Repeat("x", 129)
	for want, f := range map[string]bus.Filter{
		"names(): give at least one name":           filter.Names(),
		"names(a, ): a name is empty":               filter.Names("a", ""),
		`type: unnamed[int] is generic`:             filter.Type[unnamed[int]](),
		"pattern([a): \"[a\" does not compile: syn": filter.Pattern("[a"),
		"pattern(): the pattern is empty":           filter.Pattern(""),
		"sessions(): give at least one session":     filter.Sessions(),
		"not sessions(): give at least one":         filter.NotSessions(),
		"it has 129 bytes, at most 128":             filter.Sessions("a", long),
		"invalid session id":                        filter.NotSessions(long, "a"),
		"headers(): give at least one key":          filter.Headers(),
		"headers(): a key is empty":                 filter.Headers(""),
		"header(: [\"x\"]): the key is empty":       filter.Header("", "x"),
		"give at least one value of \"Kind\"":       filter.Header("Kind"),
		"rate limit(0/s, burst 1): the limit of 0":  filter.RateLimit(0, 1),
		"the limit of -1 a second is not positive":  filter.RateLimit(-1, 1),
		"the limit of NaN a second":                 filter.RateLimit(rate.Limit(math.NaN()), 1),
		"the burst of 0 is not positive":            filter.RateLimit(1, 0),
		"sample(1.5): the fraction is not between":  filter.Sample(1.5),
		"sample(-0.1): the fraction":                filter.Sample(-0.1),
		"sample(NaN): the fraction":                 filter.Sample(math.NaN()),
		"debug: the logger is nil":                  filter.Debug(nil),
		"where(filter_test.placed): the function":   filter.Where[placed](nil),
		"where(int): ":                              filter.Where(func(int) bool { return true }),
		"any(): give at least one filter":           filter.Any(),
		"all(names(), names(b)): names(): give":     filter.All(filter.Names(), filter.Names("b")),
		"not(all(names())): all(names()): names()":  filter.Not(filter.All(filter.Names())),
		"any(mine): mine: it has no Pass":           filter.Any(bus.Filter{Name: "mine"}),
	} {
		t.Run(want, func(t *testing.T) {
			require.Error(t, f.Err)
			require.Contains(t, f.Name+": "+f.Err.Error(), strings.ReplaceAll(want, "type: unnamed", "type: filter_test.unnamed"))
			err := bus.Config{PublishFilter: f}.Validate()
			require.ErrorContains(t, err, "Config.PublishFilter: filter "+f.Name)
		})
	}
}

// What is made from a slice does not change with it.
func TestArgumentsAreCopied(t *testing.T) {
	names, ids, keys, values := []string{"a"}, []string{"a"}, []string{"a"}, []string{"a"}
	parts := []bus.Filter{filter.Names("a")}
	fs := []bus.Filter{filter.Names(names...), filter.Sessions(ids...), filter.Headers(keys...), filter.Header("a", values...),
		filter.All(parts...), filter.Any(parts...), filter.Not(filter.NotSessions(ids...))}
	names[0], ids[0], keys[0], values[0], parts[0] = "b", "b", "b", "b", filter.Names("b")
	for _, f := range fs {
		require.True(t, f.Pass(&bus.Message{Name: "a", Session: "a", Header: bus.Header{"a": {"a"}}}), f.Name)
		require.NotContains(t, f.Sessions, "b")
	}
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := filter.RateLimit(rate.Every(time.Second), 2)
		passed := func(attempt, n int) (passed int) {
			for range n {
				if f.Pass(&bus.Message{Attempt: attempt}) {
					passed++
				}
			}
			return passed
		}
		require.Equal(t, 2, passed(1, 10), "the burst")
		require.Equal(t, 10, passed(2, 10), "let through before")
		time.Sleep(time.Second)
		require.Equal(t, 1, passed(0, 10), "and those used nothing up")
		time.Sleep(time.Hour)
		require.Equal(t, 2, passed(1, 10))
	})
}

func TestSample(t *testing.T) {
	for _, shape := range []string{"evt-%d", "%d", "01j9zq3k7v%010d", "%dx"} {
		const n = 20_000
		var passed [3]int
		fs := []bus.Filter{filter.Sample(0.01), filter.Sample(0.1), filter.Sample(0.5)}
		for i := range n {
			id := fmt.Sprintf(shape, i)
			smaller := false
			for j, f := range fs {
				pass := f.Pass(&bus.Message{ID: id, Attempt: i % 3, Group: shape})
				require.Equal(t, pass, f.Pass(&bus.Message{ID: id}), "by the id alone")
				require.False(t, smaller && !pass, "what passes a smaller sample passes a larger one")
				smaller = pass
				if pass {
					passed[j]++
				}
			}
		}
		for j, want := range []float64{0.01, 0.1, 0.5} {
			sigma := math.Sqrt(n * want * (1 - want))
			require.InDelta(t, n*want, passed[j], 5*sigma, "%s: %v", shape, want)
		}
	}
}

// Processes of different versions have to agree, so the choice never changes.
func TestSampleNeverChanges(t *testing.T) {
	f := filter.Sample(0.3)
	var passed []string
	for i := range 20 {
		if id := fmt.Sprint("evt-", i); f.Pass(&bus.Message{ID: id}) {
			passed = append(passed, id)
		}
	}
	require.Equal(t, []string{"evt-2", "evt-6", "evt-10", "evt-18"}, passed)
}

func TestDebug(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	f := filter.Debug(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})))
	m := &bus.Message{Name: "order.placed", ID: "1", Session: "s", Value: placed{7}, Header: bus.Header{"Secret": {"x"}}}
	require.True(t, f.Pass(m))
	require.Empty(t, out.String(), "not at this level")
	level.Set(slog.LevelDebug)
	require.True(t, f.Pass(m))
	require.Contains(t, out.String(), `level=DEBUG msg="event at filter" name=order.placed id=1 session=s`+"\n")
	m.Group, m.Handler, m.Attempt = "mailer", "default", 2
	require.True(t, f.Pass(m))
	require.Contains(t, out.String(), "session=s group=mailer handler=default attempt=2\n")
}
