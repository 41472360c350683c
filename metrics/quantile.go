package metrics

import (
	"maps"
	"math"
	"slices"

	dto "github.com/prometheus/client_model/go"
)

// native is the native buckets of a histogram. Bucket i holds what is above
// 2^((i-1)/2^schema) and not above 2^(i/2^schema).
type native struct {
	schema int32
	zero   uint64
	counts map[int]uint64
}

// nativeOf reads the positive buckets of h: times are never negative.
func nativeOf(h *dto.Histogram) native {
	n := native{schema: h.GetSchema(), zero: h.GetZeroCount(), counts: map[int]uint64{}}
	index, count, next := 0, int64(0), 0
	for _, span := range h.GetPositiveSpan() {
		index += int(span.GetOffset())
		for range span.GetLength() {
			count += h.GetPositiveDelta()[next]
			next++
			n.counts[index] += uint64(count)
			index++
		}
	}
	return n
}

// merge adds o to n, at the coarser of their resolutions.
func (n native) merge(o native) native {
	schema := min(n.schema, o.schema)
	sum := native{schema: schema, zero: n.zero + o.zero, counts: map[int]uint64{}}
	for _, part := range []native{n, o} {
		for i, c := range part.counts {
			sum.counts[coarser(i, part.schema-schema)] += c
		}
	}
	return sum
}

// coarser is the bucket that holds bucket i at a schema that is smaller by steps.
func coarser(i int, steps int32) int { return (i-1)>>steps + 1 }

// quantile estimates what a share q of all is not above, as the geometric middle of
// the bucket that has it. So it is off by the root of a bucket's factor at the most,
// 4.5 % at a factor of 1.1, whatever the distribution is. It is 0 if there is
// nothing.
func (n native) quantile(q float64) float64 {
	total := n.zero
	for _, c := range n.counts {
		total += c
	}
	if total == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(total))), 1)
	seen := n.zero
	if rank <= seen {
		return 0
	}
	for _, i := range slices.Sorted(maps.Keys(n.counts)) {
		if seen += n.counts[i]; rank <= seen {
			return math.Exp2((float64(i) - 0.5) / math.Exp2(float64(n.schema)))
		}
	}
	return math.NaN() // not to be reached
}
