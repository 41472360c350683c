package memory

import (
	"context"
	"fmt"

	"github.com/jitney-bus/jitney/transport"
)

// makeRoom makes room for one more record, and returns the one that it dropped for
// that. s.mu is held.
func (s *deadLetters) makeRoom() (dropped *deadLetter, err error) {
	limit := s.t.cfg.MaxDeadLetters
	switch {
	case len(s.all) < limit:
		return nil, nil
	case !s.t.cfg.DropDeadLetters:
		return nil, fmt.Errorf("dead letters: %w", &transport.BacklogError{Limit: limit})
	}
	dropped = s.all[0]
	s.dropped++
	s.remove(dropped)
	return dropped, nil
}

// setAgeing sets the alarm for the oldest record. s.mu is held.
func (s *deadLetters) setAgeing() {
	if limit := s.t.cfg.MaxDeadLetterAge; limit > 0 && len(s.all) > 0 && !s.closed {
		s.ageing.setFor(after(s.all[0].at, limit), s.t.now())
	}
}

// expire drops the records that have become too old.
func (s *deadLetters) expire() {
	s.mu.Lock()
	s.ageing.set = false
	n := 0
	var last *deadLetter
	for now := s.t.now(); len(s.all) > 0 && after(s.all[0].at, s.t.cfg.MaxDeadLetterAge) <= now; n++ {
		last = s.all[0]
		s.remove(last)
	}
	s.expired += uint64(n)
	s.setAgeing()
	s.mu.Unlock()
	if n > 0 {
		s.t.cfg.Logger.ErrorContext(context.Background(), "dead letters too old, dropped", "count", n, "limit", s.t.cfg.MaxDeadLetterAge,
			"last", last.ID, "name", last.Message.To.Name, "group", last.Group)
	}
}

func (s *deadLetters) stats() transport.DeadLetterStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := transport.DeadLetterStats{
		Count: len(s.all), Last: s.seq,
		Max: s.t.cfg.MaxDeadLetters, MaxAge: max(s.t.cfg.MaxDeadLetterAge, 0), DropOldest: s.t.cfg.DropDeadLetters,
		Dropped: s.dropped, Expired: s.expired,
	}
	if len(s.all) > 0 {
		st.Oldest = s.t.at(s.all[0].at)
	}
	return st
}
