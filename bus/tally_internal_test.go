package bus

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A new code has to be counted apart.
func TestEveryCodeIsCounted(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "error.go", nil, 0)
	require.NoError(t, err)
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) == 0 {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Code" {
			text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			require.Contains(t, codes, Code(text))
			found++
		}
		return true
	})
	require.Len(t, codes, found+1)
	require.Equal(t, codeOther, codes[found])
	i, code := codeIndex(&Error{Code: "out_of_stock"})
	require.Equal(t, found, i)
	require.Equal(t, Code("out_of_stock"), code)
}

func TestTallyKnowsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w tally
		for i := range 3 * maxWaits {
			w.step(StageRetrying, time.Duration(i)*time.Millisecond)
		}
		require.Equal(t, maxWaits, w.waiting(time.Now()))
		require.LessOrEqual(t, cap(w.waits), 2*maxWaits)
		require.EqualValues(t, 3*maxWaits, w.retried.Load())
		require.Equal(t, maxWaits/2, w.waiting(time.Now().Add(maxWaits/2*time.Millisecond)))
		time.Sleep(maxWaits * time.Millisecond)
		w.step(StageRetrying, time.Second)
		require.Equal(t, 1, w.waiting(time.Now()))
		time.Sleep(time.Second)
		require.Zero(t, w.waiting(time.Now()))
	})
}

func TestTalliesAreBounded(t *testing.T) {
	var ts tallies
	for i := range 2 * maxTallies {
		ts.of(tallyKey{KindEvent, "e", "g", strconv.Itoa(i)}).ran(nil)
	}
	all := ts.snapshot()
	require.Len(t, all, maxTallies+1)
	require.EqualValues(t, maxTallies, all[tallyKey{KindEvent, "e", maxedOut, maxedOut}].succeeded.Load())
	require.Same(t, ts.of(tallyKey{KindEvent, "e", "g", "0"}), all[tallyKey{KindEvent, "e", "g", "0"}])
}

// What an error says is made fit to print and short, wherever its characters end.
func TestErrorText(t *testing.T) {
	require.Equal(t, `a\nb`, errorText(errors.New("a\nb")))
	long := make([]byte, 1000)
	for i := range long {
		long[i] = '\n'
	}
	require.Len(t, errorText(errors.New(string(long))), maxStatsError)
}
