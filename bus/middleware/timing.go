package middleware

import (
	"cmp"
	"context"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// Timings measures how long the rest of the chain takes, for each message name:
//
//	var t middleware.Timings
//	b, err := bus.New(tr, bus.Config{Receiving: []bus.Middleware{t.Middleware}})
//	…
//	for _, n := range t.Snapshot() { … }
//
// The zero value is ready, and a Timings is safe for concurrent use; do not copy
// one that is in use. Give each handler its own to tell handlers of one name
// apart. It takes about 8 KiB for each name, however many messages it has seen.
type Timings struct {
	mu     sync.RWMutex
	byName map[string]*series
}

// Timing is what a Timings knows of one name. Percentiles are within 4% of the
// exact ones; the rest is exact.
type Timing struct {
	// Name is the wire name, Kind what it is.
	Name string
	Kind bus.Kind
	// Count is how many messages the rest of the chain has dealt with, and Failures
	// how many of them ended with an error. Each run of a handler that is retried
	// counts.
	Count, Failures uint64
	// Min, Mean and Max are of all of them, failed ones included.
	Min, Mean, Max time.Duration
	// P50 is the time within which half of them were done, and so on.
	P50, P90, P95, P99 time.Duration
}

// Middleware is the bus.Middleware, for either chain.
func (t *Timings) Middleware(next bus.Func) bus.Func {
	if t == nil {
		return invalid("Timings", "the *Timings is nil; use new(middleware.Timings)")(next)
	}
	return func(ctx context.Context, m *bus.Message) (v any, err error) {
		began := time.Now()
		err = errNoReturn
		defer func() { t.of(m).add(time.Since(began), err != nil) }()
		return next(ctx, m)
	}
}

// Snapshot returns what has been measured so far, by name.
func (t *Timings) Snapshot() []Timing {
	t.mu.RLock()
	all := make([]*series, 0, len(t.byName))
	for _, s := range t.byName {
		all = append(all, s)
	}
	t.mu.RUnlock()
	timings := make([]Timing, len(all))
	for i, s := range all {
		timings[i] = s.timing()
	}
	slices.SortFunc(timings, func(a, b Timing) int { return cmp.Compare(a.Name, b.Name) })
	return timings
}

// of returns the series of m's name. Names are those of the program's types, so
// there is no end to guard against.
func (t *Timings) of(m *bus.Message) *series {
	t.mu.RLock()
	s := t.byName[m.Name]
	t.mu.RUnlock()
	if s != nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s = t.byName[m.Name]; s == nil {
		if t.byName == nil {
			t.byName = map[string]*series{}
		}
		s = &series{name: m.Name, kind: m.Kind}
		t.byName[m.Name] = s
	}
	return s
}

// series is what one name has taken.
type series struct {
	name string
	kind bus.Kind

	mu              sync.Mutex
	count, failures uint64
	min, max        time.Duration
	sum             float64 // of durations; a float does not overflow
	buckets         [buckets]uint64
}

func (s *series) add(d time.Duration, failed bool) {
	d = max(d, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 || d < s.min {
		s.min = d
	}
	s.max = max(s.max, d)
	s.sum += float64(d)
	s.count++
	if failed {
		s.failures++
	}
	s.buckets[bucketOf(d)]++
}

func (s *series) timing() Timing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Timing{
		Name: s.name, Kind: s.kind, Count: s.count, Failures: s.failures,
		Min: s.min, Mean: time.Duration(s.sum / float64(max(s.count, 1))), Max: s.max,
		P50: s.percentile(50), P90: s.percentile(90), P95: s.percentile(95), P99: s.percentile(99),
	}
}

// percentile returns the time within which p percent were done. s.mu is held.
func (s *series) percentile(p uint64) time.Duration {
	rank := (s.count*p + 99) / 100
	for i, n := range s.buckets {
		if n >= rank {
			return min(max(middleOf(i), s.min), s.max)
		}
		rank -= n
	}
	return s.max
}

// Each power of two is split into perPower buckets, so that a bucket is at most a
// sixteenth as wide as what is in it is large. Durations have 63 bits; those below
// perPower have a bucket each.
const (
	perPower = 16
	buckets  = (63 - 4 + 1) * perPower
)

// bucketOf returns the bucket of d, which is not negative.
func bucketOf(d time.Duration) int {
	n := uint64(d)
	if n < perPower {
		return int(n)
	}
	shift := bits.Len64(n) - 5 // n>>shift is from 16 to 31
	return shift*perPower + int(n>>shift)
}

// middleOf returns the middle of a bucket.
func middleOf(i int) time.Duration {
	if i < 2*perPower {
		return time.Duration(i)
	}
	shift := i/perPower - 1
	low := time.Duration(i%perPower+perPower) << shift
	return low + (1<<shift)/2
}
