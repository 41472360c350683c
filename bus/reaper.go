package bus

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// reaper ends the sessions of processes that died. Every bus that holds a lease,
// or listens for the ends of sessions, has one: the first that notices publishes
// SessionEnded, the ids see to it that it is stored once, and whoever starts next
// makes up for what nobody noticed.
type reaper struct {
	b    *Bus
	life context.Context
	stop context.CancelFunc
	once sync.Once
	wg   sync.WaitGroup
	wake chan struct{} // holds a token while a lease may have died

	mu       sync.Mutex
	live     map[string]struct{}           // leases
	openings map[string]map[string]opening // by lease and opening
	known    bool                          // the store has told all that it has
}

const (
	// reapJitter spreads the survivors, so that most find the work done.
	reapJitter = time.Second
	// reapRetry is how long the reaper waits when the store does not answer.
	reapRetry = 3 * time.Second
	// reapAtOnce bounds the sessions that are ended by one publish.
	reapAtOnce = 64
)

func newReaper(b *Bus) *reaper {
	r := &reaper{b: b, wake: make(chan struct{}, 1)}
	r.life, r.stop = context.WithCancel(context.Background())
	return r
}

// start begins to watch, once. Inside one process nobody dies alone.
func (r *reaper) start() {
	if r.b.inProcess {
		return
	}
	r.once.Do(func() {
		r.wg.Go(r.watch)
		r.wg.Go(r.reap)
	})
}

func (r *reaper) close(context.Context) {
	r.once.Do(func() {}) // none starts after this
	r.stop()
	r.wg.Wait()
}

// watch keeps live and openings up to date until close.
func (r *reaper) watch() {
	for r.life.Err() == nil {
		err := r.follow()
		if r.life.Err() != nil || errors.Is(err, transport.ErrClosed) {
			return
		}
		r.b.log.Warn("sessions of processes that die are not noticed for now", "err", err)
		sleep(r.life, reapRetry)
	}
}

func (r *reaper) follow() error {
	src, err := r.b.tr.Store().Watch(r.life, strings.TrimSuffix(leasePrefix, "."))
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		_ = src.Close(ctx) // a watch that does not end has nothing to lose
	}()
	r.mu.Lock()
	r.live, r.openings, r.known = map[string]struct{}{}, map[string]map[string]opening{}, false
	r.mu.Unlock()
	for {
		e, err := src.Next(r.life)
		if err != nil {
			return err
		}
		if r.note(e) {
			select {
			case r.wake <- struct{}{}:
			default:
			}
		}
	}
}

// note takes an entry of the store in, and reports whether somebody may be dead.
func (r *reaper) note(e transport.Entry) bool {
	lease, id := splitOpeningKey(e.Key)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case e.Key == "":
		r.known = true
	case id == "" && e.Deleted:
		delete(r.live, lease)
	case id == "":
		r.live[lease] = struct{}{}
	case e.Deleted:
		r.forget(lease, id)
	default:
		if o, ok := parseOpening(e.Value); ok {
			if r.openings[lease] == nil {
				r.openings[lease] = map[string]opening{}
			}
			r.openings[lease][id] = o
		}
	}
	return r.known && len(r.dead()) > 0
}

// forget drops an opening. r.mu is held.
func (r *reaper) forget(lease, id string) {
	delete(r.openings[lease], id)
	if len(r.openings[lease]) == 0 {
		delete(r.openings, lease)
	}
}

// dead returns the leases that have openings and are not live, except this bus's
// own: it ends its sessions itself. r.mu is held.
func (r *reaper) dead() []string {
	var dead []string
	for lease := range r.openings {
		if _, ok := r.live[lease]; !ok && lease != r.b.lease.id {
			dead = append(dead, lease)
		}
	}
	return dead
}

// reap ends the sessions of dead processes as watch finds them, until close.
func (r *reaper) reap() {
	for {
		select {
		case <-r.wake:
		case <-r.life.Done():
			return
		}
		if !sleep(r.life, rand.N(reapJitter)) {
			return
		}
		r.mu.Lock()
		dead := r.dead()
		r.mu.Unlock()
		for _, lease := range dead {
			if err := r.bury(lease); err != nil && r.life.Err() == nil {
				r.b.log.Warn("sessions of a dead process not ended yet", "process", lease, "err", err)
				sleep(r.life, reapRetry)
				select {
				case r.wake <- struct{}{}:
				default:
				}
			}
		}
	}
}

// bury ends the sessions of one process, if its lease is really gone. Each round
// asks again: a process that was only away makes its lease anew, and opens
// sessions. The commands come first, while there is an opening to try again by.
func (r *reaper) bury(lease string) error {
	ctx, cancel := context.WithTimeout(r.life, r.b.cfg.PublishTimeout)
	defer cancel()
	for first := true; ; first = false {
		some := r.some(lease)
		if len(some) == 0 {
			return nil
		}
		_, err := r.b.tr.Store().Get(ctx, leasePrefix+lease)
		if err == nil {
			return nil // watch is about to hear of it
		}
		if !errors.Is(err, transport.ErrNotFound) {
			return err
		}
		if first {
			if err := r.releaseCommands(ctx, lease); err != nil {
				return err
			}
		}
		if err := r.tell(ctx, some); err != nil {
			return err
		}
		for id := range some {
			if err := r.b.tr.Store().Delete(ctx, openingKey(lease, id), 0); err != nil {
				return err
			}
			r.mu.Lock()
			r.forget(lease, id)
			r.mu.Unlock()
		}
	}
}

// some returns openings of a process, at most reapAtOnce.
func (r *reaper) some(lease string) map[string]opening {
	r.mu.Lock()
	defer r.mu.Unlock()
	some := maps.Clone(r.openings[lease])
	for id := range some {
		if len(some) <= reapAtOnce {
			break
		}
		delete(some, id)
	}
	return some
}

// tell publishes the ends of some openings.
func (r *reaper) tell(ctx context.Context, some map[string]opening) error {
	var as []announcement
	for id, o := range some {
		a, err := r.b.announcement(o.Session, endedID(id), SessionEnded{
			ID: o.Session, Opening: id, Service: o.Service, Host: o.Host, Reason: EndExpired,
			Err: ErrSessionExpired.Error(), Started: o.Opened, Time: time.Now(),
		})
		if err != nil {
			return err
		}
		as = append(as, a)
		r.b.log.Info("session of a dead process ended", "session", o.Session, "service", o.Service, "host", o.Host)
	}
	return r.b.publishAll(ctx, as...)
}

// releaseCommands takes a dead process out of the records of its sessions'
// commands, so that nothing is left of it.
func (r *reaper) releaseCommands(ctx context.Context, lease string) error {
	entries, err := snapshot(ctx, r.b.tr.Store(), strings.TrimSuffix(sessionOwnerPrefix, "."))
	if err != nil {
		return err
	}
	for _, e := range entries {
		var rec ownerRecord
		if json.Unmarshal(e.Value, &rec) == nil && slices.Contains(rec.Leases, lease) {
			if err := release(ctx, r.b.tr.Store(), e.Key, lease); err != nil {
				return err
			}
		}
	}
	return nil
}
