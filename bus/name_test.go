package bus_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

type (
	userCreated     struct{}
	HTTPServerV2    struct{}
	orderID         string
	box[T any]      struct{ V T }
	namedBox[T any] struct{ V T }
	byPointer       struct{}
	badName         struct{}
	panicsEmpty     struct{ p *string }
)

func (namedBox[T]) MessageName() string   { return "named.box" }
func (*byPointer) MessageName() string    { return "by.pointer" }
func (badName) MessageName() string       { return "Bad Name" }
func (p panicsEmpty) MessageName() string { return *p.p }

func TestNameOf(t *testing.T) {
	name := func(s string, err error) string {
		t.Helper()
		require.NoError(t, err)
		return s
	}
	require.Equal(t, "bus_test.user_created", name(bus.NameOf[userCreated]()))
	require.Equal(t, "bus_test.user_created", name(bus.NameOf[*userCreated]()))
	require.Equal(t, "bus_test.http_server_v2", name(bus.NameOf[HTTPServerV2]()))
	require.Equal(t, "bus_test.order_id", name(bus.NameOf[orderID]()))
	require.Equal(t, "named.box", name(bus.NameOf[namedBox[int]]()))
	require.Equal(t, "by.pointer", name(bus.NameOf[byPointer]()))
	require.Equal(t, "by.pointer", name(bus.NameOf[*byPointer]()))
}

func TestNameOfRefuses(t *testing.T) {
	for what, f := range map[string]func() (string, error){
		"a generic type":    bus.NameOf[box[int]],
		"a basic type":      bus.NameOf[string],
		"an unnamed struct": bus.NameOf[struct{ A int }],
		"an interface":      bus.NameOf[error],
		"two pointers":      bus.NameOf[**userCreated],
		"a broken rule":     bus.NameOf[badName],
		"a panic":           bus.NameOf[panicsEmpty],
	} {
		t.Run(what, func(t *testing.T) {
			_, err := f()
			require.Error(t, err)
			require.Equal(t, bus.CodeInvalid, bus.CodeOf(err))
		})
	}
	_, err := bus.NameOf[badName]()
	require.ErrorContains(t, err, "[a-z0-9_-]", "the error states the rule")
}

func FuzzNameOfMessageName(f *testing.F) {
	for _, s := range []string{"", "a.b", "a..b", ".a", "a.", "A", "ü", strings.Repeat("a", 200), "a b", "a*", ">"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fuzzedName = s
		got, err := bus.NameOf[fuzzed]()
		if err != nil {
			require.Equal(t, bus.CodeInvalid, bus.CodeOf(err))
			return
		}
		require.Equal(t, s, got)
		require.NotEmpty(t, s)
		require.LessOrEqual(t, len(s), bus.MaxNameLen)
		for token := range strings.SplitSeq(s, ".") {
			require.NotEmpty(t, token)
			require.Empty(t, strings.Trim(token, "abcdefghijklmnopqrstuvwxyz0123456789_-"))
		}
	})
}

var fuzzedName string

type fuzzed struct{}

func (fuzzed) MessageName() string { return fuzzedName }
