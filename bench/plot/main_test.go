package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const output = `goos: linux
BenchmarkCommand/inflight=1/lib=nats.go-2   300  125645 ns/op  54997 cpu-ns/op  36532 p50-ns
BenchmarkCommand/inflight=1/lib=nats.go-2   300  125645 ns/op  50000 cpu-ns/op  36532 p50-ns
BenchmarkCommand/inflight=1/lib=jitney-2    300   64307 ns/op  63343 cpu-ns/op
BenchmarkCommand/inflight=64/lib=jitney-2   300   64307 ns/op  1234567 cpu-ns/op
BenchmarkPublishBatch/lib=jitney-2          300   64307 ns/op  980 cpu-ns/op
--- FAIL: BenchmarkCommand/inflight=64/lib=watermill-2
PASS
`

func TestRun(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, run(strings.NewReader(output), dir, "cpu-ns/op"))
	svg, err := os.ReadFile(filepath.Join(dir, "command.svg"))
	require.NoError(t, err)
	require.Contains(t, string(svg), ">nats.go 50.0 µs<", "the least of the runs")
	require.Contains(t, string(svg), ">jitney 63.3 µs<")
	require.Contains(t, string(svg), ">jitney 1.23 ms<")
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	for {
		if _, err := d.Token(); err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
	}
	require.FileExists(t, filepath.Join(dir, "publishbatch.svg"))
}

func TestRunWithoutFigures(t *testing.T) {
	require.ErrorContains(t, run(strings.NewReader("PASS\n"), t.TempDir(), "cpu-ns/op"), "go test -bench")
}
