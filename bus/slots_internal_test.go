package bus

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Never more than its number run at once, each in a place of its own; whoever waits
// gets a place as long as others leave, and all are free in the end, also when some
// give up.
func TestSlots(t *testing.T) {
	for _, n := range []int{1, 2, 3, 64} {
		s := newSlots(n)
		places := make([]atomic.Bool, n)
		var running atomic.Int32
		var wg sync.WaitGroup
		for range 4*n + 4 {
			wg.Go(func() {
				for range 500 {
					k := new(call)
					gaveUp := make(chan struct{})
					if rand.N(4) == 0 {
						close(gaveUp)
					}
					if !s.try(k) && !s.wait(k, gaveUp, nil) {
						continue
					}
					if now := running.Add(1); int(now) > n {
						t.Errorf("%d of %d run", now, n)
					}
					if places[k.place].Swap(true) {
						t.Errorf("two run in place %d", k.place)
					}
					if rand.N(8) == 0 {
						s.rest(k)
						runtime.Gosched()
						s.enter(k, k.place)
					}
					places[k.place].Store(false)
					running.Add(-1)
					s.leave(k)
				}
			})
		}
		wg.Wait() // nobody waits for ever
		require.Zero(t, s.taken())
		require.Zero(t, s.waiting.Load())
		all := make([]*call, n)
		for i := range all {
			all[i] = new(call)
			require.True(t, s.try(all[i]), "place %d of %d is lost", i, n)
		}
		require.False(t, s.try(new(call)))
		require.Equal(t, n, s.taken())
		s.rest(all[0])
		seen := 0
		s.each(func(*call) { seen++ })
		require.Equal(t, n-1, seen, "what rests does not run")
	}
}

// Those who wait get their places in the order in which they came.
func TestSlotsAreHandedOnInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		first := new(call)
		require.True(t, s.try(first))
		var order []int
		for i := range 5 {
			go func() {
				k := new(call)
				s.wait(k, nil, nil)
				order = append(order, i) // one at a time
				time.Sleep(time.Second)
				s.leave(k)
			}()
			synctest.Wait()
		}
		s.leave(first)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, order)
	})
}
