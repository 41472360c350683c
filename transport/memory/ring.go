package memory

// ring is a queue that reuses its memory. The zero value is empty.
type ring[T any] struct {
	items []T // the length is a power of two
	first int
	n     int
}

func (r *ring[T]) push(v T) {
	if r.n == len(r.items) {
		grown := make([]T, max(16, 2*r.n))
		copied := copy(grown, r.items[r.first:])
		copy(grown[copied:], r.items[:r.first])
		r.items, r.first = grown, 0
	}
	r.items[(r.first+r.n)&(len(r.items)-1)] = v
	r.n++
}

// pop removes the oldest; there must be one.
func (r *ring[T]) pop() T {
	var zero T
	v := r.items[r.first]
	r.items[r.first] = zero
	r.first = (r.first + 1) & (len(r.items) - 1)
	r.n--
	return v
}
