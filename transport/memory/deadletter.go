package memory

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// deadLetters is a bounded list of dead letters, oldest first.
type deadLetters struct {
	t      *Transport
	mu     sync.Mutex
	byID   map[string]*deadLetter
	all    []*deadLetter
	seq    uint64
	closed bool

	ageing           alarm // at the end of the oldest
	dropped, expired uint64
}

// deadLetter is a record, which does not change, with when it was stored.
type deadLetter struct {
	*transport.DeadLetter
	at time.Duration
}

func (s *deadLetters) copy(d *transport.DeadLetter) *transport.DeadLetter {
	c := *d
	c.Message = s.t.carried(d.Message)
	return &c
}

// lock begins a call; without an error the caller unlocks.
func (s *deadLetters) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return transport.ErrClosed
	}
	return nil
}

func (s *deadLetters) Add(ctx context.Context, d *transport.DeadLetter) error {
	if d == nil || d.ID == "" || d.Message == nil {
		return fmt.Errorf("dead letter without id or message: %w", transport.ErrInvalid)
	}
	c := s.copy(d)
	if err := s.lock(ctx); err != nil {
		return err
	}
	if s.byID[c.ID] != nil {
		s.mu.Unlock()
		return nil
	}
	dropped, err := s.makeRoom()
	if err == nil {
		s.seq++
		c.Sequence = s.seq
		stored := &deadLetter{c, s.t.now()}
		s.byID[c.ID] = stored
		s.all = append(s.all, stored)
		s.setAgeing()
	}
	s.mu.Unlock()
	if dropped != nil {
		s.t.cfg.Logger.ErrorContext(ctx, "dead letters full, dropped the oldest", "id", dropped.ID,
			"name", dropped.Message.To.Name, "group", dropped.Group, "limit", s.t.cfg.MaxDeadLetters)
	}
	return err
}

// find is the place of the first record whose Sequence is seq or more.
func (s *deadLetters) find(seq uint64) int {
	return sort.Search(len(s.all), func(i int) bool { return s.all[i].Sequence >= seq })
}

func (s *deadLetters) remove(d *deadLetter) {
	delete(s.byID, d.ID)
	i := s.find(d.Sequence)
	s.all = slices.Delete(s.all, i, i+1)
}

func (s *deadLetters) List(ctx context.Context, q transport.DeadLetterQuery) ([]*transport.DeadLetter, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	var found []*deadLetter
	if q.Newest {
		end := len(s.all)
		if q.After > 0 {
			end = s.find(q.After)
		}
		found = slices.Clone(s.all[max(0, end-q.Limit):end])
		slices.Reverse(found)
	} else {
		from := s.find(q.After + 1)
		found = slices.Clone(s.all[from:min(len(s.all), from+q.Limit)])
	}
	s.mu.Unlock()
	page := make([]*transport.DeadLetter, len(found))
	for i, d := range found {
		page[i] = s.copy(d.DeadLetter)
	}
	return page, nil
}

func (s *deadLetters) Get(ctx context.Context, id string) (*transport.DeadLetter, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	d := s.byID[id]
	s.mu.Unlock()
	if d == nil {
		return nil, fmt.Errorf("dead letter %q: %w", id, transport.ErrNotFound)
	}
	return s.copy(d.DeadLetter), nil
}

func (s *deadLetters) Remove(ctx context.Context, id string) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if d := s.byID[id]; d != nil {
		s.remove(d)
	}
	return nil
}

func (s *deadLetters) Stats(ctx context.Context) (transport.DeadLetterStats, error) {
	if err := s.lock(ctx); err != nil {
		return transport.DeadLetterStats{}, err
	}
	s.mu.Unlock()
	return s.stats(), nil
}

func (s *deadLetters) close() {
	s.mu.Lock()
	s.closed = true
	s.ageing.stop()
	s.mu.Unlock()
}
