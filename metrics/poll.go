package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// What is polled.
const (
	pollDeadLetters = "dead_letters"
	pollSessions    = "sessions"
	pollGroups      = "groups"
)

// pollsShown is how many intervals old the answer of a poll may be to be shown.
const pollsShown = 4

// pollCost is how many times as long as a poll took the next one waits at least.
const pollCost = 20

// poll asks for what processes share until ctx ends or the bus is closed.
func (m *Metrics) poll(ctx context.Context) {
	for {
		began := time.Now()
		for _, p := range []struct {
			what string
			ask  func(context.Context) error
		}{
			{pollDeadLetters, m.pollDeadLetters},
			{pollSessions, m.pollSessions},
			{pollGroups, m.pollGroups},
		} {
			err := p.ask(ctx)
			if ctx.Err() != nil || bus.CodeOf(err) == bus.CodeClosed {
				return
			}
			if m.polled.note(p.what, err) {
				m.cfg.Logger.Warn("metrics of what processes share are not to be had for now", "what", p.what, "err", err)
			}
		}
		wait := time.NewTimer(max(m.cfg.PollInterval, pollCost*time.Since(began)))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}

func (m *Metrics) pollDeadLetters(ctx context.Context) error {
	st, err := m.b.DeadLetters().Stats(ctx)
	if err != nil {
		return err
	}
	m.polled.set(func(p *answers) { p.dead, p.deadAt = st, time.Now() })
	return nil
}

func (m *Metrics) pollSessions(ctx context.Context) error {
	all, err := m.b.Sessions(ctx)
	if err != nil {
		return err
	}
	ids := map[string]struct{}{} // a session may be open in several processes
	for _, s := range all {
		ids[s.ID] = struct{}{}
	}
	m.polled.set(func(p *answers) { p.sessions, p.sessionsAt = len(ids), time.Now() })
	return nil
}

// pollGroups asks a transport that can tell how far the groups are.
func (m *Metrics) pollGroups(ctx context.Context) error {
	all, err := m.b.Groups(ctx)
	if bus.CodeOf(err) == bus.CodeInvalid {
		return nil
	}
	if err != nil {
		return err
	}
	m.polled.set(func(p *answers) { p.groups, p.groupsAt = all, time.Now() })
	return nil
}

// polled is the last answers.
type polled struct {
	mu sync.Mutex
	answers
}

type answers struct {
	dead       bus.DeadLetterStats
	deadAt     time.Time
	sessions   int
	sessionsAt time.Time
	groups     []bus.GroupInfo
	groupsAt   time.Time
	failed     map[string]uint64
	failing    map[string]bool
}

func (p *polled) set(f func(*answers)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.answers)
}

// note counts a poll, and reports whether it is the first of several to fail.
func (p *polled) note(what string, err error) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed, p.failing = map[string]uint64{}, map[string]bool{}
	}
	first = err != nil && !p.failing[what]
	p.failing[what] = err != nil
	if err != nil {
		p.failed[what]++
	} else {
		p.failed[what] += 0 // so that it is there
	}
	return first
}

// collect adds the answers that are not too old.
func (p *polled) collect(s samples, m *Metrics, now time.Time) {
	d, staleAfter := m.descs, pollsShown*m.cfg.PollInterval
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := func(at time.Time) bool { return !at.IsZero() && now.Sub(at) <= staleAfter }
	if fresh(p.deadAt) {
		s.gauge(d.deadSize, float64(p.dead.Count))
		age := time.Duration(0)
		if !p.dead.Oldest.IsZero() {
			age = max(now.Sub(p.dead.Oldest), 0)
		}
		s.gauge(d.deadOldest, age.Seconds())
	}
	if fresh(p.sessionsAt) {
		s.gauge(d.sessions, float64(p.sessions))
	}
	if fresh(p.groupsAt) {
		for _, g := range p.groups {
			l := m.groups.of(groupKey{g.Name, g.Group})
			s.gauge(d.pending, float64(g.Pending), l.name, l.group)
			s.gauge(d.unsettled, float64(g.Unsettled), l.name, l.group)
			s.gauge(d.again, float64(g.Redelivered), l.name, l.group)
		}
	}
	for what, n := range p.failed {
		s.count(d.pollsLost, n, what)
	}
}
