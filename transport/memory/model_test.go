package memory_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// TestModel runs random steps of publishers, readers and time against a model
// of what each group is owed. The steps are drawn before the bubble begins,
// since rapid keeps time of its own.
func TestModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 80).Draw(r, "steps")
		var failure any
		synctest.Test(t, func(*testing.T) {
			m := newModel()
			defer m.tr.Close(context.Background())
			defer func() { failure = recover() }()
			for _, s := range steps {
				s.do(m, s)
				m.check()
			}
			m.drain()
		})
		if failure != nil {
			r.Fatal(failure)
		}
	})
}

// step is one thing that happens; what its numbers mean depends on the model.
type step struct {
	name        string
	do          func(*model, step)
	group, pick int
	how         string
	delay       time.Duration
	addressed   bool
}

func (s step) String() string {
	return fmt.Sprintf("%s(group %d, pick %d, %s, %v, addressed %v)", s.name, s.group, s.pick, s.how, s.delay, s.addressed)
}

func drawStep(r *rapid.T) step {
	steps := map[string]func(*model, step){"publish": (*model).publish, "next": (*model).next, "settle": (*model).settle,
		"extend": (*model).extend, "pass": (*model).pass, "reopen": (*model).reopen}
	name := rapid.SampledFrom([]string{"publish", "publish", "next", "next", "settle", "extend", "pass", "reopen"}).Draw(r, "name")
	return step{name: name, do: steps[name],
		group: rapid.IntRange(0, 1).Draw(r, "group"), pick: rapid.IntRange(0, 20).Draw(r, "pick"),
		how:       rapid.SampledFrom([]string{"ack", "term", "nak", "nak later", "release"}).Draw(r, "how"),
		delay:     time.Duration(rapid.IntRange(1, 45_000).Draw(r, "ms")) * time.Millisecond,
		addressed: rapid.IntRange(0, 4).Draw(r, "addressed") == 0}
}

func fail(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

const (
	modelLimit   = 12
	modelAckWait = 30 * time.Second
)

type model struct {
	tr        *memory.Transport
	groups    []*modelGroup
	published int
}

// modelGroup is what one group is owed: the events that are not settled.
type modelGroup struct {
	name   string
	src    transport.Source[transport.Delivery]
	owed   map[string]*modelEvent
	latest int // of those delivered for the first time
	stale  []transport.Delivery
}

type modelEvent struct {
	n     int       // of its next delivery
	out   time.Time // the time when it comes again if it is out; zero if it is not
	d     transport.Delivery
	ready time.Time // not before
}

func newModel() *model {
	m := &model{tr: memory.New(memory.Config{MaxEvents: modelLimit, MaxHistory: 3})}
	for _, name := range []string{"g", "h"} {
		g := &modelGroup{name: name, owed: map[string]*modelEvent{}}
		m.groups = append(m.groups, g)
		m.open(g)
	}
	return m
}

func (m *model) open(g *modelGroup) {
	var err error
	g.src, err = m.tr.Subscribe(context.Background(), transport.Subscription{Name: "a.done", Group: g.name, AckWait: modelAckWait})
	if err != nil {
		fail("%v", err)
	}
}

// reopen closes a group's reader; what it holds stays out.
func (m *model) reopen(s step) {
	g := m.groups[s.group]
	if err := g.src.Close(context.Background()); err != nil {
		fail("%v", err)
	}
	m.open(g)
}

// live is how many events some group is owed.
func (m *model) live() int {
	all := map[string]bool{}
	for _, g := range m.groups {
		for id := range g.owed {
			all[id] = true
		}
	}
	return len(all)
}

func (m *model) publish(s step) {
	id := fmt.Sprint(m.published)
	to := ""
	if s.addressed {
		to = m.groups[s.group].name
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	err := m.tr.Publish(ctx, &transport.Message{To: transport.Address{Name: "a.done", Group: to}, ID: id})
	if m.live() >= modelLimit {
		var full *transport.BacklogError
		if !errors.As(err, &full) || full.Group != m.slowest() && len(m.groups[0].owed) != len(m.groups[1].owed) {
			fail("full: %v, slowest %q", err, m.slowest())
		}
		return
	}
	if err != nil {
		fail("%d of %d: %v", m.live(), modelLimit, err)
	}
	m.published++
	for _, g := range m.groups {
		if to == "" || to == g.name {
			g.owed[id] = &modelEvent{n: 1}
		}
	}
}

func (m *model) slowest() string {
	if len(m.groups[1].owed) > len(m.groups[0].owed) {
		return m.groups[1].name
	}
	return m.groups[0].name
}

// available counts what g could be handed now.
func (g *modelGroup) available(now time.Time) (n int) {
	for _, e := range g.owed {
		if !e.out.After(now) && !e.ready.After(now) {
			n++
		}
	}
	return n
}

func (m *model) next(s step) {
	g := m.groups[s.group]
	g.take()
}

func (g *modelGroup) take() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	available := g.available(time.Now())
	d, err := g.src.Next(ctx)
	if err != nil {
		if available > 0 || !errors.Is(err, context.DeadlineExceeded) {
			fail("group %s: %d available, got %v", g.name, available, err)
		}
		return false
	}
	id, now := d.Message().ID, time.Now()
	e := g.owed[id]
	if e == nil || e.out.After(now) || e.ready.After(now) {
		fail("group %s: %s is not due: %+v", g.name, id, e)
	}
	if e.d != nil { // its lease ran out
		g.stale = append(g.stale, e.d)
		e.n++
	}
	if d.Deliveries() != e.n {
		fail("group %s: %s has delivery %d, want %d", g.name, id, d.Deliveries(), e.n)
	}
	e.d, e.out = d, now.Add(modelAckWait)
	if seq := int(d.Sequence()); e.n == 1 && seq > g.latest {
		for other, o := range g.owed {
			if o.n == 1 && o.d == nil && o.ready.IsZero() && number(other) < number(id) {
				fail("group %s: %s came before %s", g.name, id, other)
			}
		}
		g.latest = seq
	}
	return true
}

func number(id string) (n int) { _, _ = fmt.Sscan(id, &n); return n }

// held is a delivery of g and its event, or nil.
func (g *modelGroup) held(s step) (string, *modelEvent) {
	var ids []string
	for i := range 1000 {
		id := fmt.Sprint(i)
		if e := g.owed[id]; e != nil && e.d != nil {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return "", nil
	}
	id := ids[s.pick%len(ids)]
	return id, g.owed[id]
}

func (m *model) settle(s step) {
	g := m.groups[s.group]
	id, e := g.held(s)
	if e == nil {
		return
	}
	ctx, d, now := context.Background(), e.d, time.Now()
	alive := !now.After(d.Lease())
	var err error
	next := &modelEvent{n: e.n}
	switch s.how {
	case "ack", "term":
		if next = nil; s.how == "ack" {
			err = d.Ack(ctx)
		} else {
			err = d.Term(ctx, "")
		}
	case "nak":
		next.n, next.ready, err = e.n+1, now, d.Nak(ctx, 0)
	case "nak later":
		next.n, next.ready, err = e.n+1, now.Add(s.delay), d.Nak(ctx, s.delay)
	case "release":
		next.ready, err = now, d.Release(ctx)
	}
	if !alive {
		if !errors.Is(err, transport.ErrLeaseLost) {
			fail("%s of %s past its lease: %v", s.how, id, err)
		}
		return
	}
	if err != nil {
		fail("%s of %s: %v", s.how, id, err)
	}
	if err := d.Ack(ctx); !errors.Is(err, transport.ErrSettled) {
		fail("ack after %s: %v", s.how, err)
	}
	if next == nil {
		delete(g.owed, id)
	} else {
		g.owed[id] = next
	}
}

func (m *model) extend(s step) {
	_, e := m.groups[s.group].held(s)
	if e == nil {
		return
	}
	alive := !time.Now().After(e.d.Lease())
	err := e.d.Extend(context.Background())
	if alive && err != nil || !alive && !errors.Is(err, transport.ErrLeaseLost) {
		fail("extend, lease alive: %v: %v", alive, err)
	}
	if alive {
		e.out = time.Now().Add(modelAckWait)
	}
}

func (m *model) pass(s step) {
	time.Sleep(s.delay)
	synctest.Wait()
}

// check is what holds after each step.
func (m *model) check() {
	if s := m.tr.Stats(); s.Events != m.live() || s.Events+s.History > modelLimit || s.History > 3 {
		fail("%+v, want %d live", s, m.live())
	}
	for _, g := range m.groups {
		for _, d := range g.stale {
			if err := d.Ack(context.Background()); !errors.Is(err, transport.ErrLeaseLost) {
				fail("a delivery that is another's by now: %v", err)
			}
		}
	}
}

// drain ends with everything delivered and settled.
func (m *model) drain() {
	time.Sleep(time.Hour)
	synctest.Wait()
	for _, g := range m.groups {
		for len(g.owed) > 0 {
			if !g.take() {
				fail("group %s is still owed %d", g.name, len(g.owed))
			}
			for id, e := range g.owed {
				if e.d != nil && e.d.Ack(context.Background()) == nil {
					delete(g.owed, id)
				}
			}
		}
		if g.take() {
			fail("group %s got more than it is owed", g.name)
		}
	}
	m.check()
}
