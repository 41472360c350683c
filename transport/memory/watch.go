package memory

import (
	"context"
	"slices"
	"strings"

	"github.com/jitney-bus/jitney/transport"
)

// watcher yields the changes of a store. It holds the last change of each key
// that is yet to be read, so it is as large as the store at most. The store's
// lock guards it.
type watcher struct {
	s       *store
	prefix  string
	order   ring[string]               // "" is the end of the initial keys
	latest  map[string]transport.Entry // by key
	waiting waitList
	closed  bool
}

func (s *store) Watch(ctx context.Context, prefix string) (transport.Source[transport.Entry], error) {
	if prefix != "" {
		if err := checkKey(prefix); err != nil {
			return nil, err
		}
	}
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	w := &watcher{s: s, prefix: prefix, latest: map[string]transport.Entry{}}
	var there []transport.Entry
	for key, r := range s.keys {
		if w.covers(key) {
			there = append(there, r.entry)
		}
	}
	slices.SortFunc(there, func(a, b transport.Entry) int { return strings.Compare(a.Key, b.Key) })
	for _, e := range there {
		w.order.push(e.Key)
		w.latest[e.Key] = e
	}
	w.order.push("")
	s.watchers[w] = struct{}{}
	return w, nil
}

func (w *watcher) covers(key string) bool {
	rest, ok := strings.CutPrefix(key, w.prefix)
	return ok && (w.prefix == "" || rest == "" || rest[0] == '.')
}

// tell gives a change to the watchers. The lock is held; a signal does not
// block, since its waiter has just been taken off its list.
func (s *store) tell(e transport.Entry) {
	for w := range s.watchers {
		if !w.covers(e.Key) {
			continue
		}
		if _, unread := w.latest[e.Key]; !unread {
			w.order.push(e.Key)
		}
		w.latest[e.Key] = e
		if x := w.waiting.take(); x != nil {
			x.signal()
		}
	}
}

func (w *watcher) Next(ctx context.Context) (transport.Entry, error) {
	if err := ctx.Err(); err != nil {
		return transport.Entry{}, err
	}
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if w.closed || s.closed {
			return transport.Entry{}, transport.ErrClosed
		}
		if w.order.n > 0 {
			key := w.order.pop()
			e := w.latest[key] // the zero Entry for ""
			delete(w.latest, key)
			return copyEntry(e), nil
		}
		signalled := w.waiting.wait(ctx, &s.mu, nil)
		if err := ctx.Err(); err != nil && !w.closed && !s.closed {
			if signalled && w.order.n > 0 {
				if x := w.waiting.take(); x != nil {
					x.signal()
				}
			}
			return transport.Entry{}, err
		}
	}
}

func (w *watcher) Close(context.Context) error {
	s := w.s
	s.mu.Lock()
	w.closed = true
	delete(s.watchers, w)
	ws := w.waiting.takeAll(nil)
	s.mu.Unlock()
	for _, x := range ws {
		x.signal()
	}
	return nil
}
