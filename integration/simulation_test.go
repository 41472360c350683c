package integration_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/memory"
)

// A simulation is a random program on the memory driver in fake time: processes
// that come, close and die, publishers, groups whose handlers fail, panic, hang and
// are slow, sessions, commands, settlements and publishes whose answers get lost.
// Then the faults stop, and what was promised is checked against what happened. A
// seed makes the program; what the scheduler does with it differs from run to run.
var (
	simSeeds = flag.Int("sim.seeds", 0, "how many simulations TestSimulation runs (default 600; 60 under the race detector)")
	simFrom  = flag.Uint64("sim.from", 0, "the first seed of TestSimulation; 0 chooses one")
	simOnly  = flag.Uint64("sim.seed", 0, "run this simulation only, 20 times")
)

func TestSimulation(t *testing.T) {
	if *simOnly != 0 {
		for i := range 20 {
			simulate(t, *simOnly, strconv.Itoa(i))
		}
		return
	}
	from, n := *simFrom, *simSeeds
	if from == 0 {
		from = rand.Uint64N(1 << 40)
	}
	if n == 0 {
		n = 600
		if raceEnabled {
			n = 60
		}
	}
	t.Logf("seeds %d to %d", from, from+uint64(n)-1)
	for seed := from; seed < from+uint64(n) && !t.Failed(); seed++ {
		simulate(t, seed, "")
	}
}

func simulate(t *testing.T, seed uint64, name string) {
	t.Run(fmt.Sprintf("seed=%d", seed)+name, func(t *testing.T) {
		defer func() {
			if t.Failed() {
				t.Logf("again: go test ./integration -run TestSimulation -sim.seed %d", seed)
			}
		}()
		synctest.Test(t, func(t *testing.T) { newSimulation(t, seed).run() })
	})
}

// simulation is the state of one.
type simulation struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand // of the goroutine that drives the simulation
	tr   *memory.Transport
	plan simPlan
	log  *simLog

	processes []*simProcess // every one that there was
	actors    sync.WaitGroup
}

// simPlan is what a seed chooses.
type simPlan struct {
	processes, groups, publishers, sessions, callers int
	each                                             int // messages of each publisher and caller
	concurrency                                      int
	encoded                                          bool
	retry                                            resilience.Retry
	faults                                           int
	kills, losses                                    bool // whether faults may end a process unasked, or lose answers
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	rng := rand.New(rand.NewPCG(seed, 0x6a69746e6579))
	p := simPlan{
		processes: 1 + rng.IntN(3), groups: 1 + rng.IntN(3), publishers: 1 + rng.IntN(3),
		sessions: rng.IntN(3), callers: rng.IntN(3), each: 3 + rng.IntN(15),
		concurrency: []int{1, 2, 16}[rng.IntN(3)], encoded: rng.IntN(2) == 0,
		retry:  resilience.Retry{MaxRetries: 1 + rng.IntN(3), Initial: 200 * time.Millisecond, Max: 5 * time.Second},
		faults: rng.IntN(6), kills: rng.IntN(2) == 0, losses: rng.IntN(2) == 0,
	}
	cfg := memory.Config{}
	if p.encoded {
		cfg.Codec = codec.JSON
	}
	return &simulation{t: t, seed: seed, rng: rng, tr: memory.New(cfg), plan: p, log: newSimLog()}
}

func (s *simulation) run() {
	for range s.plan.processes {
		s.start()
	}
	for i := range s.plan.publishers {
		s.actor(func(r *rand.Rand) { s.publisher(r, i) })
	}
	for i := range s.plan.callers {
		s.actor(func(r *rand.Rand) { s.caller(r, i) })
	}
	for i := range s.plan.sessions {
		s.actor(func(r *rand.Rand) { s.sessionUser(r, i) })
	}
	for range s.plan.faults {
		time.Sleep(time.Duration(s.rng.IntN(4000)) * time.Millisecond)
		s.fault()
	}
	s.actors.Wait()
	s.heal()
	s.quiesce()
	s.check()
	for _, p := range s.processes {
		p.close(s, true)
	}
	require.NoError(s.t, s.tr.Close(context.Background()))
}

// actor runs f beside everything else, with randomness of its own.
func (s *simulation) actor(f func(*rand.Rand)) {
	r := rand.New(rand.NewPCG(s.rng.Uint64(), s.rng.Uint64()))
	s.actors.Go(func() { f(r) })
}

// fault does one thing that goes wrong, or that operators do.
func (s *simulation) fault() {
	alive := s.alive()
	switch n := s.rng.IntN(6); {
	case n == 0:
		s.start()
	case n == 1 && len(alive) > 1:
		p := alive[s.rng.IntN(len(alive))]
		s.actors.Go(func() { p.close(s, false) })
	case n == 2 && s.plan.kills && len(alive) > 1:
		alive[s.rng.IntN(len(alive))].kill(s)
	case n >= 3 && s.plan.losses:
		alive[s.rng.IntN(len(alive))].lose(s.rng)
	}
}

// heal ends the faults and sees to it that somebody is there.
func (s *simulation) heal() {
	for _, p := range s.alive() {
		p.tr.Set(nil)
		p.tr.SetAfter(nil)
	}
	s.start()
}

func (s *simulation) alive() []*simProcess {
	return slices.DeleteFunc(slices.Clone(s.processes), func(p *simProcess) bool { return p.gone.Load() })
}

// quiesce lets time pass until every event has come to an end, or two hours.
func (s *simulation) quiesce() {
	for range 2 * 60 * 12 {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(s.unfinished()) == 0 && s.log.idle() {
			return
		}
	}
}

// random is decided by the seed and what it is about alone.
func (s *simulation) random(about ...any) uint64 {
	h := uint64(14695981039346656037) ^ s.seed
	for _, c := range []byte(fmt.Sprint(about...)) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h ^ h>>29
}

func simConfig(p simPlan) bus.Config {
	return bus.Config{
		Service: "sim", Retry: p.retry, AckWait: 5 * time.Second, MaxRun: 20 * time.Second, CloseTimeout: 3 * time.Second,
		ExecuteTimeout: 10 * time.Second, PublishTimeout: 10 * time.Second, BatchSize: 5, BatchTimeout: 50 * time.Millisecond,
	}
}
