package memory

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/jitney-bus/jitney/transport"
)

// deadLetters is a bounded list of dead letters, oldest first.
type deadLetters struct {
	t       *Transport
	mu      sync.Mutex
	byID    map[string]*transport.DeadLetter
	all     []*transport.DeadLetter
	seq     uint64
	dropped uint64
	closed  bool
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
	var dropped *transport.DeadLetter
	if len(s.all) >= s.t.cfg.MaxDeadLetters {
		if !s.t.cfg.DropDeadLetters {
			s.mu.Unlock()
			return fmt.Errorf("dead letters: %w", &transport.BacklogError{Limit: s.t.cfg.MaxDeadLetters})
		}
		dropped = s.all[0]
		s.dropped++
		s.remove(dropped)
	}
	s.seq++
	c.Sequence = s.seq
	s.byID[c.ID] = c
	s.all = append(s.all, c)
	s.mu.Unlock()
	if dropped != nil {
		s.t.cfg.Logger.ErrorContext(ctx, "dead letters full, dropped the oldest", "id", dropped.ID,
			"name", dropped.Message.To.Name, "group", dropped.Group, "limit", s.t.cfg.MaxDeadLetters)
	}
	return nil
}

// find is the place of the first record whose Sequence is seq or more.
func (s *deadLetters) find(seq uint64) int {
	return sort.Search(len(s.all), func(i int) bool { return s.all[i].Sequence >= seq })
}

func (s *deadLetters) remove(d *transport.DeadLetter) {
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
	var page []*transport.DeadLetter
	if q.Newest {
		end := len(s.all)
		if q.After > 0 {
			end = s.find(q.After)
		}
		page = slices.Clone(s.all[max(0, end-q.Limit):end])
		slices.Reverse(page)
	} else {
		from := s.find(q.After + 1)
		page = slices.Clone(s.all[from:min(len(s.all), from+q.Limit)])
	}
	s.mu.Unlock()
	for i, d := range page { // records do not change
		page[i] = s.copy(d)
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
	return s.copy(d), nil
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

func (s *deadLetters) Count(ctx context.Context) (int, error) {
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	return len(s.all), nil
}

func (s *deadLetters) stats() (n int, dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all), s.dropped
}

func (s *deadLetters) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}
