package bus

import (
	"context"
	"errors"
	"sync"
)

// sessions is what is open on a bus.
type sessions struct {
	b  *Bus
	mu sync.RWMutex
	// open holds those that have not ended, also while they open and close.
	open    map[string]*Session
	closing bool
	left    []*Session // ended, and not out of the store yet
}

func newSessions(b *Bus) *sessions {
	return &sessions{b: b, open: map[string]*Session{}}
}

func (ss *sessions) add(s *Session) error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.closing || ss.b.closed.Load() {
		return errorf(CodeClosed, "session", "", "%w", ErrClosed)
	}
	if ss.open[s.id] != nil {
		return errorf(CodeConflict, "session", "", "%w in this process: %q; share the *Session, or wait until it is closed", ErrSessionOpen, s.id)
	}
	ss.open[s.id] = s
	return nil
}

func (ss *sessions) remove(s *Session) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.open[s.id] == s {
		delete(ss.open, s.id)
	}
}

// reopened reports whether another opening has taken the place of s.
func (ss *sessions) reopened(s *Session) bool {
	ss.mu.RLock()
	defer ss.mu.RUnlock()
	o := ss.open[s.id]
	return o != nil && o != s
}

// bury buries s, and if that fails leaves it to buryLeft.
func (ss *sessions) bury(ctx context.Context, s *Session) {
	err := s.bury(ctx)
	if err == nil {
		return
	}
	ss.b.log.Warn("end of a session not published or its records not deleted yet; that is done when the lease is renewed or has ended",
		"session", s.id, "err", err)
	s.left = true
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.left = append(ss.left, s)
}

// buryLeft makes up for what failed when sessions ended, as far as it gets.
func (ss *sessions) buryLeft(ctx context.Context) {
	ss.mu.Lock()
	left := ss.left
	ss.left = nil
	ss.mu.Unlock()
	for len(left) > 0 && left[0].bury(ctx) == nil {
		left = left[1:]
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.left = append(left, ss.left...)
}

// scope returns the scope of a session that is open here, or nil.
func (ss *sessions) scope(id string) *scope {
	ss.mu.RLock()
	defer ss.mu.RUnlock()
	if s := ss.open[id]; s != nil {
		return s.own
	}
	return nil
}

func (ss *sessions) all() []*Session {
	ss.mu.RLock()
	defer ss.mu.RUnlock()
	all := make([]*Session, 0, len(ss.open))
	for _, s := range ss.open {
		all = append(all, s)
	}
	return all
}

// endAtOnce bounds the sessions that end at the same time.
const endAtOnce = 64

// close ends every session, because the bus closes.
func (ss *sessions) close(ctx context.Context) error {
	ss.mu.Lock()
	ss.closing = true
	ss.mu.Unlock()
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, endAtOnce)
	var wg sync.WaitGroup
	for _, s := range ss.all() {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := s.end(valueless{ctx}, EndStopped, nil)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// valueless is a context that belongs to no handler: a bus that is closed by a
// handler waits for that handler's session as for every other.
type valueless struct{ context.Context }

// Value implements context.Context.
func (valueless) Value(any) any { return nil }

// expire ends every session whose lease is gone. Their handlers are cancelled
// before this returns; the rest goes on by itself.
func (ss *sessions) expire() {
	for _, s := range ss.all() {
		if s.closed.Swap(true) {
			s.own.stop(ErrSessionExpired) // it was ending; it is now
			continue
		}
		s.reason, s.err = EndExpired, ErrSessionExpired
		s.own.stop(ErrSessionExpired)
		go func() { // whoever waits for the session waits for done
			ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
			defer cancel()
			s.finish(ctx, errorf(CodeClosed, "close", "", "session %q: %w", s.id, ErrSessionExpired))
		}()
	}
}
