package command_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// TestIdempotencyModel lets executors crash, hang past their claim, lose the store,
// fail and succeed, while callers repeat themselves, and looks at what happened. The
// steps are drawn before the bubble begins, since rapid keeps time of its own.
func TestIdempotencyModel(t *testing.T) {
	steps := rapid.SliceOfN(rapid.Custom(drawIdemStep), 1, 40)
	plans := rapid.SliceOfN(rapid.Custom(drawIdemPlan), 1, 20)
	rapid.Check(t, func(r *rapid.T) {
		drawn, planned := steps.Draw(r, "steps"), plans.Draw(r, "plans")
		for _, cfg := range []memory.Config{{}, {Codec: codec.JSON}} {
			var failure any
			synctest.Test(t, func(t *testing.T) {
				defer func() { failure = recover() }()
				tr := memory.New(cfg)
				defer tr.Close(context.Background())
				w := world.New(t, func(context.Context) (transport.Transport, error) { return world.Shared{Transport: tr}, nil })
				w.InProcess = cfg.Codec == nil
				newIdemModel(w, planned).run(drawn)
			})
			if failure != nil {
				r.Fatal(failure)
			}
		}
	})
	world.Everywhere(t, func(w *world.World) { // some on every transport
		for seed := range 5 {
			newIdemModel(w, plans.Example(seed)).run(steps.Example(seed))
		}
	})
}

// idemStep is what happens next, and how long nothing does after it.
type idemStep struct {
	name    string
	process int
	key     int
	cents   int // 0 for most, so that conflicts are rare
	timeout time.Duration
	wait    time.Duration
}

func drawIdemStep(r *rapid.T) idemStep {
	return idemStep{
		name:    rapid.SampledFrom([]string{"execute", "execute", "execute", "execute", "kill", "cut", "heal"}).Draw(r, "name"),
		process: rapid.IntRange(0, 1).Draw(r, "process"),
		key:     rapid.IntRange(0, 1).Draw(r, "key"),
		cents:   rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(r, "cents"),
		timeout: time.Duration(rapid.SampledFrom([]int{1, 8, 30, 60}).Draw(r, "timeout")) * time.Second,
		wait:    time.Duration(rapid.SampledFrom([]int{0, 1, 900, 4_000, 13_500, 20_000}).Draw(r, "wait")) * time.Millisecond,
	}
}

// idemPlan is what one run of the handler does.
type idemPlan struct {
	name string
	d    time.Duration
}

func drawIdemPlan(r *rapid.T) idemPlan {
	return idemPlan{
		name: rapid.SampledFrom([]string{"succeed", "succeed", "fail", "panic", "obey", "ignore", "kill", "cut", "pause"}).Draw(r, "name"),
		d:    time.Duration(rapid.SampledFrom([]int{0, 1, 2_000, 6_000, 15_000, 40_000}).Draw(r, "d")) * time.Millisecond,
	}
}

type idemModel struct {
	w         *world.World
	executors [2]*world.Faulty
	calls     sync.WaitGroup
	began     time.Time
	session   string // keeps runs of the model apart

	mu    sync.Mutex
	plans []idemPlan
	runs  []*idemRun
	told  []idemTold
	cuts  map[*world.Faulty]bool
}

// idemRun is a run of the handler.
type idemRun struct {
	ctx     context.Context
	key     string
	no      int
	cents   int
	process *world.Faulty
	from    time.Time
	// held is until when the run may be sure that no other begins: its end, the end
	// of its context for a lost claim, or of its process. Whoever ignores that its
	// context has ended cannot be told that the claim has too.
	held time.Time
}

// idemTold is a success that a caller was told.
type idemTold struct {
	key       string
	cents     int
	result    string
	asked, at time.Time
}

var idemModels int

func newIdemModel(w *world.World, plans []idemPlan) *idemModel {
	idemModels++
	m := &idemModel{w: w, cuts: map[*world.Faulty]bool{}, plans: append([]idemPlan(nil), plans...), began: time.Now(), session: fmt.Sprint("model-", idemModels)}
	for i := range m.executors {
		m.start(i)
	}
	return m
}

// bill is the command of the model; its result says what it is the result of.
type bill struct {
	bus.Command[string]
	Key   string
	Cents int
}

func (bill) MessageName() string { return "bill" }

// start starts a process in place i.
func (m *idemModel) start(i int) {
	b, tr := m.w.Process("svc")
	m.executors[i] = tr
	require.NoError(m.w, bus.Handle(m.w.Context(), b, func(ctx context.Context, c bill) (string, error) {
		return m.handle(ctx, tr, c)
	}))
}

func (m *idemModel) handle(ctx context.Context, tr *world.Faulty, c bill) (string, error) {
	meta, _ := bus.MetaFrom(ctx)
	m.mu.Lock()
	r := &idemRun{ctx: ctx, key: meta.IdempotencyKey, no: len(m.runs) + 1, cents: c.Cents, process: tr, from: time.Now()}
	plan := idemPlan{name: "succeed"}
	if len(m.plans) > 0 {
		plan, m.plans = m.plans[0], m.plans[1:]
	}
	m.runs = append(m.runs, r)
	m.mu.Unlock()
	hold := func() { // it is over, for one reason or another
		m.mu.Lock()
		defer m.mu.Unlock()
		if r.held.IsZero() {
			r.held = time.Now()
		}
	}
	defer hold()
	defer context.AfterFunc(ctx, func() {
		m.mu.Lock()
		cut := m.cuts[tr]
		m.mu.Unlock()
		if cut || errors.Is(context.Cause(ctx), bus.ErrLeaseLost) {
			hold()
		}
	})()
	switch plan.name {
	case "fail":
		world.Settle(plan.d)
		return "", world.ErrOops
	case "panic":
		world.Settle(plan.d)
		panic("oops")
	case "obey":
		if !sleepIn(ctx, plan.d) {
			return "", ctx.Err()
		}
	case "kill":
		world.Settle(plan.d)
		m.kill(tr)
	case "cut":
		m.cut(tr)
		world.Settle(plan.d)
	case "pause":
		m.cut(tr)
		world.Settle(plan.d)
		m.heal(tr)
	default:
		world.Settle(plan.d)
	}
	return fmt.Sprintf("%s %d run %d", r.key, c.Cents, r.no), nil
}

func sleepIn(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// kill ends a process.
func (m *idemModel) kill(tr *world.Faulty) {
	tr.Kill()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.runs {
		if r.process == tr && r.held.IsZero() {
			r.held = time.Now()
		}
	}
}

// cut keeps a process from writing records.
func (m *idemModel) cut(tr *world.Faulty) {
	m.mu.Lock()
	m.cuts[tr] = true
	for _, r := range m.runs {
		if r.process == tr && r.held.IsZero() && r.ctx.Err() != nil {
			r.held = time.Now()
		}
	}
	m.mu.Unlock()
	tr.Set(func(_ context.Context, op, what string) error {
		if (op == "update" || op == "create") && strings.HasPrefix(what, "idem.") {
			return transport.ErrUnavailable
		}
		return nil
	})
}

func (m *idemModel) heal(tr *world.Faulty) {
	m.mu.Lock()
	delete(m.cuts, tr)
	m.mu.Unlock()
	tr.Set(nil)
}

func (m *idemModel) key(n int) string { return fmt.Sprint("k", n) }

func (m *idemModel) execute(caller *bus.Bus, s idemStep) (string, error) {
	asked := time.Now()
	key := m.key(s.key)
	ctx := bus.ContextWithSession(m.w.Context(), m.session)
	result, err := bus.Execute(ctx, caller, bill{Key: key, Cents: s.cents}, bus.WithIdempotencyKey(key), bus.WithTimeout(s.timeout))
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.told = append(m.told, idemTold{key, s.cents, result, asked, time.Now()})
	}
	return result, err
}

func (m *idemModel) run(steps []idemStep) {
	caller := m.w.Bus(bus.Config{Service: "caller"})
	for _, s := range steps {
		switch s.name {
		case "execute":
			m.calls.Go(func() { _, _ = m.execute(caller, s) })
		case "kill":
			m.kill(m.executors[s.process])
			m.start(s.process)
		case "cut":
			m.cut(m.executors[s.process])
		case "heal":
			m.heal(m.executors[s.process])
		}
		world.Settle(s.wait)
	}
	m.calls.Wait()
	world.Settle(time.Minute)
	// Faults have ended: each key comes to a success, or has come to one.
	m.mu.Lock()
	m.plans = nil
	m.mu.Unlock()
	for i := range m.executors {
		m.kill(m.executors[i])
		m.start(i)
	}
	for key := range 2 {
		s := idemStep{key: key, timeout: time.Minute}
		if _, err := m.execute(caller, s); err != nil {
			require.ErrorIs(m.w, err, bus.ErrIdempotencyConflict)
			s.cents = 1
			_, err = m.execute(caller, s)
			require.NoError(m.w, err)
		}
	}
	m.check()
}

// check looks at what happened.
func (m *idemModel) check() {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := map[string]idemTold{}
	for _, t := range m.told {
		require.True(m.w, strings.HasPrefix(t.result, fmt.Sprintf("%s %d ", t.key, t.cents)), "%q is no result of %s %d", t.result, t.key, t.cents)
		was, ok := first[t.key]
		if !ok {
			first[t.key] = t
			continue
		}
		require.Equal(m.w, was.result, t.result, "two results for %s", t.key)
	}
	for i, r := range m.runs {
		if t, ok := first[r.key]; ok {
			require.False(m.w, r.from.After(t.at), "run %d of %s begins at %v, after a success was told at %v", r.no, r.key, r.from.Sub(m.began), t.at.Sub(m.began))
		}
		for _, other := range m.runs[:i] {
			if other.key == r.key {
				require.False(m.w, r.from.Before(other.held), "run %d of %s begins at %v, while run %d holds the key until %v",
					r.no, r.key, r.from.Sub(m.began), other.no, other.held.Sub(m.began))
			}
		}
	}
}
