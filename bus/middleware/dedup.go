package middleware

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// dedup is what one Deduplicate knows.
type dedup struct {
	options dedupOptions
	window  time.Duration

	mu      sync.Mutex
	running map[string]chan struct{} // closed when the run has ended
	handled *ordered[time.Time]      // the first to be forgotten is the oldest
}

func newDedup(window time.Duration, o dedupOptions) *dedup {
	return &dedup{options: o, window: window, running: map[string]chan struct{}{}, handled: newOrdered[time.Time]()}
}

// once runs next unless it has succeeded for m within the window.
func (d *dedup) once(ctx context.Context, m *bus.Message, next bus.Func) (v any, err error) {
	key := keyOf(ctx, m)
	if handled, err := d.claim(ctx, m, key); handled || err != nil {
		return nil, err
	}
	succeeded := false
	defer func() { d.release(key, succeeded) }() // also when the chain panics
	if handled, err := d.recall(ctx, m, key); handled || err != nil {
		return nil, err
	}
	if v, err = next(ctx, m); err != nil {
		return v, err
	}
	succeeded = true
	if d.options.shared {
		d.enter(ctx, m, key)
	}
	return v, nil
}

// claim waits until no other copy is handled, and reports whether one has been.
// If not, the run is the caller's, who releases it.
func (d *dedup) claim(ctx context.Context, m *bus.Message, key string) (handled bool, err error) {
	for {
		d.mu.Lock()
		at, ok := d.handled.get(key)
		if ok && time.Since(at) < d.window {
			d.mu.Unlock()
			return true, nil
		}
		run, taken := d.running[key]
		if !taken {
			d.running[key] = make(chan struct{})
		}
		d.mu.Unlock()
		if !taken {
			return false, nil
		}
		select {
		case <-run:
		case <-ctx.Done():
			return false, gaveUp(ctx, m, "another copy of the event")
		}
	}
}

// release ends a run, and remembers that it succeeded.
func (d *dedup) release(key string, succeeded bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.running[key])
	delete(d.running, key)
	if !succeeded {
		return
	}
	now := time.Now()
	d.handled.put(key, now)
	for {
		at, ok := d.handled.oldest()
		if !ok || now.Sub(at) < d.window && d.handled.len() <= d.options.size {
			return
		}
		d.handled.dropOldest()
	}
}

const (
	// storePrefix is where a shared store has the events that were handled.
	storePrefix = "handled."
	// storeTimeout bounds each access to it.
	storeTimeout = 5 * time.Second
)

// recall reports whether another process has handled the event. What it finds is not
// remembered in this one, where it would last longer than in the store.
func (d *dedup) recall(ctx context.Context, m *bus.Message, key string) (bool, error) {
	if !d.options.shared {
		return false, nil
	}
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	_, err := d.options.store.Get(bounded, storePrefix+key)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, transport.ErrNotFound):
		return false, nil
	default:
		return false, failure(m, bus.CodeUnavailable, err, fmt.Sprintf("cannot tell whether %s has handled it; nothing ran: %v", subject(m), err))
	}
}

// enter tells other processes that the event is handled. It is handled whether or
// not they hear of it, also when its context has ended.
func (d *dedup) enter(ctx context.Context, m *bus.Message, key string) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	_, err := d.options.store.Create(bounded, storePrefix+key, []byte(m.ID), d.window)
	if err != nil && !errors.Is(err, transport.ErrExists) {
		d.options.log.WarnContext(ctx, "handled event not remembered in the store; another process may handle it again",
			"name", m.Name, "id", m.ID, "session", m.Session, "group", m.Group, "handler", m.Handler, "err", err)
	}
}

// keyOf tells m for one handler from everything else.
func keyOf(ctx context.Context, m *bus.Message) string {
	if id := bus.DerivedID(ctx, "deduplicate"); id != "" {
		return id
	}
	// A middleware further out has replaced the context.
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{m.Group, m.Handler, m.Name, m.Session, m.ID}))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
