package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// One row is one trace: four spans in three processes, each the child of the one
// before.
func TestTraceOfARow(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	file := filepath.Join(t.TempDir(), "spans.jsonl")
	server := start(t, "server", "server", "-listen", "127.0.0.1:0")
	url := server.expect(ctx, `listening on (nats://\S+)$`, nil)[1]
	worker := start(t, "worker", "worker", "-url", url, "-trace", file)
	worker.expect(ctx, "is ready", nil)
	report := start(t, "report", "report", "-url", url, "-trace", file)
	report.expect(ctx, "waiting for an import to start", nil)
	imports := start(t, "import", "import", "-url", url, "-trace", file, "-")
	_, err := fmt.Fprintf(imports.in, "%s"+good, header, "a")
	require.NoError(t, err)
	require.NoError(t, imports.in.Close())
	require.Equal(t, statusDone, imports.status(ctx))
	require.Equal(t, statusDone, report.status(ctx))

	text, err := os.ReadFile(file)
	require.NoError(t, err)
	byName := map[string]spanLine{}
	for line := range bytes.Lines(text) {
		var s spanLine
		require.NoError(t, json.Unmarshal(line, &s))
		byName[s.Service+": "+s.Name] = s
	}
	before := spanLine{}
	for _, step := range []struct {
		service, name, kind string
		p                   *process
	}{
		{"orders-import", "execute orders.import", "client", imports},
		{"orders", "handle orders.import", "server", worker},
		{"orders", "publish orders.imported", "producer", worker},
		{"orders-report", "handle orders.imported", "consumer", report},
	} {
		s, ok := byName[step.service+": "+step.name]
		require.True(t, ok, "no span %s of %s in %s", step.name, step.service, text)
		require.Equal(t, step.kind, s.Kind, step.name)
		require.Equal(t, step.p.cmd.Process.Pid, s.Process, step.name)
		require.Equal(t, before.Span, s.Parent, step.name)
		if before.Trace != "" {
			require.Equal(t, before.Trace, s.Trace, step.name)
		}
		before = s
	}
}
