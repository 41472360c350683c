package bus

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/resilience"
)

// circuitModel is a circuit as its documentation has it, with everything remembered.
type circuitModel struct {
	resilience.Breaker
	state      resilience.BreakerState
	generation int
	at         time.Time // of the state
	failures   []mishap
	successes  int
	probe      *modelPermit // that the next waits for
	out        time.Time    // since when
}

type modelPermit struct {
	real       permit
	generation int
	probe      bool
}

func (m *circuitModel) begin(s resilience.BreakerState) {
	m.state, m.generation, m.at = s, m.generation+1, time.Now()
	m.failures, m.successes, m.probe = nil, 0, nil
}

func (m *circuitModel) look() {
	if m.state == resilience.BreakerOpen && time.Since(m.at) >= m.Recovery {
		m.begin(resilience.BreakerHalfOpen)
	}
}

func (m *circuitModel) enter(p *modelPermit) bool {
	m.look()
	p.generation = m.generation
	switch m.state {
	case resilience.BreakerOpen:
		return false
	case resilience.BreakerHalfOpen:
		if m.probe != nil && time.Since(m.out) < m.ProbeTimeout {
			return false
		}
		m.probe, m.out, p.probe = p, time.Now(), true
	}
	return true
}

// counting returns the failures that count: those within the window, and of one thing
// only the last.
func (m *circuitModel) counting() (n int) {
	last := map[string]bool{}
	for i := len(m.failures) - 1; i >= 0; i-- {
		if f := m.failures[i]; time.Since(f.at) < m.Window && (f.of == "" || !last[f.of]) {
			last[f.of] = true
			n++
		}
	}
	return n
}

func (m *circuitModel) done(p *modelPermit, o outcome, of string) {
	if p.generation != m.generation {
		return
	}
	if m.probe == p {
		m.probe = nil
	}
	switch {
	case o == failed && p.probe:
		m.begin(resilience.BreakerOpen)
	case o == failed:
		m.failures = append(m.failures, mishap{time.Now(), of})
		if n := m.counting(); m.FailureThreshold != resilience.NeverOpens && n >= m.FailureThreshold {
			m.begin(resilience.BreakerOpen)
		}
	case o == succeeded && p.probe:
		if m.successes++; m.successes >= m.SuccessThreshold {
			m.begin(resilience.BreakerClosed)
		}
	}
}

func TestCircuitFollowsItsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		synctest.Test(t, func(*testing.T) {
			defer func() { failure = recover() }() // rapid's, for its own goroutine
			b := resilience.Breaker{
				FailureThreshold: rapid.SampledFrom([]int{1, 2, 3, 5, resilience.NeverOpens}).Draw(rt, "threshold"),
				Window:           rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second}).Draw(rt, "window"),
				Recovery:         rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second}).Draw(rt, "recovery"),
				SuccessThreshold: rapid.IntRange(1, 3).Draw(rt, "successes"),
				ProbeTimeout:     rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Second}).Draw(rt, "patience"),
			}
			m := &circuitModel{Breaker: b, at: time.Now()}
			var told []change
			c := newCircuit(b, func(ch change) { told = append(told, ch) })
			var out []*modelPermit
			check := func() {
				m.look()
				var s BreakerStats
				c.fill(&s)
				require.Equal(rt, m.state, s.State)
				require.Equal(rt, m.at, s.Since)
				if m.FailureThreshold != resilience.NeverOpens {
					require.Equal(rt, m.counting(), s.Failures)
				}
				require.Equal(rt, m.successes, s.Successes)
				var remaining time.Duration
				if m.state == resilience.BreakerOpen {
					remaining = m.Recovery - time.Since(m.at)
				}
				require.Equal(rt, remaining, s.Remaining)
				require.Len(rt, told, m.generation)
				for i, ch := range told {
					if i > 0 {
						require.Equal(rt, told[i-1].to, ch.from, "changes in order")
					}
				}
			}
			enter := func(rt *rapid.T) {
				p := new(modelPermit)
				want := m.enter(p)
				real, wait, ok := c.enter()
				require.Equal(rt, want, ok)
				if !ok && m.state == resilience.BreakerOpen {
					require.Equal(rt, m.Recovery-time.Since(m.at), wait)
				}
				if p.real = real; ok {
					require.True(rt, p.real.current())
					out = append(out, p)
				}
			}
			rt.Repeat(map[string]func(*rapid.T){
				"enter":  enter,
				"enter2": enter,
				"done": func(rt *rapid.T) {
					if len(out) == 0 {
						rt.Skip()
					}
					i := rapid.IntRange(0, len(out)-1).Draw(rt, "which")
					o := outcome(rapid.SampledFrom([]int{0, 1, 1, 1, 2, 2, 2, 2}).Draw(rt, "outcome"))
					of := rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(rt, "of")
					p := out[i]
					out = append(out[:i], out[i+1:]...)
					m.done(p, o, of)
					p.real.done(o, of)
				},
				"wait": func(rt *rapid.T) {
					time.Sleep(rapid.SampledFrom([]time.Duration{100 * time.Millisecond, time.Second, 3 * time.Second, 8 * time.Second}).Draw(rt, "for"))
				},
				"": func(*rapid.T) { check() },
			})
		})
		if failure != nil {
			panic(failure)
		}
	})
}

// fail lets n failures pass.
func (c *circuit) failTimes(n int) {
	for range n {
		if p, _, ok := c.enter(); ok {
			p.done(failed, "")
		}
	}
}

func TestLateResultOfAnEarlierStateDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(resilience.Breaker{}, func(change) {})
		late, _, _ := c.enter() // while it is closed
		lateFailure, _, _ := c.enter()
		c.failTimes(5)
		time.Sleep(time.Minute)
		probe, _, ok := c.enter()
		require.True(t, ok)
		late.done(succeeded, "")
		lateFailure.done(failed, "")
		_, _, ok = c.enter()
		require.False(t, ok, "the late results gave the probe's place away")
		s, _ := c.state()
		require.Equal(t, resilience.BreakerHalfOpen, s)
		probe.done(succeeded, "")
		var st BreakerStats
		c.fill(&st)
		require.Equal(t, 1, st.Successes)
	})
}

func TestNeutralResultsNeitherOpenNorCloseNorKeepThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(resilience.Breaker{}, func(change) {})
		for range 100 {
			p, _, ok := c.enter()
			require.True(t, ok)
			p.done(neutral, "")
		}
		c.failTimes(5)
		time.Sleep(time.Minute)
		for range 100 {
			p, _, ok := c.enter()
			require.True(t, ok, "a neutral probe kept its place")
			p.done(neutral, "")
			s, _ := c.state()
			require.Equal(t, resilience.BreakerHalfOpen, s)
		}
	})
}

func TestProbeThatNeverReturnsGivesItsPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(resilience.Breaker{ProbeTimeout: 10 * time.Second, SuccessThreshold: 2}, func(change) {})
		c.failTimes(5)
		time.Sleep(time.Minute)
		slow, _, ok := c.enter()
		require.True(t, ok)
		time.Sleep(10*time.Second - 1)
		_, wait, ok := c.enter()
		require.False(t, ok)
		require.Zero(t, wait)
		time.Sleep(time.Nanosecond)
		next, _, ok := c.enter()
		require.True(t, ok)
		slow.done(succeeded, "") // late, and still of this state
		_, _, ok = c.enter()
		require.False(t, ok, "the slow probe gave away the place of the next one")
		next.done(succeeded, "")
		s, _ := c.state()
		require.Equal(t, resilience.BreakerClosed, s)
	})
}

// Who tells of changes must be able to ask the circuit, and hears of them in order
// even if they come faster than it tells.
func TestChangesAreToldInOrderAndWithoutALock(t *testing.T) {
	var c *circuit
	var mu sync.Mutex
	var told []change
	c = newCircuit(resilience.Breaker{FailureThreshold: 1, Recovery: time.Nanosecond, SuccessThreshold: 1}, func(ch change) {
		c.state()
		var s BreakerStats
		c.fill(&s)
		mu.Lock()
		defer mu.Unlock()
		told = append(told, ch)
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 300 {
				if p, _, ok := c.enter(); ok {
					p.done(outcome(1+(i+j)%2), "")
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, told)
	for i, ch := range told {
		if i > 0 {
			require.False(t, ch.at.Before(told[i-1].at))
		}
		if i > 0 && len(told) < maxUntoldChanges {
			require.Equal(t, told[i-1].to, ch.from)
		}
	}
}

func TestNoMoreThanOneProbeIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(resilience.Breaker{SuccessThreshold: 1000}, func(change) {})
		c.failTimes(5)
		time.Sleep(time.Minute)
		var out, most atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					p, _, ok := c.enter()
					if !ok {
						time.Sleep(time.Millisecond)
						continue
					}
					if n := out.Add(1); n > most.Load() {
						most.Store(n)
					}
					time.Sleep(time.Millisecond)
					out.Add(-1)
					p.done(succeeded, "")
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, most.Load())
	})
}

func BenchmarkCircuit(b *testing.B) {
	c := newCircuit(resilience.Breaker{}, func(change) {})
	b.Run("closed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p, _, ok := c.enter()
			if !ok {
				b.Fatal(fmt.Sprint(c.state()))
			}
			p.done(succeeded, "")
		}
	})
	b.Run("closed, parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if p, _, ok := c.enter(); ok {
					p.done(succeeded, "")
				}
			}
		})
	})
}
