package bus

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Every process that handles commands or has sessions open holds a lease in the
// transport's store. Every command has a record of the service that owns it with
// the leases of its processes; a record whose leases have all ended is free to
// take. Every opening of a session has a record below its process's lease.
//
// A process may stand still for leasePause and lose nothing, also if it was about
// to renew; the store counts in whole seconds.
const (
	leasePause = 10 * time.Second
	leaseRenew = 3 * time.Second
	leaseRetry = time.Second // after a renewal that failed
	leaseTTL   = leasePause + leaseRenew + time.Second

	leasePrefix = "lease."
	ownerPrefix = "owner."
	// sessionOwnerPrefix is for the commands of sessions; the session's id, in
	// base 64, is the first token of the rest.
	sessionOwnerPrefix = "session."
)

// lease is this bus's presence and what it owns by it.
type lease struct {
	b   *Bus
	id  string
	ttl time.Duration // 0: the store ends with this process

	mu       sync.Mutex
	revision uint64                         // of the lease's key; 0 before the first own
	renewed  time.Time                      // when the last renewal that succeeded was begun
	names    map[transport.Address]struct{} // the commands that are owned
	closed   bool
	stop     context.CancelFunc
	wg       sync.WaitGroup

	lapsed bool // it had ended, and what it owned is to be claimed again; renewAll's
}

func newLease(b *Bus) *lease {
	l := &lease{b: b, id: b.ids.next(), ttl: leaseTTL, names: map[transport.Address]struct{}{}}
	if b.inProcess {
		l.ttl = 0
	}
	return l
}

// valid reports whether the lease is surely held, by this process's clock. A
// process that stood still for longer finds out before it runs anything.
func (l *lease) valid() bool {
	if l.ttl == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.renewed) < l.ttl
}

// held reports whether there is a lease to renew.
func (l *lease) held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revision != 0
}

// open creates the lease and starts to renew it, once.
func (l *lease) open(ctx context.Context) error {
	l.mu.Lock()
	opened := l.revision != 0
	l.mu.Unlock()
	if opened {
		return nil
	}
	began := time.Now()
	revision, err := l.make(ctx)
	if err != nil {
		return err
	}
	if !l.keep(revision, began) {
		if err := l.b.tr.Store().Delete(ctx, leasePrefix+l.id, 0); err != nil {
			l.b.log.Debug("process lease not given up; it ends by itself", "err", err)
		}
		return transport.ErrClosed
	}
	return nil
}

// keep starts to renew the lease, unless a concurrent open was first. It reports
// false if the bus has closed meanwhile.
func (l *lease) keep(revision uint64, began time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.revision != 0 {
		return !l.closed
	}
	l.revision, l.renewed = revision, began
	if l.ttl > 0 {
		l.b.reaper.start()
		ctx, cancel := context.WithCancel(context.Background())
		l.stop = cancel
		l.wg.Go(func() { l.renewAll(ctx) })
	}
	return true
}

// make creates the lease and returns its revision. One that is there was made by
// a concurrent open, or by an earlier try whose answer was lost.
func (l *lease) make(ctx context.Context) (uint64, error) {
	store, key := l.b.tr.Store(), leasePrefix+l.id
	revision, err := store.Create(ctx, key, []byte(l.owner()), l.ttl)
	if errors.Is(err, transport.ErrExists) {
		e, err := store.Get(ctx, key)
		return e.Revision, err
	}
	return revision, err
}

// renewAll keeps the lease alive until ctx ends. A renewal that failed is tried
// again soon.
func (l *lease) renewAll(ctx context.Context) {
	for wait := leaseRenew; sleep(ctx, wait); {
		if wait = leaseRenew; !l.renew(ctx) {
			wait = leaseRetry
		}
	}
}

// renew extends the lease, and reports whether it did. One that has ended takes
// the sessions with it and is made again, and what was owned by it is claimed
// again: now, or by the next renewal if something fails.
func (l *lease) renew(ctx context.Context) bool {
	if !l.valid() { // whoever wakes up late does not wait for the store to hear it
		l.b.sessions.expire()
	}
	ctx, cancel := context.WithTimeout(ctx, leaseRenew)
	defer cancel()
	began := time.Now()
	next, err := l.extend(ctx)
	if errors.Is(err, transport.ErrNotFound) {
		l.b.log.Warn("process lease had ended; ending the sessions and claiming the commands again")
		l.lapsed = true
		l.b.sessions.expire()
		next, err = l.make(ctx)
		l.b.sessions.expire() // what was opened meanwhile has its record below no lease
	}
	if err != nil {
		l.b.log.Warn("process lease not renewed", "err", err)
		return false
	}
	l.mu.Lock()
	l.revision, l.renewed = next, began
	l.mu.Unlock()
	if l.lapsed {
		l.lapsed = !l.reclaim(ctx)
	}
	l.b.sessions.buryLeft(ctx)
	return true
}

// extend writes the lease again. ErrNotFound: it has ended. A conflict is a
// renewal whose answer was lost: nobody else writes this key.
func (l *lease) extend(ctx context.Context) (uint64, error) {
	store, key := l.b.tr.Store(), leasePrefix+l.id
	l.mu.Lock()
	revision := l.revision
	l.mu.Unlock()
	for {
		next, err := store.Update(ctx, key, []byte(l.owner()), revision, l.ttl)
		if !errors.Is(err, transport.ErrConflict) {
			return next, err
		}
		e, err := store.Get(ctx, key)
		if err != nil {
			return 0, err
		}
		revision = e.Revision
	}
}

// close gives up everything that is owned, and the lease.
func (l *lease) close(ctx context.Context) {
	l.mu.Lock()
	l.closed = true
	stop, revision := l.stop, l.revision
	names := slices.Collect(maps.Keys(l.names))
	l.mu.Unlock()
	if stop != nil {
		stop()
		l.wg.Wait()
	}
	for _, at := range names {
		_ = l.disown(ctx, at) // the lease's end frees it
	}
	if revision != 0 {
		if err := l.b.tr.Store().Delete(ctx, leasePrefix+l.id, 0); err != nil {
			l.b.log.Warn("process lease not given up; it ends by itself", "err", err)
		}
	}
}
