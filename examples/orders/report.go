package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// report follows one job and counts each of its rows once.
type report struct {
	b  *bus.Bus
	ui *console
	reportSettings

	jobKnown chan struct{} // closed when job is set

	mu         sync.Mutex
	job        string
	about      int            // rows, as the import guesses; 0: unknown
	seen       map[string]int // order id to line
	duplicates int
	totals     map[string]*total // by currency
	byWorker   map[string]int
	finished   *ImportFinished
	changed    time.Time // when seen last grew
}

// reportSettings are what the command line says about a report.
type reportSettings struct {
	every time.Duration // between two lines of progress
	wait  time.Duration // for rows that are missing after the end of the import
}

// total is what was ordered in one currency.
type total struct {
	orders int
	amount int64
}

// newReport follows the job of that name, or the next that starts if it is "".
func newReport(b *bus.Bus, ui *console, job string, set reportSettings) *report {
	r := &report{
		b: b, ui: ui, reportSettings: set, job: job, jobKnown: make(chan struct{}),
		seen: map[string]int{}, totals: map[string]*total{}, byWorker: map[string]int{},
	}
	if job != "" {
		close(r.jobKnown)
	}
	return r
}

// run shows the job until it is complete, and returns the status. ready, if it
// is not nil, is called when nothing that is published can be missed any more.
//
// Its group is its own, and begins with the oldest event that is stored: a
// report may come late, and several may run at once.
func (r *report) run(ctx context.Context, ready func()) (status, error) {
	group := bus.WithGroup("report-" + strings.ToLower(rand.Text()[:12]))
	start := []bus.SubscribeOption{group}
	if r.job != "" {
		start = append(start, bus.WithStart(bus.All()))
	}
	if _, err := bus.Subscribe(ctx, r.b, r.onStarted, start...); err != nil {
		return statusFailed, err
	}
	if r.job == "" {
		r.ui.printf("report: waiting for an import to start; -job NAME shows one that has")
		if ready != nil {
			ready()
		}
		select {
		case <-r.jobKnown:
		case <-ctx.Done():
			return statusFailed, errInterrupted
		}
	}
	if _, err := bus.Subscribe(ctx, r.b, r.onImported, group, bus.WithStart(bus.All())); err != nil {
		return statusFailed, err
	}
	if _, err := bus.Subscribe(ctx, r.b, r.onFinished, group, bus.WithStart(bus.All())); err != nil {
		return statusFailed, err
	}
	r.ui.printf("report: following job %s", r.job)
	if ready != nil {
		ready()
	}
	return r.follow(ctx)
}

func (r *report) onStarted(_ context.Context, e ImportStarted) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.job == "" {
		r.job = e.Job
		close(r.jobKnown)
	}
	if e.Job == r.job {
		r.about = e.About
	}
	return nil
}

// onImported counts a row the first time that it comes. An event may come more
// than once, and a row may have several: its order's id tells.
func (r *report) onImported(_ context.Context, e OrderImported) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Job != r.job {
		return nil
	}
	if _, ok := r.seen[e.OrderID]; ok {
		r.duplicates++
		return nil
	}
	r.seen[e.OrderID] = e.Line
	r.changed = time.Now()
	t := r.totals[e.Currency]
	if t == nil {
		t = &total{}
		r.totals[e.Currency] = t
	}
	t.orders++
	t.amount += e.Total
	r.byWorker[e.Worker]++
	return nil
}

func (r *report) onFinished(_ context.Context, e ImportFinished) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Job == r.job {
		r.finished, r.changed = &e, time.Now()
	}
	return nil
}

const (
	// checkEvery is how often the report looks whether it is complete.
	checkEvery = 20 * time.Millisecond
	// drawEvery is how often a bar moves.
	drawEvery = 100 * time.Millisecond
)

// follow shows progress until every row is seen, or until nothing has come for a
// while after the import's end.
func (r *report) follow(ctx context.Context) (status, error) {
	every := r.every
	if r.ui.terminal() {
		every = drawEvery
	}
	draw, check := time.NewTicker(every), time.NewTicker(checkEvery)
	defer draw.Stop()
	defer check.Stop()
	shown := 0
	for {
		select {
		case <-ctx.Done():
			r.summary(nil)
			return statusFailed, errInterrupted
		case <-draw.C:
			shown = r.draw(shown)
		case <-check.C:
			o := r.over()
			if o == nil {
				continue
			}
			r.draw(shown)
			r.summary(o)
			if o.lost > 0 {
				return statusFailed, fmt.Errorf("%s imported rows were not seen here; lines: %s", formatCount(o.lost), formatSpans(o.lines))
			}
			return statusOf(o.finished.Rejected, o.finished.GaveUp), nil
		}
	}
}

// draw shows the progress if there is any since shown rows.
func (r *report) draw(shown int) int {
	r.mu.Lock()
	n, about, duplicates := len(r.seen), r.about, r.duplicates
	if r.finished != nil {
		about = r.finished.Imported
	}
	r.mu.Unlock()
	if n == shown {
		return n
	}
	text := formatCount(n)
	if about > 0 {
		text += " of " + formatCount(max(about, n))
	}
	text += " orders"
	if duplicates > 0 {
		text += fmt.Sprintf(", %s duplicates", formatCount(duplicates))
	}
	if !r.ui.terminal() {
		text = "report: " + text
	}
	r.ui.progress(n, about, text)
	return n
}

// outcome is how a job ended.
type outcome struct {
	finished ImportFinished
	lost     int    // imported rows that were not seen
	lines    []span // theirs, if they are known
}

// over returns the outcome once the job is complete or has been waited for long
// enough, and nil before.
func (r *report) over() *outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.finished == nil {
		return nil
	}
	late := time.Since(r.changed) >= r.wait
	if len(r.seen) < r.finished.Imported && !late {
		return nil
	}
	o := &outcome{finished: *r.finished, lines: r.missing()}
	for _, s := range o.lines {
		o.lost += s[1] - s[0] + 1
	}
	// Without a list of lines their number has to do.
	o.lost = max(o.lost, o.finished.Imported-len(r.seen))
	if o.lost > 0 && !late {
		return nil
	}
	return o
}

// missing returns the lines of imported rows that were not seen. r.mu is held.
func (r *report) missing() []span {
	have := make(map[int]struct{}, len(r.seen))
	for _, line := range r.seen {
		have[line] = struct{}{}
	}
	var lines []int
	for _, s := range r.finished.Lines {
		for n := s[0]; n <= s[1]; n++ {
			if _, ok := have[n]; !ok {
				lines = append(lines, n)
			}
		}
	}
	return spansOf(lines)
}

// summary prints what came in. o is nil if the job is not over.
func (r *report) summary(o *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ui.printf("report: job %s: %s orders, %s duplicates", r.job, formatCount(len(r.seen)), formatCount(r.duplicates))
	for _, c := range slices.Sorted(maps.Keys(r.totals)) {
		t := r.totals[c]
		r.ui.printf("report:   %s %7s orders %18s", c, formatCount(t.orders), formatAmount(t.amount, c))
	}
	for _, w := range slices.Sorted(maps.Keys(r.byWorker)) {
		r.ui.printf("report:   %s imported %s", w, formatCount(r.byWorker[w]))
	}
	if o != nil {
		f := o.finished
		r.ui.printf("report: %s of %s imported rows seen, %s missing, %s rejected, %s given up",
			formatCount(f.Imported-o.lost), formatCount(f.Imported), formatCount(o.lost), formatCount(f.Rejected), formatCount(f.GaveUp))
	}
}
