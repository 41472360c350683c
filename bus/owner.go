package bus

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
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

// ownerKey is where the record of a command's owner is kept.
func ownerKey(at transport.Address) string {
	if at.Session == "" {
		return ownerPrefix + at.Name
	}
	return sessionOwnerPrefix + base64.RawURLEncoding.EncodeToString([]byte(at.Session)) + "." + at.Name
}

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

// ownerRecord is the value of an owner key.
type ownerRecord struct {
	Service string   `json:"service"`
	Leases  []string `json:"leases"`
}

func newLease(b *Bus) *lease {
	l := &lease{b: b, id: b.ids.next(), ttl: leaseTTL, names: map[transport.Address]struct{}{}}
	if b.inProcess {
		l.ttl = 0
	}
	return l
}

// owner is the name that commands are owned under. Without a service name a bus
// shares its commands with nobody.
func (l *lease) owner() string {
	if l.b.cfg.Service != "" {
		return l.b.cfg.Service
	}
	return "unnamed-" + l.id
}

// own records that this process handles the command. ErrOwned: another live
// service does.
func (l *lease) own(ctx context.Context, at transport.Address) error {
	if err := l.open(ctx); err != nil {
		return err
	}
	if wrote, err := l.claim(ctx, at); err != nil {
		if wrote {
			l.undo(ctx, at)
		}
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[at] = struct{}{}
	return nil
}

// unserved reports with nil that no live process serves a session's command, so
// that it is the bus's. ErrUnavailable: one does, or nobody knows.
func (l *lease) unserved(ctx context.Context, at transport.Address) error {
	e, err := l.b.tr.Store().Get(ctx, ownerKey(at))
	switch {
	case errors.Is(err, transport.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("%w: whether session %q handles the command is not known: %w", transport.ErrUnavailable, at.Session, err)
	}
	var rec ownerRecord
	if err := json.Unmarshal(e.Value, &rec); err != nil {
		return nil // not ours to read
	}
	held, err := l.living(ctx, rec.Leases, 1)
	switch {
	case err != nil:
		return fmt.Errorf("%w: whether session %q handles the command is not known: %w", transport.ErrUnavailable, at.Session, err)
	case len(held) == 0:
		return nil
	}
	return fmt.Errorf("%w: session %q has a handler in a process of %q that cannot be reached", transport.ErrUnavailable, at.Session, rec.Service)
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

// claim enters this process into the command's record. It always writes: a
// service that found the record free, because this lease had ended, then finds
// that it has changed. wrote says that it may have written, also with an error.
func (l *lease) claim(ctx context.Context, at transport.Address) (wrote bool, err error) {
	store, key, name := l.b.tr.Store(), ownerKey(at), at.Name
	for {
		e, err := store.Get(ctx, key)
		switch {
		case errors.Is(err, transport.ErrNotFound):
			_, err = store.Create(ctx, key, l.record(nil), 0)
		case err != nil:
			return false, err
		default:
			var rec ownerRecord
			if err := json.Unmarshal(e.Value, &rec); err != nil {
				return false, fmt.Errorf("%w: the ownership record of %q cannot be read: %v", transport.ErrConfig, name, err)
			}
			if rec.Service == l.owner() {
				rec.Leases = slices.DeleteFunc(rec.Leases, func(id string) bool { return id == l.id })
				if len(rec.Leases) >= maxOwnerLeases {
					if rec.Leases, err = l.living(ctx, rec.Leases, 0); err != nil {
						return false, err
					}
				}
			} else {
				rec.Leases, err = l.living(ctx, rec.Leases, 1)
				if err != nil {
					return false, err
				}
				if len(rec.Leases) > 0 {
					return false, l.owned(name, rec.Service)
				}
			}
			_, err = store.Update(ctx, key, l.record(rec.Leases), e.Revision, 0)
		}
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, transport.ErrExists), errors.Is(err, transport.ErrConflict):
			// Another process wrote first: read again.
		default:
			return true, err
		}
	}
}

func (l *lease) owned(name, service string) error {
	e := errorf(CodeConflict, "handle", name, "%w: %q", ErrOwned, service)
	if l.b.cfg.Service == "" {
		e.Message += "; processes that share a command need one Config.Service"
	}
	e.Details = map[string]string{"owner": service}
	return e
}

// maxOwnerLeases is how many leases a record may have before those that ended
// without being given up are taken out.
const maxOwnerLeases = 100

func (l *lease) record(leases []string) []byte {
	v, err := json.Marshal(ownerRecord{Service: l.owner(), Leases: append(slices.Clone(leases), l.id)})
	if err != nil { // cannot happen: strings
		panic(err)
	}
	return v
}

// living returns those of the leases that are held, the first few or with 0 all.
// Without an answer it does not guess.
func (l *lease) living(ctx context.Context, leases []string, few int) ([]string, error) {
	var held []string
	for _, id := range leases {
		_, err := l.b.tr.Store().Get(ctx, leasePrefix+id)
		switch {
		case err == nil:
			if held = append(held, id); len(held) == few {
				return held, nil
			}
		case !errors.Is(err, transport.ErrNotFound):
			return nil, err
		}
	}
	return held, nil
}

// undo is disown for a registration that failed, maybe because ctx has ended.
func (l *lease) undo(ctx context.Context, at transport.Address) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.disown(ctx, at) // the lease's end frees it
}

// disown takes this process out of the command's record. After an error a command
// of a session is still in ownedIn.
func (l *lease) disown(ctx context.Context, at transport.Address) error {
	l.mu.Lock()
	delete(l.names, at)
	l.mu.Unlock()
	err := release(ctx, l.b.tr.Store(), ownerKey(at), l.id)
	if err != nil && at.Session != "" {
		l.mu.Lock()
		l.names[at] = struct{}{}
		l.mu.Unlock()
	}
	return err
}

// ownedIn returns the commands of a session that this process handles.
func (l *lease) ownedIn(session string) []transport.Address {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []transport.Address
	for at := range l.names {
		if at.Session == session {
			all = append(all, at)
		}
	}
	return all
}

// release takes a lease out of a record of owners.
func release(ctx context.Context, store transport.Store, key, lease string) error {
	for {
		e, err := store.Get(ctx, key)
		if errors.Is(err, transport.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		var rec ownerRecord
		if json.Unmarshal(e.Value, &rec) != nil || !slices.Contains(rec.Leases, lease) {
			return nil // not ours
		}
		rec.Leases = slices.DeleteFunc(rec.Leases, func(id string) bool { return id == lease })
		if len(rec.Leases) == 0 {
			err = store.Delete(ctx, key, e.Revision)
		} else {
			var v []byte
			if v, err = json.Marshal(rec); err == nil {
				_, err = store.Update(ctx, key, v, e.Revision, 0)
			}
		}
		if !errors.Is(err, transport.ErrConflict) {
			return err
		}
	}
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

// reclaim claims again what was owned by a lease that had ended. A command that
// another service took meanwhile is no longer handled here. It reports whether
// it knows of each command who owns it.
func (l *lease) reclaim(ctx context.Context) bool {
	l.mu.Lock()
	names := slices.Collect(maps.Keys(l.names))
	l.mu.Unlock()
	known := true
	for _, at := range names {
		if at.Session != "" {
			continue // it ended with the lease
		}
		name := at.Name
		_, err := l.claim(ctx, at)
		switch {
		case err == nil:
		case errors.Is(err, ErrOwned):
			l.b.log.Error("command taken over by another service; no longer handled here", "name", name, "err", err)
			l.mu.Lock()
			delete(l.names, at)
			l.mu.Unlock()
			if h := l.b.root.commands.Load().byName[name]; h != nil {
				h.close(ctx)
			}
		default:
			l.b.log.Warn("command not claimed again yet", "name", name, "err", err)
			known = false
		}
	}
	return known
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
