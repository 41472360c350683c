package integration_test

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// simLog is what happened in a simulation.
type simLog struct {
	mu      sync.Mutex
	invoked map[string]simHappened
	acked   map[string]bool // Publish returned nil
	all     []*simRun
	running int
	errs    []string
}

// simRun is one run of one handler.
type simRun struct {
	p        *simProcess
	who, id  string
	attempt  int
	outcome  string  // "" while it runs
	beside   *simRun // the same in another process, when it began
	orphaned bool    // its process was dead when it began or ended
}

func newSimLog() *simLog {
	return &simLog{invoked: map[string]simHappened{}, acked: map[string]bool{}}
}

func (l *simLog) wrong(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, fmt.Sprintf(format, args...))
}

func (l *simLog) invoke(e simHappened) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.invoked[e.ID] = e
}

func (l *simLog) stored(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[id] = true
}

func (l *simLog) isStored(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked[id]
}

func (l *simLog) begin(p *simProcess, who, id string, attempt int) *simRun {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &simRun{p: p, who: who, id: id, attempt: attempt, orphaned: p.dead.Load()}
	for _, o := range l.all {
		if o.who == who && o.id == id && o.outcome == "" && !o.p.dead.Load() && !r.orphaned {
			r.beside = o
		}
	}
	l.all = append(l.all, r)
	l.running++
	return r
}

func (l *simLog) end(r *simRun, outcome string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.outcome = outcome
	r.orphaned = r.orphaned || r.p.dead.Load()
	l.running--
}

func (l *simLog) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running == 0
}

func (l *simLog) runs(who, id string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.all {
		if r.who == who && r.id == id {
			n++
		}
	}
	return n
}

// of sorts the runs by who ran what.
func (l *simLog) of() map[string][]*simRun {
	l.mu.Lock()
	defer l.mu.Unlock()
	by := map[string][]*simRun{}
	for _, r := range l.all {
		by[r.who+" "+r.id] = append(by[r.who+" "+r.id], r)
	}
	return by
}

// listeners are those of the bus.
func (s *simulation) listeners() (all []string) {
	for g := range s.plan.groups {
		for l := range 1 + int(s.random("listeners", g)%2) {
			all = append(all, fmt.Sprintf("g%d/l%d", g, l))
		}
	}
	return all
}

// graves are the dead letters of events, by who could not handle what.
func (s *simulation) graves() map[string][]*transport.DeadLetter {
	by := map[string][]*transport.DeadLetter{}
	var after uint64
	for {
		page, err := s.tr.DeadLetters().List(context.Background(), transport.DeadLetterQuery{After: after})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, d := range page {
			after = d.Sequence
			if d.Kind == bus.KindEvent.String() {
				key := d.Group + "/" + d.Handler + " " + d.Message.ID
				by[key] = append(by[key], d)
			}
		}
		if len(page) < 100 {
			return by
		}
	}
}

// unfinished are the stored events that some listener has neither handled nor given
// up.
func (s *simulation) unfinished() (missing []string) {
	runs, graves := s.log.of(), s.graves()
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for id := range s.log.acked {
		for _, who := range s.listeners() {
			key := who + " " + id
			done := len(graves[key]) > 0
			for _, r := range runs[key] {
				done = done || r.outcome == "done"
			}
			if !done {
				missing = append(missing, key)
			}
		}
	}
	sort.Strings(missing)
	return missing
}

// check holds what happened against what is promised.
func (s *simulation) check() {
	for _, key := range s.unfinished() {
		s.log.wrong("%s: stored, and neither handled nor a dead letter", key)
	}
	runs, graves := s.log.of(), s.graves()
	for key, rs := range runs {
		s.checkRuns(key, rs, graves[key])
	}
	for key, ds := range graves {
		if len(ds) > 1 {
			s.log.wrong("%s: %d dead letters of one failure", key, len(ds))
		}
		if want, got := s.plan.retry.Attempts(), ds[0].Attempts; got > want && !s.disturbed() {
			s.log.wrong("%s: a dead letter after %d attempts of %d", key, got, want)
		}
		if _, ok := s.log.invoked[ds[0].Message.ID]; !ok {
			s.log.wrong("%s: a dead letter of what nobody published", key)
		}
	}
	for _, e := range s.log.errs {
		s.t.Error(e)
	}
	if s.t.Failed() {
		s.t.Logf("plan: %+v", s.plan)
	}
}

// disturbed reports whether answers were lost or processes killed: then what was
// handled may be handled again.
func (s *simulation) disturbed() bool { return s.plan.losses || s.plan.kills }

func (s *simulation) checkRuns(key string, rs []*simRun, ds []*transport.DeadLetter) {
	var done, failed, alive int
	for _, r := range rs {
		if r.outcome == "" {
			s.log.wrong("%s: still runs", key)
		}
		if r.beside != nil && !s.plan.losses {
			s.log.wrong("%s: process %d ran it while process %d did", key, r.p.n, r.beside.p.n)
		}
		if !r.orphaned {
			alive++
		}
		switch r.outcome {
		case "done":
			done++
		case "failed", "panicked", "permanent":
			failed++
		}
	}
	if rs[0].who == "command" {
		if alive > 1 {
			s.log.wrong("%s: ran %d times for one Execute", key, alive)
		}
		return
	}
	if _, ok := s.log.invoked[rs[0].id]; !ok {
		s.log.wrong("%s: nobody published it", key)
	}
	if s.disturbed() {
		return
	}
	if done > 1 {
		s.log.wrong("%s: handled %d times, and nothing was lost", key, done)
	}
	if done > 0 && len(ds) > 0 {
		s.log.wrong("%s: handled, and a dead letter", key)
	}
	if max := s.plan.retry.Attempts(); failed > max {
		s.log.wrong("%s: failed %d times, with %d attempts", key, failed, max)
	}
	for i, r := range rs {
		before := 0
		for _, o := range rs[:i] {
			if o.outcome != "cut" {
				before++
			}
		}
		if r.attempt != before+1 {
			s.log.wrong("%s: attempt %d after %d runs that ended by themselves", key, r.attempt, before)
		}
	}
}
