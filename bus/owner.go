package bus

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// ownerKey is where the record of a command's owner is kept.
func ownerKey(at transport.Address) string {
	if at.Session == "" {
		return ownerPrefix + at.Name
	}
	return sessionOwnerPrefix + base64.RawURLEncoding.EncodeToString([]byte(at.Session)) + "." + at.Name
}

// ownerRecord is the value of an owner key.
type ownerRecord struct {
	Service string   `json:"service"`
	Leases  []string `json:"leases"`
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
