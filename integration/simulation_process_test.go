package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// simHappened is the event of a simulation, simDo its command.
type simHappened struct {
	ID, Session string
}

func (simHappened) MessageName() string { return "sim.happened" }

type simDo struct {
	bus.Command[string]
	ID, Session string
}

func (simDo) MessageName() string { return "sim.do" }

var errSim = errors.New("simulated failure")

// simProcess is a process of a simulation.
type simProcess struct {
	n    int
	tr   *world.Faulty
	b    *bus.Bus
	gone atomic.Bool // closed, closing or killed: nobody begins anything there
	dead atomic.Bool // killed
}

// start begins a process that handles everything.
func (s *simulation) start() {
	p := &simProcess{n: len(s.processes), tr: world.NewFaulty(world.Shared{Transport: s.tr})}
	var err error
	p.b, err = bus.New(p.tr, simConfig(s.plan))
	require.NoError(s.t, err)
	ctx := s.t.Context()
	require.NoError(s.t, p.b.Together(func() error { return s.listen(ctx, p) }))
	require.NoError(s.t, bus.Handle(ctx, p.b, func(ctx context.Context, c simDo) (string, error) {
		return s.execute(ctx, p, c)
	}))
	s.log.mu.Lock() // actors choose among them
	defer s.log.mu.Unlock()
	s.processes = append(s.processes, p)
}

// listen subscribes the listeners of every group.
func (s *simulation) listen(ctx context.Context, p *simProcess) error {
	for g := range s.plan.groups {
		group := fmt.Sprintf("g%d", g)
		for l := range 1 + int(s.random("listeners", g)%2) {
			name := fmt.Sprintf("l%d", l)
			_, err := bus.Subscribe(ctx, p.b, func(ctx context.Context, e simHappened) error {
				return s.handle(ctx, p, group+"/"+name, e)
			}, bus.WithGroup(group), bus.WithName(name), bus.WithConcurrency(s.plan.concurrency))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// close closes the process as operators do.
func (p *simProcess) close(s *simulation, end bool) {
	if p.gone.Swap(true) && !end {
		return
	}
	err := p.b.Close(context.Background())
	if !p.dead.Load() {
		// Handlers that hang are cancelled, and named if they ignore that, which
		// these do not. What the transport refuses meanwhile is told of too.
		if err != nil && !s.plan.losses {
			s.t.Errorf("process %d: close: %v", p.n, err)
		}
	}
}

// kill ends the process as SIGKILL does, for everybody outside it.
func (p *simProcess) kill(s *simulation) {
	if p.gone.Swap(true) {
		return
	}
	p.dead.Store(true)
	p.tr.Kill()
	s.actors.Go(func() { _ = p.b.Close(context.Background()) }) // its goroutines
}

// lose makes answers of the broker get lost for a while: what was asked for has
// happened, or has not.
func (p *simProcess) lose(r *rand.Rand) {
	ops := []string{"ack", "nak", "publish", "extend", "term", "release"}
	op, n := ops[r.IntN(len(ops))], 1+r.IntN(3)
	f := world.Times(n, world.Failing(op, fmt.Errorf("%w: simulated", transport.ErrUnavailable)))
	if r.IntN(2) == 0 {
		p.tr.Set(f)
	} else if op == "publish" { // it is stored, and the publisher does not know
		p.tr.SetAfter(world.Times(n, world.Failing(op, context.DeadlineExceeded)))
	} else {
		p.tr.SetAfter(f)
	}
}

// handle is every listener. What it does is the event's and the listener's fate.
func (s *simulation) handle(ctx context.Context, p *simProcess, listener string, e simHappened) (err error) {
	m, _ := bus.MetaFrom(ctx)
	run := s.log.begin(p, listener, e.ID, m.Attempt)
	outcome := "panicked"
	defer func() { s.log.end(run, outcome) }()
	if m.Session != e.Session {
		s.log.wrong("%s heard event %s of session %q as of %q", listener, e.ID, e.Session, m.Session)
	}
	fail := func() error {
		outcome = "failed"
		return errSim
	}
	cut := func() error { // by its context
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, bus.ErrMaxRun):
			return fail()
		default:
			outcome = "cut"
			return cause
		}
	}
	switch kind := s.random("event", e.ID, listener) % 20; {
	case kind == 0, kind == 1 && m.Attempt == 1, kind == 2 && m.Attempt <= 2:
		return fail()
	case kind == 3:
		outcome = "permanent"
		return bus.Permanent(errSim)
	case kind == 4 && m.Attempt == 1:
		panic(errSim)
	case kind == 5 && m.Attempt == 1:
		runtime.Goexit()
	case kind == 6 && m.Attempt == 1: // hangs
		<-ctx.Done()
		return cut()
	case kind == 7: // slow
		select {
		case <-time.After(time.Duration(s.random("slow", e.ID, listener)%8000) * time.Millisecond):
		case <-ctx.Done():
			return cut()
		}
	case kind == 8 && m.Attempt == 1:
		outcome = "failed"
		return bus.RetryAfter(time.Duration(s.random("after", e.ID)%40)*time.Second, errSim)
	}
	outcome = "done"
	return nil
}

// execute is every handler of the command.
func (s *simulation) execute(ctx context.Context, p *simProcess, c simDo) (string, error) {
	run := s.log.begin(p, "command", c.ID, 1)
	outcome := "panicked"
	defer func() { s.log.end(run, outcome) }()
	if at := bus.SessionFrom(ctx); at != c.Session {
		s.log.wrong("command %s of session %q ran in %q", c.ID, c.Session, at)
	}
	switch s.random("command", c.ID) % 8 {
	case 0:
		outcome = "failed"
		return "", errSim
	case 1:
		panic(errSim)
	case 2:
		select {
		case <-time.After(time.Duration(s.random("slow", c.ID)%15000) * time.Millisecond):
		case <-ctx.Done():
			outcome = "cut"
			return "", context.Cause(ctx)
		}
	}
	outcome = "done"
	return "result of " + c.ID, nil
}

// somewhere returns a process that is there, or nil.
func (s *simulation) somewhere(r *rand.Rand) *simProcess {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	alive := s.alive()
	if len(alive) == 0 {
		return nil
	}
	return alive[r.IntN(len(alive))]
}

// publisher publishes, and publishes again under the same id what may not be stored.
func (s *simulation) publisher(r *rand.Rand, n int) {
	for i := range s.plan.each {
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		p := s.somewhere(r)
		if p == nil {
			continue
		}
		id := fmt.Sprintf("p%d-%d", n, i)
		e := simHappened{ID: id}
		send := func() error { return bus.Publish(s.t.Context(), p.b, e, bus.WithID(id)) }
		switch r.IntN(4) {
		case 0:
			send = func() error {
				pending, err := bus.PublishAsync(s.t.Context(), p.b, e, bus.WithID(id))
				if err != nil {
					return err
				}
				return pending.Wait(s.t.Context())
			}
		case 1:
			delay := time.Duration(r.IntN(20000)) * time.Millisecond
			send = func() error {
				return bus.Publish(s.t.Context(), p.b, e, bus.WithID(id), bus.WithDelay(delay))
			}
		}
		s.publish(id, e, send)
		if p.gone.Load() {
			continue
		}
		if r.IntN(5) == 0 { // a publisher that does not know, or does not remember
			_ = send()
		}
	}
}

func (s *simulation) publish(id string, e simHappened, send func() error) {
	s.log.invoke(e)
	for range 3 {
		err := send()
		if err == nil {
			s.log.stored(id)
			return
		}
		if bus.CodeOf(err) == bus.CodeClosed {
			return
		}
	}
}

// caller executes commands, some with too short a deadline.
func (s *simulation) caller(r *rand.Rand, n int) {
	for i := range s.plan.each {
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		if p := s.somewhere(r); p != nil {
			s.call(p.b, simDo{ID: fmt.Sprintf("c%d-%d", n, i)}, time.Duration(1+r.IntN(20_000))*time.Millisecond)
		}
	}
}

// call executes one command once and checks its answer.
func (s *simulation) call(in bus.Scope, c simDo, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(s.t.Context(), timeout)
	defer cancel()
	began := time.Now()
	result, err := bus.Execute(ctx, in, c)
	if took := time.Since(began); took > timeout {
		s.log.wrong("command %s: its deadline was after %v, and it returned after %v", c.ID, timeout, took)
	}
	runs := s.log.runs("command", c.ID)
	switch code := bus.CodeOf(err); {
	case err == nil && result != "result of "+c.ID:
		s.log.wrong("command %s got %q", c.ID, result)
	case err == nil && runs == 0, (code == bus.CodeFailed || code == bus.CodePanic) && runs == 0:
		s.log.wrong("command %s was answered, %v, and did not run", c.ID, err)
	case runs > 0 && (code == bus.CodeNoHandler || code == bus.CodeBusy || code == bus.CodeInvalid):
		s.log.wrong("command %s ran, and its caller was told that nothing did: %v", c.ID, err)
	case code == bus.CodeFailed && !strings.Contains(err.Error(), errSim.Error()) && !strings.Contains(err.Error(), "stopped") &&
		!strings.Contains(err.Error(), "deadline"):
		s.log.wrong("command %s failed in a way of its own: %v", c.ID, err)
	}
}

// sessionUser opens sessions one after the other, uses and closes them.
func (s *simulation) sessionUser(r *rand.Rand, n int) {
	for i := range 2 {
		time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
		p := s.somewhere(r)
		if p == nil {
			continue
		}
		id := fmt.Sprintf("s%d-%d", n, i)
		ss, err := p.b.Session(s.t.Context(), id)
		if err != nil {
			continue
		}
		heard := world.NewRecord[string]()
		_, err = bus.Subscribe(s.t.Context(), ss, func(ctx context.Context, e simHappened) error {
			if e.Session != id || bus.SessionFrom(ctx) != id {
				s.log.wrong("session %s heard event %s of session %q", id, e.ID, e.Session)
			}
			if s.random("hears", e.ID)%4 == 0 && !strings.Contains(fmt.Sprint(heard.All()), e.ID) {
				heard.Add("tried " + e.ID)
				return errSim // the first time
			}
			heard.Add(e.ID)
			return nil
		})
		published := []string{}
		for j := range 1 + r.IntN(4) {
			if err != nil {
				break
			}
			e := simHappened{ID: fmt.Sprintf("%s-e%d", id, j), Session: id}
			s.publish(e.ID, e, func() error { return bus.Publish(s.t.Context(), ss, e, bus.WithID(e.ID)) })
			if s.log.isStored(e.ID) {
				published = append(published, e.ID)
			}
			s.call(ss, simDo{ID: fmt.Sprintf("%s-c%d", id, j), Session: id}, 10*time.Second)
		}
		closed := ss.Close(s.t.Context())
		if closed != nil || err != nil || p.gone.Load() || s.plan.losses {
			continue
		}
		all := strings.Join(heard.All(), " ")
		for _, e := range published {
			if !strings.Contains(" "+all+" ", " "+e+" ") {
				s.log.wrong("session %s closed before it had handled %s; it has: %s", id, e, all)
			}
		}
	}
}
