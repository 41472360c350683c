package bus_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWrongCodeDoesNotCompile builds testdata/compile, where each line that must
// not compile says which error it wants.
func TestWrongCodeDoesNotCompile(t *testing.T) {
	file := filepath.FromSlash("testdata/compile/wrong.go")
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	want := map[int]string{}
	for i, line := range strings.Split(string(source), "\n") {
		if _, text, ok := strings.Cut(line, "// want: "); ok {
			want[i+1] = text
		}
	}
	require.NotEmpty(t, want)

	out, err := exec.Command("go", "build", "-gcflags=-e", "./testdata/compile").CombinedOutput()
	require.Error(t, err, "it compiles")
	got := map[int]string{}
	last := 0
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, file+":"); ok {
			number, message, _ := strings.Cut(rest, ":")
			last, err = strconv.Atoi(number)
			require.NoError(t, err, line)
			got[last] += message
		} else if strings.HasPrefix(line, "\t") {
			got[last] += line
		} else {
			require.True(t, strings.HasPrefix(line, "# "), "%s", out)
		}
	}
	for line, text := range want {
		require.Contains(t, got[line], text, "line %d", line)
	}
	for line, text := range got {
		require.Contains(t, want, line, "an error that is not wanted: %s", text)
	}
}
