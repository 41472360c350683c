package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// Sink is where entries go. A Log calls it from one goroutine at a time.
type Sink interface {
	// Write stores entries, which are the Log's again when it returns. An error
	// costs these entries, and Write is called again with the next ones.
	Write(entries []Entry) error
	// Close writes what is left and gives up what the sink holds.
	Close() error
}

// Func is a Sink of a function, called for one entry after the other. One that
// fails or panics costs its own entry.
type Func func(Entry) error

// Write implements Sink.
func (f Func) Write(entries []Entry) error {
	var errs []error
	for _, e := range entries {
		errs = append(errs, f(e))
	}
	return errors.Join(errs...)
}

// Close implements Sink. There is nothing to close.
func (f Func) Close() error { return nil }

// Config configures a Log. The zero value works.
type Config struct {
	// QueueSize is how many entries may wait to be written. An entry takes about 300
	// bytes and its text. Default 10,000.
	QueueSize int
	// Select chooses what is recorded. It is called as an observer is: it must be
	// fast and must not block. Default: everything.
	Select func(bus.Record) bool
	// Logger is told of entries that are lost, at most once a minute. Default:
	// silent; Stats has the figures.
	Logger *slog.Logger
}

const (
	defaultQueueSize = 10_000
	// maxWrite bounds the entries of one Write.
	maxWrite = 1000
	// maxSpare bounds the room that is kept for entries to come.
	maxSpare = 4096
	// tellEvery is how often a loss is told of at most.
	tellEvery = time.Minute
)

// Stats counts entries.
type Stats struct {
	// Written were taken by the sink, Dropped found the queue full or the log
	// closed, Failed were refused by the sink.
	Written uint64 `json:"written"`
	Dropped uint64 `json:"dropped"`
	Failed  uint64 `json:"failed"`
	// Waiting are in the queue or being written.
	Waiting int `json:"waiting"`
}

// Log writes what a bus does into a Sink. Its methods are safe for concurrent use.
// One Log may observe several buses.
type Log struct {
	sink  Sink
	cfg   Config
	batch int // the entries of one Write, at most

	mu      sync.Mutex
	queue   []Entry
	spare   []Entry // takes turns with queue
	writing int     // of what was in the queue
	stats   Stats
	closed  bool
	idle    chan struct{} // closed when nothing waits, and replaced
	wake    chan struct{} // holds one
	told    time.Time     // when a loss was last told of
	lost    Stats         // as told then

	done     chan struct{} // closed when the sink is closed
	closeErr error         // set before done is closed
}

// New returns a Log that writes into sink, which it owns from then on: Close closes
// it. It panics if sink is nil.
func New(sink Sink, cfg Config) *Log {
	if sink == nil {
		panic("eventlog: the sink is nil")
	}
	if cfg.QueueSize <= 0 {
		cfg.QueueSize = defaultQueueSize
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{sink: sink, cfg: cfg, batch: maxWrite, wake: make(chan struct{}, 1), idle: make(chan struct{}), done: make(chan struct{})}
	if _, ok := sink.(Func); ok {
		l.batch = 1 // one that fails costs no other
	}
	go l.run()
	return l
}

// Observe records a step. It is a bus.Observer, for bus.Config.Observers; it never
// blocks.
func (l *Log) Observe(r bus.Record) {
	if l.cfg.Select != nil && !l.cfg.Select(r) {
		return
	}
	e := entryOf(r, time.Now())
	l.mu.Lock()
	if l.closed || len(l.queue)+l.writing >= l.cfg.QueueSize {
		l.stats.Dropped++
		l.mu.Unlock()
		return
	}
	l.queue = append(l.queue, e)
	l.mu.Unlock()
	l.poke()
}

func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Stats returns what has become of the entries so far.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Waiting = len(l.queue) + l.writing
	return s
}

// Flush waits until what was recorded before is written, or has failed. Its error
// is ctx's.
func (l *Log) Flush(ctx context.Context) error {
	for {
		l.mu.Lock()
		idle, waiting := l.idle, len(l.queue)+l.writing
		l.mu.Unlock()
		if waiting == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return fmt.Errorf("eventlog: %d entries are not written yet: %w", waiting, ctx.Err())
		}
	}
}

// Close writes what waits and closes the sink. Close the bus first: what is
// observed from now on is dropped and counted. When ctx ends first, the error tells
// how many entries are not written; the sink goes on with them if it ever returns.
// A later call waits for the same end.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.poke()
	select {
	case <-l.done:
		return l.closeErr
	case <-ctx.Done():
		return fmt.Errorf("eventlog: %d entries are not written yet: %w", l.Stats().Waiting, ctx.Err())
	}
}

// run writes until the log is closed and the queue empty.
func (l *Log) run() {
	defer close(l.done)
	for {
		all, ended := l.take()
		for rest := all; len(rest) > 0; {
			n := min(len(rest), l.batch)
			l.written(n, guard(func() error { return l.sink.Write(rest[:n:n]) }))
			rest = rest[n:]
		}
		if len(all) > 0 {
			l.giveBack(all)
			continue
		}
		if ended {
			l.closeErr = guard(l.sink.Close)
			return
		}
		<-l.wake
	}
}

// take returns what waits, and whether nothing follows.
func (l *Log) take() (all []Entry, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, l.queue, l.spare = l.queue, l.spare, nil
	l.writing = len(all)
	return all, l.closed && len(all) == 0
}

// giveBack keeps the room of what is written, unless a burst has made it large.
func (l *Log) giveBack(all []Entry) {
	clear(all)
	l.mu.Lock()
	defer l.mu.Unlock()
	if cap(all) <= maxSpare {
		l.spare = all[:0]
	}
}

// written notes what became of n entries, and tells of what is lost.
func (l *Log) written(n int, err error) {
	now := time.Now()
	l.mu.Lock()
	if err != nil {
		l.stats.Failed += uint64(n)
	} else {
		l.stats.Written += uint64(n)
	}
	l.writing -= n
	if len(l.queue)+l.writing == 0 {
		close(l.idle)
		l.idle = make(chan struct{})
	}
	dropped, failed := l.stats.Dropped-l.lost.Dropped, l.stats.Failed-l.lost.Failed
	tell := dropped+failed > 0 && (l.told.IsZero() || now.Sub(l.told) >= tellEvery)
	if tell {
		l.told, l.lost = now, l.stats
	}
	l.mu.Unlock()
	if tell {
		l.cfg.Logger.Warn("entries of the event log are lost", "dropped", dropped, "failed", failed, "err", err)
	}
}

// guard turns a panic of a sink, or the end of its goroutine, into an error.
func guard(f func() error) (err error) {
	ended := make(chan error, 1)
	go func() {
		err := errors.New("eventlog: the sink ended its goroutine")
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("eventlog: the sink panicked: %v", r)
			}
			ended <- err
		}()
		err = f()
	}()
	return <-ended
}
