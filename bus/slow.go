package bus

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	defaultSlowHandler = 10 * time.Second
	// minSlowLook is how often at most somebody looks for handlers that are slow.
	minSlowLook = 10 * time.Millisecond
)

// slowLook is how often somebody looks for handlers that run for longer than limit.
func slowLook(limit time.Duration) time.Duration { return max(limit/4, minSlowLook) }

// logSlow tells once of a run that goes on for longer than Config.SlowHandler.
func (b *Bus) logSlow(k *call, attrs []slog.Attr, elapsed time.Duration) {
	if k.note() {
		b.log.LogAttrs(context.Background(), slog.LevelWarn, "handler is slow", append(attrs, slog.Duration("elapsed", elapsed))...)
	}
}

// slowWatch finds the commands of a bus that run for too long. It starts with the
// first handler and ends with the bus.
type slowWatch struct {
	b     *Bus
	limit time.Duration // Config.SlowHandler; negative: nobody watches

	mu       sync.Mutex
	handlers map[*commandHandler]struct{}
	stop     context.CancelFunc // nil until it runs
	closed   bool
	wg       sync.WaitGroup
}

func newSlowWatch(b *Bus) *slowWatch {
	return &slowWatch{b: b, limit: b.cfg.SlowHandler, handlers: map[*commandHandler]struct{}{}}
}

// add watches h until it is closed and nothing of it runs.
func (w *slowWatch) add(h *commandHandler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit < 0 || w.closed {
		return
	}
	w.handlers[h] = struct{}{}
	if w.stop == nil {
		var ctx context.Context
		ctx, w.stop = context.WithCancel(context.Background())
		w.wg.Go(func() { w.loop(ctx) })
	}
}

func (w *slowWatch) close() {
	w.mu.Lock()
	w.closed = true
	if w.stop != nil {
		w.stop()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

func (w *slowWatch) loop(ctx context.Context) {
	t := time.NewTicker(slowLook(w.limit))
	defer t.Stop()
	seen := map[*call]time.Time{} // since when each run is known
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			seen = w.look(now, seen)
		}
	}
}

// look returns what runs now. A run was found no later than that long ago: held on
// to, its call is that of no other run.
func (w *slowWatch) look(now time.Time, before map[*call]time.Time) map[*call]time.Time {
	seen := map[*call]time.Time{}
	for _, h := range w.watched() {
		h.slots.each(func(k *call) {
			first, ok := before[k]
			if !ok {
				first = now
			}
			seen[k] = first
			if elapsed := now.Sub(first); elapsed >= w.limit {
				w.b.logSlow(k, messageAttrs(KindCommand, k.who.name, k.id(), k.envelope().Session, "", k.who.handler, 1), elapsed)
			}
		})
	}
	return seen
}

// watched returns the handlers of which something runs, and forgets those that are
// closed.
func (w *slowWatch) watched() (all []*commandHandler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for h := range w.handlers {
		switch {
		case h.slots.taken() > 0:
			all = append(all, h)
		case !h.live.Load():
			delete(w.handlers, h)
		}
	}
	return all
}
