package resilience_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/resilience"
)

// plant is workers behind a queue, with a capacity that can be changed.
type plant struct {
	queue    chan time.Time
	workers  int
	jitter   bool         // the time that one piece of work takes is exponential
	capacity atomic.Int64 // a second, of all workers together
	done     atomic.Int64
	longest  atomic.Int64 // lag
}

func (p *plant) work(l *resilience.AIMD) {
	for queued := range p.queue {
		lag := time.Since(queued)
		l.Observe(lag)
		p.longest.Store(max(p.longest.Load(), int64(lag)))
		takes := float64(p.workers) / float64(p.capacity.Load())
		if p.jitter {
			takes *= rand.ExpFloat64()
		}
		time.Sleep(time.Duration(takes * float64(time.Second)))
		p.done.Add(1)
	}
}

// second is what was seen in one.
type second struct {
	used float64 // the share of the capacity
	lag  time.Duration
}

// simulate runs a publisher that is as fast as the limiter lets it be, for some time
// at each capacity.
func simulate(t *testing.T, target time.Duration, workers int, jitter bool, seconds int, capacities ...int) (all []second) {
	synctest.Test(t, func(t *testing.T) {
		l := resilience.NewAIMD(target)
		p := &plant{queue: make(chan time.Time, 1<<20), workers: workers, jitter: jitter}
		p.capacity.Store(int64(capacities[0]))
		var working sync.WaitGroup
		for range workers {
			working.Go(func() { p.work(l) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(p.queue)
			for {
				if _, err := l.Wait(ctx, 1); err != nil {
					return
				}
				p.queue <- time.Now()
			}
		}()
		for _, c := range capacities {
			p.capacity.Store(int64(c))
			for range seconds {
				before := p.done.Load()
				p.longest.Store(0)
				time.Sleep(time.Second)
				s := second{float64(p.done.Load()-before) / float64(c), time.Duration(p.longest.Load())}
				t.Logf("capacity %d: rate %.0f, used %.3f, longest lag %v", c, l.Rate(), s.used, s.lag.Round(time.Millisecond))
				all = append(all, s)
			}
		}
		cancel()
		for range p.queue { // what is left
		}
		working.Wait()
	})
	return all
}

// held returns the share of the capacity that was used, and the longest lag.
func held(all []second) (used float64, lag time.Duration) {
	for _, s := range all {
		used += s.used / float64(len(all))
		lag = max(lag, s.lag)
	}
	return used, lag
}

// From 100 a second it finds any capacity within seconds, and then holds it with a
// lag near the target.
func TestAIMDHoldsCapacity(t *testing.T) {
	for _, c := range []struct {
		target            time.Duration
		capacity, workers int
		jitter            bool
	}{
		{time.Second, 50, 1, false},
		{500 * time.Millisecond, 200, 8, true},
		{250 * time.Millisecond, 1000, 16, false},
		{250 * time.Millisecond, 1000, 16, true},
		{100 * time.Millisecond, 4000, 40, true},
		{250 * time.Millisecond, 10_000, 64, true},
	} {
		t.Run(fmt.Sprintf("%d a second by %d, jitter %v, target %v", c.capacity, c.workers, c.jitter, c.target), func(t *testing.T) {
			t.Parallel()
			settled := 5 + 5*int(c.target/time.Second)
			seconds := settled + max(10, 10_000/c.capacity) // work enough for chance to even out
			all := simulate(t, c.target, c.workers, c.jitter, seconds, c.capacity)
			used, lag := held(all[settled:])
			t.Logf("held %.1f %% of the capacity, longest lag %v", 100*used, lag.Round(time.Millisecond))
			require.GreaterOrEqual(t, used, 0.95)
			require.Less(t, lag, 5*c.target)
		})
	}
}

// A capacity that changes is found again, up and down.
func TestAIMDFollowsCapacity(t *testing.T) {
	const target, seconds, settled, drained = 250 * time.Millisecond, 14, 4, 11
	capacities := []int{2000, 500, 4000, 1000}
	all := simulate(t, target, 40, true, seconds, capacities...)
	for i, c := range capacities {
		phase := all[i*seconds : (i+1)*seconds]
		used, _ := held(phase[settled:])
		_, lag := held(phase[drained:]) // what was queued when the capacity fell has to be done first
		t.Logf("held %.1f %% of %d, longest lag %v", 100*used, c, lag.Round(time.Millisecond))
		require.GreaterOrEqual(t, used, 0.95, "of %d", c)
		require.Less(t, lag, 5*target, "at %d", c)
	}
}

func limited(t *testing.T, f func(t *testing.T, l *resilience.AIMD)) {
	synctest.Test(t, func(t *testing.T) { f(t, resilience.NewAIMD(100*time.Millisecond)) })
}

func TestAIMDRefusesWhatComesTooLate(t *testing.T) {
	limited(t, func(t *testing.T, l *resilience.AIMD) {
		wait := func(ctx context.Context, n int) error { _, err := l.Wait(ctx, n); return err }
		require.NoError(t, wait(t.Context(), 51)) // half a second of turns, and the 10 ms that are made up for
		ctx, cancel := context.WithTimeout(t.Context(), 499*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := wait(ctx, 1)
		require.ErrorIs(t, err, resilience.ErrLimited)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, time.Since(began), "at once")
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, func() {
			require.Equal(t, 1, l.Waiting())
			cancel()
		})
		require.ErrorIs(t, wait(ctx, 1), context.Canceled)
		require.Zero(t, l.Waiting())
		waited, err := l.Wait(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 510*time.Millisecond, time.Since(began), "after the turn that was given up")
		require.Equal(t, 509*time.Millisecond, waited)
	})
}

// What cannot wait is counted, and puts the others off for a second at most.
func TestAIMDTake(t *testing.T) {
	limited(t, func(t *testing.T, l *resilience.AIMD) {
		l.Take(31)
		waited, err := l.Wait(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 300*time.Millisecond, waited)
		for range 100 {
			l.Take(1000)
		}
		waited, err = l.Wait(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, time.Second, waited)
	})
}

func TestAIMDCutsWhenRefused(t *testing.T) {
	limited(t, func(t *testing.T, l *resilience.AIMD) {
		for range 100 { // a thousand refusals in two seconds are twenty periods
			for range 10 {
				l.Refuse()
			}
			time.Sleep(20 * time.Millisecond)
		}
		require.Equal(t, 10.0, l.Rate(), "the least")
	})
}

// Nobody waits for it, so there is nothing to find.
func TestAIMDDoesNotGrowUnused(t *testing.T) {
	limited(t, func(t *testing.T, l *resilience.AIMD) {
		for range 1000 {
			_, err := l.Wait(t.Context(), 1)
			require.NoError(t, err)
			l.Observe(0)
			time.Sleep(20 * time.Millisecond)
		}
		require.Equal(t, 100.0, l.Rate())
	})
}
