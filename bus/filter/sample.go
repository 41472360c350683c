package filter

import (
	"fmt"
	"math"

	"github.com/jitney-bus/jitney/bus"
)

// Sample passes a fraction of the events, from 0 (none) to 1 (all). Which ones is
// decided by their ids, so that every process, every retry and both ends decide
// alike: what passes Sample(0.1) passes Sample(0.2) too, and a sample of a sample
// is the smaller one.
func Sample(fraction float64) bus.Filter {
	label := fmt.Sprintf("sample(%v)", fraction)
	if !(fraction >= 0 && fraction <= 1) {
		return invalid(label, "the fraction is not between 0 and 1")
	}
	return bus.Filter{Name: label, Pass: func(m *bus.Message) bool { return place(m.ID) < fraction }}
}

// place puts an id somewhere in [0, 1): FNV-1a, whose upper bits alone are poor
// for short text, and then the finalizer of MurmurHash3. It must never change:
// processes of different versions have to agree.
func place(id string) float64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return math.Ldexp(float64(h>>11), -53)
}
