package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// Every process that handles commands holds a lease in the transport's store,
// and every command has a record of the service that owns it with the leases of
// its processes. A record whose leases have all ended is free to take.
const (
	leaseTTL   = 10 * time.Second
	leaseRenew = 3 * time.Second

	leasePrefix = "lease."
	ownerPrefix = "owner."
)

// lease is this bus's presence and what it owns by it.
type lease struct {
	b   *Bus
	id  string
	ttl time.Duration // 0: the store ends with this process

	mu       sync.Mutex
	revision uint64 // of the lease's key; 0 before the first own
	names    map[string]struct{}
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
	l := &lease{b: b, id: b.ids.next(), ttl: leaseTTL, names: map[string]struct{}{}}
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
func (l *lease) own(ctx context.Context, name string) error {
	if err := l.open(ctx); err != nil {
		return err
	}
	if wrote, err := l.claim(ctx, name); err != nil {
		if wrote {
			l.undo(ctx, name)
		}
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[name] = struct{}{}
	return nil
}

// open creates the lease and starts to renew it, once.
func (l *lease) open(ctx context.Context) error {
	l.mu.Lock()
	opened := l.revision != 0
	l.mu.Unlock()
	if opened {
		return nil
	}
	revision, err := l.make(ctx)
	if err != nil {
		return err
	}
	if !l.keep(revision) {
		if err := l.b.tr.Store().Delete(ctx, leasePrefix+l.id, 0); err != nil {
			l.b.log.Debug("process lease not given up; it ends by itself", "err", err)
		}
		return transport.ErrClosed
	}
	return nil
}

// keep starts to renew the lease, unless a concurrent open was first. It reports
// false if the bus has closed meanwhile.
func (l *lease) keep(revision uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.revision != 0 {
		return !l.closed
	}
	l.revision = revision
	if l.ttl > 0 {
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
func (l *lease) claim(ctx context.Context, name string) (wrote bool, err error) {
	store, key := l.b.tr.Store(), ownerPrefix+name
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
func (l *lease) undo(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	l.disown(ctx, name)
}

// disown takes this process out of the command's record.
func (l *lease) disown(ctx context.Context, name string) {
	l.mu.Lock()
	delete(l.names, name)
	l.mu.Unlock()
	store, key := l.b.tr.Store(), ownerPrefix+name
	for {
		e, err := store.Get(ctx, key)
		var rec ownerRecord
		if err != nil || json.Unmarshal(e.Value, &rec) != nil || !slices.Contains(rec.Leases, l.id) {
			return // not ours, or unreachable: the lease's end frees it
		}
		rec.Leases = slices.DeleteFunc(rec.Leases, func(id string) bool { return id == l.id })
		if len(rec.Leases) == 0 {
			err = store.Delete(ctx, key, e.Revision)
		} else {
			var v []byte
			if v, err = json.Marshal(rec); err == nil {
				_, err = store.Update(ctx, key, v, e.Revision, 0)
			}
		}
		if !errors.Is(err, transport.ErrConflict) {
			return
		}
	}
}

// renewAll keeps the lease alive until ctx ends.
func (l *lease) renewAll(ctx context.Context) {
	t := time.NewTicker(leaseRenew)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			l.renew(ctx)
		}
	}
}

// renew extends the lease. One that has ended is made again, and what was owned
// by it is claimed again: now, or by the next renewal if something fails.
func (l *lease) renew(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaseRenew)
	defer cancel()
	l.mu.Lock()
	revision := l.revision
	l.mu.Unlock()
	next, err := l.b.tr.Store().Update(ctx, leasePrefix+l.id, []byte(l.owner()), revision, l.ttl)
	if errors.Is(err, transport.ErrConflict) || errors.Is(err, transport.ErrNotFound) {
		l.b.log.Warn("process lease had ended, or a renewal's answer was lost; claiming the commands again")
		l.lapsed = true
		next, err = l.make(ctx)
	}
	if err != nil {
		l.b.log.Warn("process lease not renewed", "err", err)
		return
	}
	l.mu.Lock()
	l.revision = next
	l.mu.Unlock()
	if l.lapsed {
		l.lapsed = !l.reclaim(ctx)
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
	for _, name := range names {
		_, err := l.claim(ctx, name)
		switch {
		case err == nil:
		case errors.Is(err, ErrOwned):
			l.b.log.Error("command taken over by another service; no longer handled here", "name", name, "err", err)
			l.mu.Lock()
			delete(l.names, name)
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
	for _, name := range names {
		l.disown(ctx, name)
	}
	if revision != 0 {
		if err := l.b.tr.Store().Delete(ctx, leasePrefix+l.id, 0); err != nil {
			l.b.log.Warn("process lease not given up; it ends by itself", "err", err)
		}
	}
}
