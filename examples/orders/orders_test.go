package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

// output collects what a role writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// orders runs the program in this process.
func orders(t *testing.T, stdin io.Reader, args ...string) (code status, stdout, stderr string) {
	t.Helper()
	var out, errs output
	code = run(t.Context(), args, stdin, &out, &errs)
	return code, out.String(), errs.String()
}

func TestWithoutArguments(t *testing.T) {
	code, out, errs := orders(t, nil)
	require.Empty(t, errs)
	require.Equal(t, statusDone, code)
	for _, want := range []string{
		"report: 2,000 of 2,000 orders\n",
		"2,000 rows: 2,000 imported, 0 rejected, 0 given up",
		"2,000 orders, 0 duplicates\n",
		"EUR   1,063 orders         213,923.35\n",
		"JPY     104 orders          3,157,071\n",
		"report: 2,000 of 2,000 imported rows seen, 0 missing, 0 rejected, 0 given up\n",
	} {
		require.Contains(t, out, want)
	}
}

func TestBadRows(t *testing.T) {
	code, out, errs := orders(t, nil, "testdata/bad.csv")
	require.Equal(t, statusRejected, code)
	require.Contains(t, out, "12 rows: 4 imported, 8 rejected, 0 given up")
	require.Contains(t, out, "report: 4 of 4 imported rows seen, 0 missing, 8 rejected, 0 given up\n")
	require.ElementsMatch(t, []string{
		`line 3: quantity "twelve" is not a whole number`,
		`line 4: unit_price "1125.50" has 2 decimals, JPY has 0`,
		`line 6: quote is never closed`,
		`line 8: unknown currency "XBT"`,
		`line 9: unit_price "1,084.55" is not an amount such as 12.50`,
		`line 10: id "B-1" is that of line 2`,
		`line 12: 6 fields, the header has 8`,
		`line 13: placed_at "yesterday" is not a time such as 2026-03-01T09:30:00Z; customer is empty; ` +
			`quantity 0 is not between 1 and 100,000; country "Spain" is not a code such as DE`,
	}, strings.Split(strings.TrimSpace(errs), "\n"))
}

func TestInputs(t *testing.T) {
	objects, err := os.ReadFile("testdata/orders.jsonl")
	require.NoError(t, err)
	renamed := filepath.Join(t.TempDir(), "orders.txt")
	require.NoError(t, os.WriteFile(renamed, objects, 0o600))
	row := fmt.Sprintf(good, "a")
	for _, c := range []struct {
		name  string
		stdin string
		args  []string
		job   string
		want  string
	}{
		{"JSON Lines by extension", "", []string{"testdata/orders.jsonl"}, "orders-", "3 imported, 0 rejected"},
		{"JSON Lines by flag", "", []string{"-format", "jsonl", renamed}, "orders-", "3 imported, 0 rejected"},
		{"CSV from stdin", header + row, []string{"-"}, "stdin-", "1 imported, 0 rejected"},
		{"JSON Lines from stdin", string(objects), []string{"-format", "jsonl", "-"}, "stdin-", "3 imported, 0 rejected"},
		{"no rows", header, []string{"-"}, "stdin-", "0 imported, 0 rejected"},
		{"a job of that name", header + row, []string{"-job", "spring", "-"}, "spring", "1 imported, 0 rejected"},
		{"one at a time", "", []string{"-parallel", "1", "-concurrency", "1", "testdata/orders.jsonl"}, "orders-", "3 imported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := orders(t, strings.NewReader(c.stdin), c.args...)
			require.Empty(t, errs)
			require.Equal(t, statusDone, code)
			require.Contains(t, out, "import: job "+c.job)
			require.Contains(t, out, c.want)
		})
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code status
		want string
	}{
		{"no such file", []string{"nowhere.csv"}, statusFailed, "nowhere.csv"},
		{"a role misspelt", []string{"wroker"}, statusFailed, "it is no role either: those are server, worker, report and import"},
		{"a folder", []string{"testdata"}, statusFailed, "testdata is a folder"},
		{"another kind of file", []string{"sample_test.go"}, statusFailed, "line 1 does not name the columns"},
		{"empty stdin", []string{"-"}, statusFailed, "the input is empty"},
		{"unknown flag", []string{"-nope"}, statusUsage, "flag provided but not defined: -nope"},
		{"unknown flag of a role", []string{"worker", "-parallel", "3"}, statusUsage, "-parallel"},
		{"two files", []string{"a", "b"}, statusUsage, "one file at a time"},
		{"unknown format", []string{"-format", "xml"}, statusUsage, `-format "xml": use csv or jsonl`},
		{"no concurrency", []string{"-parallel", "0"}, statusUsage, "-parallel 0"},
		{"no timeout", []string{"-timeout", "0s"}, statusUsage, "-timeout"},
		{"worker alone", []string{"worker"}, statusUsage, "-url is missing"},
		{"import alone", []string{"import", "testdata/bad.csv"}, statusUsage, "-url is missing"},
		{"report with an argument", []string{"-url", "nats://127.0.0.1:1", "report", "x"}, statusUsage, `unexpected argument "x"`},
		{"no URL", []string{"-url", "http://x", "worker"}, statusFailed, "http://x"},
		{"not a loopback address", []string{"server", "-listen", "0.0.0.0:0"}, statusFailed, "loopback"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, errs := orders(t, strings.NewReader(""), c.args...)
			require.Equal(t, c.code, code, errs)
			require.Contains(t, errs, c.want)
		})
	}
}

func TestHelp(t *testing.T) {
	code, out, errs := orders(t, nil, "-h")
	require.Equal(t, statusDone, code)
	require.Empty(t, errs)
	for _, want := range []string{"server", "worker", "report", "import", "-work", "-patience", "Exit status: 0"} {
		require.Contains(t, out, want)
	}
	for _, r := range roles()[1:] {
		code, out, _ = orders(t, nil, r.name, "-help")
		require.Equal(t, statusDone, code)
		require.Contains(t, out, "Usage: orders "+r.name)
		require.Contains(t, out, r.about)
	}
}

// TestInterrupt ends an import whose input never ends.
func TestInterrupt(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	stdin, input := io.Pipe()
	go func() {
		fmt.Fprint(input, header)
		for i := range 100 {
			fmt.Fprintf(input, good, fmt.Sprint(i))
		}
		interrupt()
	}()
	var out, errs output
	require.Equal(t, statusFailed, run(ctx, []string{"-job", "endless", "-"}, stdin, &out, &errs))
	require.Contains(t, errs.String(), "orders: interrupted; to go on where it stopped, import again with -job endless")
	_, err := input.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe, "the input is let go")
}

// onMemory runs f in a bubble of fake time with a bus on memory.
func onMemory(t *testing.T, f func(t *testing.T, b *bus.Bus, ui *console, out *output)) {
	synctest.Test(t, func(t *testing.T) {
		b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "orders"})
		require.NoError(t, err)
		out := &output{}
		defer func() { require.NoError(t, b.Close(context.Background())) }()
		f(t, b, newConsole(out, out), out)
	})
}

// importRows imports good rows with the ids 0 to n-1 on b.
func importRows(t *testing.T, b *bus.Bus, ui *console, n int) (status, error) {
	var in strings.Builder
	in.WriteString(header)
	for i := range n {
		fmt.Fprintf(&in, good, fmt.Sprint(i))
	}
	src, err := openSource("-", "csv", strings.NewReader(in.String()))
	require.NoError(t, err)
	src.job = "job"
	im := &importer{b: b, ui: ui, src: src, importSettings: defaults().importSettings}
	im.job = src.job
	return im.run(t.Context())
}

// follow starts a report of the job and returns what it will return.
func follow(t *testing.T, b *bus.Bus, ui *console) <-chan status {
	ready, ended := make(chan struct{}), make(chan status, 1)
	go func() {
		code, err := newReport(b, ui, "job", defaults().reportSettings).run(t.Context(), func() { close(ready) })
		if err != nil {
			ui.warnf("report: %v", err)
		}
		ended <- code
	}()
	<-ready
	return ended
}

// TestLostAnswers has a worker that handles every row and answers every third
// try only: each row is sent again under its id, and counted once.
func TestLostAnswers(t *testing.T) {
	onMemory(t, func(t *testing.T, b *bus.Bus, ui *console, out *output) {
		w := &worker{b: b, name: "forgetful"}
		var mu sync.Mutex
		tries, ids := map[string]int{}, map[string]map[string]bool{}
		require.NoError(t, bus.Handle(t.Context(), b, func(ctx context.Context, c ImportOrder) (Accepted, error) {
			accepted, err := w.importOrder(ctx, c)
			meta, _ := bus.MetaFrom(ctx)
			mu.Lock()
			id := c.Order.ID
			tries[id]++
			if ids[id] == nil {
				ids[id] = map[string]bool{}
			}
			ids[id][meta.ID] = true
			lost := tries[id] < 3
			mu.Unlock()
			if lost {
				<-ctx.Done()
				return Accepted{}, ctx.Err()
			}
			return accepted, err
		}))
		reported := follow(t, b, ui)
		code, err := importRows(t, b, ui, 50)
		require.NoError(t, err)
		require.Equal(t, statusDone, code)
		require.Equal(t, statusDone, <-reported)
		require.Contains(t, out.String(), "50 imported, 0 rejected, 0 given up, 100 sent again")
		require.Contains(t, out.String(), "report: job job: 50 orders, 0 duplicates", "stored once within the dedup window")
		for id := range tries {
			require.Len(t, ids[id], 1, "one command id for row %s", id)
		}
	})
}

// TestSecondImport imports the same rows again, when the dedup window has passed.
func TestSecondImport(t *testing.T) {
	onMemory(t, func(t *testing.T, b *bus.Bus, ui *console, out *output) {
		require.NoError(t, (&worker{b: b, name: "w"}).start(t.Context(), 8))
		for range 2 {
			code, err := importRows(t, b, ui, 20)
			require.NoError(t, err)
			require.Equal(t, statusDone, code)
			time.Sleep(time.Hour)
		}
		require.Equal(t, statusDone, <-follow(t, b, ui))
		require.Contains(t, out.String(), "report: 20 of 20 orders")
		require.Contains(t, out.String(), "20 of 20 imported rows seen, 0 missing")
	})
}

func TestDuplicatesAreShown(t *testing.T) {
	onMemory(t, func(t *testing.T, b *bus.Bus, ui *console, out *output) {
		reported := follow(t, b, ui)
		event := OrderImported{Job: "job", Line: 2, OrderID: "a", Total: 250, Currency: "EUR", Worker: "w"}
		other := event
		other.Job = "another"
		for _, e := range []any{event, event, event, other} {
			require.NoError(t, bus.Publish(t.Context(), b, e))
		}
		synctest.Wait() // so that the end comes after them
		require.NoError(t, bus.Publish(t.Context(), b, ImportFinished{Job: "job", Imported: 1, Lines: []span{{2, 2}}}))
		require.Equal(t, statusDone, <-reported)
		require.Contains(t, out.String(), "report: job job: 1 orders, 2 duplicates\n")
		require.Contains(t, out.String(), "EUR       1 orders               2.50")
	})
}

func TestMissingRows(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []span
		want  string
	}{
		{"with their lines", []span{{2, 2}, {5, 6}, {9, 9}}, "report: 3 imported rows were not seen here; lines: 5-6, 9\n"},
		{"by number", nil, "report: 3 imported rows were not seen here; lines: \n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onMemory(t, func(t *testing.T, b *bus.Bus, ui *console, out *output) {
				reported := follow(t, b, ui)
				began := time.Now()
				require.NoError(t, bus.PublishAll(t.Context(), b,
					ImportFinished{Job: "job", Imported: 4, Lines: c.lines},
					OrderImported{Job: "job", Line: 2, OrderID: "a", Currency: "EUR"}))
				require.Equal(t, statusFailed, <-reported)
				require.GreaterOrEqual(t, time.Since(began), defaults().wait)
				require.Contains(t, out.String(), "report: 1 of 4 imported rows seen, 3 missing")
				require.Contains(t, out.String(), c.want)
			})
		})
	}
}

// TestLateRow has a row that the import gave up and that was handled after all,
// so that the number of rows is right before the rows are.
func TestLateRow(t *testing.T) {
	onMemory(t, func(t *testing.T, b *bus.Bus, ui *console, out *output) {
		reported := follow(t, b, ui)
		row := func(line int) OrderImported {
			return OrderImported{Job: "job", Line: line, OrderID: fmt.Sprint(line), Currency: "EUR"}
		}
		require.NoError(t, bus.PublishAll(t.Context(), b, row(2), row(3),
			ImportFinished{Job: "job", Imported: 2, GaveUp: 1, Lines: []span{{2, 2}, {4, 4}}}))
		time.Sleep(defaults().wait / 2)
		require.NoError(t, bus.Publish(t.Context(), b, row(4)))
		require.Equal(t, statusFailed, <-reported)
		require.Contains(t, out.String(), "report: 2 of 2 imported rows seen, 0 missing, 0 rejected, 1 given up")
	})
}

func TestSpansThatLie(t *testing.T) {
	for _, lines := range [][]span{{{1, 1 << 60}}, {{5, 4}}, {{5, 6}, {6, 7}}, {{2, 2}}, {}, {{-5, 2}}} {
		require.Error(t, ImportFinished{Job: "j", Imported: 4, Lines: lines}.Validate(), "%v", lines)
	}
	require.NoError(t, ImportFinished{Job: "j", Imported: 4, Lines: []span{{2, 3}, {5, 6}}}.Validate())
}

func TestNoWorker(t *testing.T) {
	onMemory(t, func(t *testing.T, b *bus.Bus, ui *console, out *output) {
		began := time.Now()
		code, err := importRows(t, b, ui, 1000)
		require.Equal(t, statusFailed, code)
		require.ErrorContains(t, err, "no worker answers: no outcome after")
		require.ErrorContains(t, err, "nobody handles")
		require.Contains(t, out.String(), "import: no worker answers, trying on: execute orders.import: nobody handles")
		require.NotContains(t, out.String(), "given up:", "said once, not by each row")
		require.ErrorContains(t, err, "to go on where it stopped, import again with -job job")
		require.Less(t, time.Since(began), 2*defaults().patience, "one row's patience, not that of a thousand")
	})
}

// TestSilentWorkers has workers that take rows and never answer.
func TestSilentWorkers(t *testing.T) {
	onMemory(t, func(t *testing.T, b *bus.Bus, ui *console, out *output) {
		require.NoError(t, bus.Handle(t.Context(), b, func(ctx context.Context, c ImportOrder) (Accepted, error) {
			<-ctx.Done()
			return Accepted{}, ctx.Err()
		}))
		began := time.Now()
		code, err := importRows(t, b, ui, 1000)
		require.Equal(t, statusFailed, code)
		require.ErrorContains(t, err, "no worker answers: no outcome after")
		require.Equal(t, 32, strings.Count(out.String(), "given up: "))
		require.Less(t, time.Since(began), 3*defaults().patience)
	})
}

// TestRowsWithoutOutcome gives up the rows that no worker can finish, and no
// others.
func TestRowsWithoutOutcome(t *testing.T) {
	onMemory(t, func(t *testing.T, b *bus.Bus, ui *console, out *output) {
		w := &worker{b: b, name: "w"}
		require.NoError(t, bus.Handle(t.Context(), b, func(ctx context.Context, c ImportOrder) (Accepted, error) {
			switch c.Order.ID {
			case "7":
				<-ctx.Done()
				return Accepted{}, ctx.Err()
			case "8":
				panic("eight")
			}
			return w.importOrder(ctx, c)
		}))
		reported := follow(t, b, ui)
		code, err := importRows(t, b, ui, 100)
		require.NoError(t, err)
		require.Equal(t, statusFailed, code)
		require.Equal(t, statusFailed, <-reported)
		require.Contains(t, out.String(), "line 9: given up: no outcome after")
		require.Contains(t, out.String(), "line 10: given up: execute orders.import: panic: eight")
		require.Contains(t, out.String(), "report: 98 of 98 imported rows seen, 0 missing, 0 rejected, 2 given up")
	})
}

// TestJobsHaveNames: the same content is the same job, so that it is imported
// once.
func TestJobsHaveNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "may.csv")
	job := func(content string) string {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		s, err := openSource(path, "", nil)
		require.NoError(t, err)
		defer s.Close()
		require.Equal(t, strings.Count(content, "\n")-1, s.about)
		read, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Equal(t, content, string(read))
		return s.job
	}
	first := job("id\n1\n")
	require.Regexp(t, `^may-[0-9a-f]{8}$`, first)
	require.Equal(t, first, job("id\n1\n"))
	require.NotEqual(t, first, job("id\n2\n"))
	require.Equal(t, rowKey("a", "b"), rowKey("a", "b"))
	require.NotEqual(t, rowKey("a", "x"), rowKey("b", "x"))
	require.NotEqual(t, rowKey("a", "x"), rowKey("a", "y"))
}
