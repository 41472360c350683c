package nats

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// watcher is the Source of a Watch: a queue of the keys that changed, filled by
// one feed after another. A feed that lost anything is replaced by a new one,
// which delivers every key again; what changed meanwhile, or is gone, is found by
// comparing. What is kept is bounded by the number of keys.
type watcher struct {
	s       *store
	filters []string
	stop    context.CancelFunc
	done    chan struct{} // closed when run has returned

	mu      sync.Mutex
	queue   *list.List               // of *change, in the order to hand out
	queued  map[string]*list.Element // by key
	known   map[string]uint64        // revisions of the keys that are there
	newest  uint64                   // the highest revision that a feed delivered
	started bool                     // the zero Entry was queued
	closed  bool
	ready   chan struct{} // holds a token while the queue may have entries
}

// change is one entry of the queue.
type change struct {
	transport.Entry
	initial bool // queued before the zero Entry
}

func (s *store) Watch(ctx context.Context, prefix string) (transport.Source[transport.Entry], error) {
	doing := fmt.Sprintf("watch keys below %q", prefix)
	w := newWatcher(s)
	if prefix == "" {
		w.filters = []string{s.subject(">")}
	} else if err := checkKey(prefix); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	} else {
		w.filters = []string{s.subject(prefix), s.subject(prefix) + ".>"}
	}
	var f *feed
	err := s.c.try(ctx, doing, func(ctx context.Context, js jetstream.JetStream) (err error) {
		f, err = openFeed(ctx, js, s.stream, w.filters)
		return err
	})
	if err != nil {
		return nil, err
	}
	var life context.Context
	life, w.stop = context.WithCancel(s.c.life)
	s.c.wg.Go(func() { w.run(life, f) })
	return w, nil
}

func newWatcher(s *store) *watcher {
	return &watcher{
		s: s, done: make(chan struct{}), queue: list.New(), queued: map[string]*list.Element{},
		known: map[string]uint64{}, ready: make(chan struct{}, 1),
	}
}

func (w *watcher) Next(ctx context.Context) (transport.Entry, error) {
	for {
		if err := ctx.Err(); err != nil {
			return transport.Entry{}, err
		}
		if e, ok, err := w.pop(); ok || err != nil {
			return e, err
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
		case <-w.done:
		}
	}
}

// pop takes the first entry of the queue, if there is one.
func (w *watcher) pop() (transport.Entry, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.s.c.life.Err() != nil {
		return transport.Entry{}, false, transport.ErrClosed
	}
	front := w.queue.Front()
	if front == nil {
		return transport.Entry{}, false, nil
	}
	c := w.queue.Remove(front).(*change)
	delete(w.queued, c.Key)
	if w.queue.Len() > 0 {
		w.wake()
	}
	return c.Entry, true, nil
}

func (w *watcher) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.stop()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close watch: %w", ctx.Err())
	}
}

// wake lets one Next look at the queue.
func (w *watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// run reads one feed after another until ctx ends.
func (w *watcher) run(ctx context.Context, f *feed) {
	defer close(w.done)
	for pause := pauseFirst; ; pause = min(2*pause, callLongest) {
		if f != nil {
			w.read(ctx, f)
			f.close()
			pause = pauseFirst
		}
		if ctx.Err() != nil {
			return
		}
		w.s.c.pause(ctx, pause)
		f = nil
		_ = w.s.c.once(ctx, callLongest, func(ctx context.Context, js jetstream.JetStream) (err error) {
			f, err = openFeed(ctx, js, w.s.stream, w.filters)
			return err
		})
	}
}

// read takes what f delivers until something is lost or ctx ends.
func (w *watcher) read(ctx context.Context, f *feed) {
	seen := map[string]bool{} // during the scan of what is there; then nil
	for more := f.pending > 0; ; {
		if seen != nil && !more {
			w.scanned(seen)
			seen = nil
		}
		m, md, err := f.next(ctx)
		switch {
		case err != nil:
			return
		case m == nil: // idle: nothing is left to scan
			more = false
		default:
			w.take(m, md.Sequence.Stream, seen)
			more = md.NumPending > 0 && f.seq < f.pending
		}
	}
}

// take queues the change that m tells.
func (w *watcher) take(m *nats.Msg, revision uint64, seen map[string]bool) {
	e := transport.Entry{Key: m.Subject[len(w.s.subject("")):], Revision: revision}
	if e.Deleted = isMarker(m.Header); !e.Deleted {
		e.Value = m.Data
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if seen != nil {
		seen[e.Key] = true
	}
	last, there := w.known[e.Key]
	fresh := w.started && revision > w.newest
	w.newest = max(w.newest, revision)
	if e.Deleted && !there && !fresh || there && last == revision {
		return // the trace of a key that went before, or told before
	}
	w.push(e)
}

// scanned says that a feed has delivered every key that is there.
func (w *watcher) scanned(seen map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, revision := range w.known {
		if !seen[key] {
			w.push(transport.Entry{Key: key, Revision: revision, Deleted: true})
		}
	}
	if !w.started {
		w.queue.PushBack(&change{initial: true})
		w.started = true
		w.wake()
	}
}

// push queues a change, which replaces one of the same key that waits.
func (w *watcher) push(e transport.Entry) {
	if e.Deleted {
		delete(w.known, e.Key)
	} else {
		w.known[e.Key] = e.Revision
	}
	c := &change{Entry: e, initial: !w.started}
	if old := w.queued[e.Key]; old != nil {
		if initial := old.Value.(*change).initial; initial && !e.Deleted {
			c.initial = true // it stays among the keys that are there
			old.Value = c
			return
		}
		w.queue.Remove(old)
		delete(w.queued, e.Key)
		if !w.started && e.Deleted {
			return // gone before anybody heard of it
		}
	}
	w.queued[e.Key] = w.queue.PushBack(c)
	w.wake()
}
