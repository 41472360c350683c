package memory

import (
	"container/list"
	"context"
	"slices"
	"strings"

	"github.com/jitney-bus/jitney/transport"
)

// watcher yields the changes of a store. Of a key that is yet to be read it holds
// the last change, and none if the key came and went meanwhile: so it holds the
// keys that are there, and those that its reader was told of and that are gone.
// The store's lock guards it.
type watcher struct {
	s       *store
	prefix  string
	changes list.List                // of *change; the zero Entry ends the initial keys
	unread  map[string]*list.Element // by key
	waiting waitList
	closed  bool
}

// change is what is yet to be read of one key.
type change struct {
	entry transport.Entry
	told  bool // its reader takes the key to be there
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
	w := &watcher{s: s, prefix: prefix, unread: map[string]*list.Element{}}
	var there []transport.Entry
	for key, r := range s.keys {
		if w.covers(key) {
			there = append(there, r.entry)
		}
	}
	slices.SortFunc(there, func(a, b transport.Entry) int { return strings.Compare(a.Key, b.Key) })
	for _, e := range there {
		w.add(e, false)
	}
	w.changes.PushBack(&change{})
	s.watchers[w] = struct{}{}
	return w, nil
}

func (w *watcher) covers(key string) bool {
	rest, ok := strings.CutPrefix(key, w.prefix)
	return ok && (w.prefix == "" || rest == "" || rest[0] == '.')
}

func (w *watcher) add(e transport.Entry, told bool) {
	w.unread[e.Key] = w.changes.PushBack(&change{e, told})
}

// tell gives a change to the watchers; was is whether the key was there before.
// The lock is held; a signal does not block, since its waiter has just been taken
// off its list.
func (s *store) tell(e transport.Entry, was bool) {
	for w := range s.watchers {
		if !w.covers(e.Key) {
			continue
		}
		switch at := w.unread[e.Key]; {
		case at == nil:
			w.add(e, was)
		case e.Deleted && !at.Value.(*change).told:
			w.changes.Remove(at)
			delete(w.unread, e.Key)
			continue
		default:
			at.Value.(*change).entry = e
		}
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
		if first := w.changes.Front(); first != nil {
			e := w.changes.Remove(first).(*change).entry
			delete(w.unread, e.Key)
			return copyEntry(e), nil
		}
		signalled := w.waiting.wait(ctx, &s.mu, nil)
		if err := ctx.Err(); err != nil && !w.closed && !s.closed {
			if signalled && w.changes.Len() > 0 {
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
	w.changes, w.unread = list.List{}, nil
	ws := w.waiting.takeAll(nil)
	s.mu.Unlock()
	for _, x := range ws {
		x.signal()
	}
	return nil
}
