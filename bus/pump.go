package bus

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// pump runs do for the items of a source, on at most limit goroutines. It owns
// them; wait waits for the last.
//
// Workers take turns as leader: whoever holds an item first sees to it that
// somebody waits for the next one. So an item is handled on the goroutine that
// took it, and no item is passed from one goroutine to another.
type pump[T any] struct {
	src   transport.Source[T]
	limit int
	do    func(T)
	log   *slog.Logger

	mu      sync.Mutex
	workers int   // alive
	waiting int   // of those, in Next
	failed  error // of the last Next

	ended chan struct{} // closed when the last worker has ended
}

// intake is what a reader sees of its pump, whatever its items are.
type intake interface {
	start()
	raise(limit int)
	done() <-chan struct{}
	failing() error
}

// failing returns the error that the source handed out last, instead of an item.
func (p *pump[T]) failing() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// done is closed when the last worker has ended, after the source was closed.
func (p *pump[T]) done() <-chan struct{} { return p.ended }

// idleWorkers is how many workers wait for items when there are none: enough to
// take up a burst without starting goroutines.
const idleWorkers = 8

// nextRetry is how long a pump waits after an error of Next that may pass.
const nextRetry = 100 * time.Millisecond

func newPump[T any](src transport.Source[T], limit int, log *slog.Logger, do func(T)) *pump[T] {
	return &pump[T]{src: src, limit: limit, log: log, do: do, ended: make(chan struct{})}
}

func (p *pump[T]) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spawn()
}

// raise lets the pump use up to n workers.
func (p *pump[T]) raise(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = max(p.limit, n)
	if p.waiting == 0 && p.workers > 0 && p.workers < p.limit {
		p.spawn() // all were at work, and none was to look for more
	}
}

// spawn starts a worker. p.mu is held.
func (p *pump[T]) spawn() {
	p.workers++
	p.waiting++
	go p.work()
}

// work takes items until the source is closed or enough others wait. It leaves
// a replacement behind if do, or the source, ends its goroutine.
func (p *pump[T]) work() {
	returned, waiting := false, true
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.workers--
		if !returned && waiting {
			p.waiting--
		}
		if !returned && p.waiting == 0 {
			p.spawn()
		}
		if p.workers == 0 { // and none comes after it
			close(p.ended)
		}
	}()
	for {
		waiting = true
		item, err := p.src.Next(context.Background())
		waiting = false
		if !p.lead(err) {
			returned = true
			return
		}
		if err != nil {
			p.log.Warn("no messages for now", "err", err)
			time.Sleep(nextRetry)
		} else {
			p.do(item)
		}
		if !p.follow() {
			returned = true
			return
		}
	}
}

// lead is called with what Next returned; false ends the worker.
func (p *pump[T]) lead(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
	if err != nil || p.failed != nil {
		p.failed = err
	}
	if errors.Is(err, transport.ErrClosed) {
		return false
	}
	if err == nil && p.waiting == 0 && p.workers < p.limit {
		p.spawn()
	}
	return true
}

// follow is called when an item is done; false ends the worker because enough
// others wait.
func (p *pump[T]) follow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting >= idleWorkers {
		return false
	}
	p.waiting++
	return true
}

// wait waits until every worker has ended, after the source was closed. It
// reports false if ctx ended first.
func (p *pump[T]) wait(ctx context.Context) bool {
	return awaitClosed(ctx, p.ended)
}

// awaitClosed waits for done and reports false if ctx ended first. What is done
// counts even if ctx has ended.
func awaitClosed(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
