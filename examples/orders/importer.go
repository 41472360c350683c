package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// importer sends the rows of one source as commands.
type importer struct {
	b   *bus.Bus
	ui  *console
	src *source
	importSettings

	abort context.CancelCauseFunc // ends the job

	mu          sync.Mutex
	lines       []int // of imported rows
	rejected    int
	gaveUp      int
	resent      int
	byWorker    map[string]int
	lastSuccess time.Time
	inVain      int  // rows given up since then
	toldWaiting bool // since then
}

// importSettings are what the command line says about an import.
type importSettings struct {
	format   string
	job      string
	parallel int
	timeout  time.Duration // of one try
	patience time.Duration // of one row
}

var (
	errInterrupted = errors.New("interrupted")
	errNoWorker    = errors.New("no worker answers")
)

// run imports everything and returns the status. Bad rows and rows without an
// outcome are reported as they come, and do not stop the others.
func (im *importer) run(ctx context.Context) (status, error) {
	began := time.Now()
	im.byWorker, im.lastSuccess = map[string]int{}, began
	rows, err := newRowReader(im.src, im.src.format)
	if err != nil {
		return statusFailed, err
	}
	if err := im.publish(ctx, ImportStarted{Job: im.job, About: im.src.about}); err != nil {
		return statusFailed, fmt.Errorf("announce the import: %w", err)
	}
	readErr := im.sendAll(ctx, rows)

	im.mu.Lock()
	defer im.mu.Unlock()
	im.ui.printf("import: job %s: %s rows: %s imported, %s rejected, %s given up, %s sent again, in %v",
		im.job, formatCount(len(im.lines)+im.rejected+im.gaveUp), formatCount(len(im.lines)), formatCount(im.rejected),
		formatCount(im.gaveUp), formatCount(im.resent), time.Since(began).Round(time.Millisecond))
	for _, w := range slices.Sorted(maps.Keys(im.byWorker)) {
		im.ui.printf("import: %s handled %s rows", w, formatCount(im.byWorker[w]))
	}
	if readErr != nil {
		return statusFailed, fmt.Errorf("%w; to go on where it stopped, import again with -job %s", readErr, im.job)
	}
	finished := ImportFinished{Job: im.job, Imported: len(im.lines), Rejected: im.rejected, GaveUp: im.gaveUp}
	if spans := spansOf(im.lines); len(spans) <= maxSpans {
		finished.Lines = spans
	}
	if err := im.publish(ctx, finished); err != nil {
		return statusFailed, fmt.Errorf("announce the end of the import: %w", err)
	}
	return statusOf(im.rejected, im.gaveUp), nil
}

// sendAll sends every row, parallel at a time, and returns when each has an
// outcome. Its error is why it stopped early.
func (im *importer) sendAll(ctx context.Context, rows rowReader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	im.abort = cancel

	next := make(chan row)
	ended := make(chan error, 1)
	// A read from a terminal cannot be called off, so this goroutine is not
	// waited for when ctx ends: it ends when its owner closes the source.
	go func() {
		defer close(next)
		for {
			r, err := rows.next()
			if err != nil {
				ended <- err
				return
			}
			select {
			case next <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	var senders sync.WaitGroup
	for range im.parallel {
		senders.Go(func() {
			for {
				select {
				case r, ok := <-next:
					if !ok {
						return
					}
					im.importRow(ctx, r)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	senders.Wait()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errNoWorker):
		return cause
	case cause != nil:
		return errInterrupted
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the input: %w", err)
	}
	return nil
}

// importRow sees to one row and notes its outcome.
func (im *importer) importRow(ctx context.Context, r row) {
	if r.err != nil {
		im.reject(r, r.err)
		return
	}
	began := time.Now()
	accepted, err := im.send(ctx, r)
	im.mu.Lock()
	defer im.mu.Unlock()
	switch {
	case err == nil:
		im.lines = append(im.lines, r.line)
		im.byWorker[accepted.Worker]++
		im.lastSuccess, im.inVain, im.toldWaiting = time.Now(), 0, false
	case errors.Is(err, errInterrupted):
	case bus.CodeOf(err) == bus.CodeInvalid:
		im.rejected++
		im.ui.warnf("line %d: rejected by the worker: %v", r.line, err)
	case !im.lastSuccess.After(began) && im.hopeless(err):
		im.abort(fmt.Errorf("%w: %w", errNoWorker, err))
	default:
		im.gaveUp++
		im.ui.warnf("line %d: given up: %v", r.line, err)
	}
}

// hopeless reports whether the other rows will fare like one that was given up
// with err: nobody is there, or as many rows as are sent at once were given up
// in succession. im.mu is held.
func (im *importer) hopeless(err error) bool {
	switch bus.CodeOf(err) {
	case bus.CodeNoHandler, bus.CodeUnavailable:
		return true
	}
	im.inVain++
	return unknown(err) && im.inVain > max(im.parallel, 8)
}

// tryAgain notes that a row is sent again, and tells if nothing has succeeded
// for a while.
func (im *importer) tryAgain(err error) {
	const quiet = 3 * time.Second
	im.mu.Lock()
	defer im.mu.Unlock()
	im.resent++
	if !im.toldWaiting && time.Since(im.lastSuccess) > quiet {
		im.toldWaiting = true
		im.ui.warnf("import: no worker answers, trying on: %v", err)
	}
}

func (im *importer) reject(r row, reason error) {
	im.ui.warnf("line %d: %v", r.line, reason)
	im.mu.Lock()
	defer im.mu.Unlock()
	im.rejected++
}

// The pauses between tries, for tries that fail at once.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// send executes the command of one row until its outcome is known. Sending it
// again is safe because its id stays the same and its handler is idempotent.
func (im *importer) send(ctx context.Context, r row) (Accepted, error) {
	cmd := ImportOrder{Job: im.job, Line: r.line, Order: r.order}
	id := rowKey(im.job, r.order.ID)
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		// An interrupt lets the try under way end: its outcome is near.
		accepted, err := bus.Execute(context.WithoutCancel(ctx), im.b, cmd, bus.WithID(id), bus.WithTimeout(im.timeout))
		switch {
		case err == nil || !unknown(err):
			return accepted, err
		case time.Since(began)+pause > im.patience:
			return accepted, fmt.Errorf("no outcome after %v: %w", time.Since(began).Round(time.Millisecond), err)
		case !sleep(ctx, pause):
			return accepted, errInterrupted
		}
		im.tryAgain(err)
	}
}

// unknown reports whether trying again may help: the row's outcome is unknown,
// or nothing ran for a reason that passes.
func unknown(err error) bool {
	switch bus.CodeOf(err) {
	case bus.CodeTimeout, bus.CodeCancelled, bus.CodeUnknown,
		bus.CodeUnavailable, bus.CodeNoHandler, bus.CodeBusy, bus.CodeBacklog:
		return true
	default:
		return false
	}
}

// publish stores an event of the job, with as much patience as a row gets.
func (im *importer) publish(ctx context.Context, event any) error {
	return bus.Publish(ctx, im.b, event, bus.WithTimeout(im.patience))
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
