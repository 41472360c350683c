package middleware

import (
	"context"
	"log/slog"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// DedupOption is an option of Deduplicate.
type DedupOption interface{ dedup(*dedupOptions) }

type dedupOptions struct {
	size   int
	shared bool
	store  transport.Store
	log    *slog.Logger
}

type dedupOption func(*dedupOptions)

func (f dedupOption) dedup(o *dedupOptions) { f(o) }

// DedupSize bounds how many events Deduplicate remembers in this process; of more,
// the oldest are forgotten before their time. Default 100,000, which takes about
// 20 MB when it is full.
func DedupSize(n int) DedupOption { return dedupOption(func(o *dedupOptions) { o.size = n }) }

// DedupStore remembers handled events in a store that processes share, besides in
// this one: the transport's own Store, as a rule, before the bus is made of it. It
// costs a read before each event and a write after it. What cannot be read fails
// the event, which is retried; what cannot be written is a warning to log, if that
// is not nil: the event is handled, and this process alone knows.
func DedupStore(store transport.Store, log *slog.Logger) DedupOption {
	return dedupOption(func(o *dedupOptions) { o.shared, o.store, o.log = true, store, log })
}

// Deduplicate keeps a handler from handling an event again that it has handled
// within the window, and has the event acknowledged instead. Events are told apart
// by name, session and id, handlers by group and name; every private listener is
// one of its own. Commands, and messages that are being sent, pass through. From a
// batch (bus.SubscribeBatch) it takes the events that were handled before; of two
// copies in one batch the second fails, and comes again at once.
//
// An event is remembered once the rest of the chain has succeeded, and never
// before: one that failed runs again. While a copy of an event is handled, another
// one in this process waits for it (holding a slot of its handler) and is dropped
// only if that one succeeds; if not, it takes its turn.
//
// It makes handling an event twice rare, and does not make it impossible:
//   - The process may end after the handler has done its work and before that is
//     remembered. Without DedupStore every end of the process forgets.
//   - Two processes may handle two copies at the same time: with DedupStore each
//     looks before either has written.
//   - After the window, or once DedupSize later ones were handled and there is no
//     store, an event is new.
//
// So a handler must still survive the second run; one whose work is in a database
// is best served by a unique key there.
func Deduplicate(window time.Duration, opts ...DedupOption) bus.Middleware {
	o := dedupOptions{size: 100_000}
	for _, opt := range opts {
		opt.dedup(&o)
	}
	switch {
	case window <= 0:
		return invalid("Deduplicate", "the window of %v is not positive", window)
	case o.size < 1:
		return invalid("Deduplicate", "DedupSize(%d) is not positive", o.size)
	case o.shared && o.store == nil:
		return invalid("Deduplicate", "the store of DedupStore is nil; use the transport's Store method")
	}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	d := newDedup(window, o)
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			switch {
			case m.Kind != bus.KindEvent, sending(m):
				return next(ctx, m)
			case m.Events != nil:
				return d.batch(ctx, m, next)
			default:
				return d.once(ctx, m, next)
			}
		}
	}
}
