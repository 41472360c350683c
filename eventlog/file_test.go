package eventlog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/eventlog"
)

func entry(n, size int) eventlog.Entry {
	return eventlog.Entry{Time: time.Unix(int64(n), 0).UTC(), Stage: bus.StageHandled, Outcome: eventlog.OK, Kind: bus.KindEvent,
		Name: "user.created", ID: fmt.Sprint(n), Err: strings.Repeat("x", size)}
}

// lines reads the entries of a file; each line must be whole.
func lines(t require.TestingT, path string) (ids []string) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for line := range bytes.Lines(text) {
		var e eventlog.Entry
		require.NoError(t, json.Unmarshal(line, &e), "%s: %q", path, line)
		require.True(t, bytes.HasSuffix(line, []byte("\n")))
		ids = append(ids, e.ID)
	}
	return ids
}

// all reads a file and what was rotated, the oldest first.
func all(t require.TestingT, path string, keep int) (ids []string, files int) {
	for n := keep; n >= 0; n-- {
		p := path
		if n > 0 {
			p = fmt.Sprint(path, ".", n)
		}
		if _, err := os.Stat(p); err == nil {
			ids = append(ids, lines(t, p)...)
			files++
		}
	}
	return ids, files
}

func TestFileHasOneEntryALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus.jsonl")
	f, err := eventlog.OpenFile(eventlog.FileConfig{Path: path, Sync: true})
	require.NoError(t, err)
	require.NoError(t, f.Write([]eventlog.Entry{entry(1, 0), entry(2, 3)}))
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, `{"time":"1970-01-01T00:00:01Z","stage":"handled","outcome":"ok","kind":"event","name":"user.created","id":"1"}
{"time":"1970-01-01T00:00:02Z","stage":"handled","outcome":"ok","kind":"event","name":"user.created","id":"2","err":"xxx"}
`, string(text))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
}

// Whatever the sizes and wherever the process dies, what is kept are the last
// entries, each once and whole.
func TestFileRotates(t *testing.T) {
	dir, run := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprint(run))
		keep := rapid.IntRange(1, 4).Draw(t, "keep")
		cfg := eventlog.FileConfig{Path: path, MaxBytes: 1000, Keep: keep}
		f, err := eventlog.OpenFile(cfg)
		require.NoError(t, err)
		n := 0
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0: // it dies while it writes a line
				require.NoError(t, f.Close())
				part, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
				require.NoError(t, err)
				_, err = part.WriteString(strings.Repeat(`{"time":`, rapid.IntRange(0, 2000).Draw(t, "part")))
				require.NoError(t, err)
				require.NoError(t, part.Close())
				f, err = eventlog.OpenFile(cfg)
				require.NoError(t, err)
			case 1: // it dies between two steps of a rotation
				require.NoError(t, f.Close())
				if _, err := os.Stat(path + ".1"); err == nil && keep > 1 {
					require.NoError(t, os.Rename(path+".1", path+".2"))
				}
				f, err = eventlog.OpenFile(cfg)
				require.NoError(t, err)
			default:
				var batch []eventlog.Entry
				for range rapid.IntRange(1, 10).Draw(t, "batch") {
					n++
					batch = append(batch, entry(n, rapid.IntRange(0, 1500).Draw(t, "size")))
				}
				require.NoError(t, f.Write(batch))
			}
		}
		require.NoError(t, f.Close())
		ids, files := all(t, path, keep)
		require.LessOrEqual(t, files, keep+1)
		seen := map[string]bool{}
		for i, id := range ids {
			require.False(t, seen[id], "%s twice", id)
			seen[id] = true
			if i > 0 {
				require.Less(t, number(ids[i-1]), number(id), "in order")
			}
		}
		if n > 0 {
			require.Equal(t, fmt.Sprint(n), ids[len(ids)-1], "the newest is there")
		}
		for i := range keep + 1 {
			p := path
			if i > 0 {
				p = fmt.Sprint(path, ".", i)
			}
			if info, err := os.Stat(p); err == nil && len(lines(t, p)) > 1 {
				require.LessOrEqual(t, info.Size(), int64(1000), p)
			}
		}
	})
}

func number(id string) (n int) {
	_, _ = fmt.Sscan(id, &n) // it was made of one
	return n
}

func TestFileKeepsEverythingWithinItsBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus.jsonl")
	f, err := eventlog.OpenFile(eventlog.FileConfig{Path: path, MaxBytes: 1000, Keep: 100})
	require.NoError(t, err)
	for n := range 50 {
		require.NoError(t, f.Write([]eventlog.Entry{entry(2*n, 100), entry(2*n+1, 100)}))
	}
	require.NoError(t, f.Close())
	ids, files := all(t, path, 100)
	require.Len(t, ids, 100)
	require.Equal(t, 25, files)

	f, err = eventlog.OpenFile(eventlog.FileConfig{Path: path, MaxBytes: 1000, Keep: -1})
	require.NoError(t, err)
	for n := range 10 {
		require.NoError(t, f.Write([]eventlog.Entry{entry(n, 100)}))
	}
	require.NoError(t, f.Close())
	require.Equal(t, []string{"8", "9"}, lines(t, path))
}

// What cannot be written is an error, and the file goes on when it can.
func TestFileRecovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "bus.jsonl")
	f, err := eventlog.OpenFile(eventlog.FileConfig{Path: path, MaxBytes: 300})
	require.NoError(t, err)
	require.NoError(t, f.Write([]eventlog.Entry{entry(1, 100)}))
	require.NoError(t, os.RemoveAll(dir))
	require.Error(t, f.Write([]eventlog.Entry{entry(2, 200)}), "it cannot be rotated")
	require.Error(t, f.Write([]eventlog.Entry{entry(3, 200)}))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, f.Write([]eventlog.Entry{entry(4, 200)}))
	require.NoError(t, f.Close())
	require.Equal(t, []string{"4"}, lines(t, path))
}

func TestFileThatCannotBeOpened(t *testing.T) {
	_, err := eventlog.OpenFile(eventlog.FileConfig{})
	require.ErrorContains(t, err, "Path is empty")
	_, err = eventlog.OpenFile(eventlog.FileConfig{Path: filepath.Join(t.TempDir(), "nowhere", "f")})
	require.ErrorIs(t, err, fs.ErrNotExist)
}
