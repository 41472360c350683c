package bus

import (
	"fmt"
	"math"
)

// RedriveOption is an option of DeadLetters.Redrive and DeadLetters.RedriveAll.
type RedriveOption interface{ redrive(*redriveOptions) }

type redriveOptions struct {
	dryRun, force bool
	rate          float64 // a second; 0: as fast as it goes
	limit         int     // 0: all
	each          func(RedriveResult)
	edits         []func(DeadLetter) (content, error)
	errs          []error
}

func (o *redriveOptions) bad(format string, args ...any) {
	o.errs = append(o.errs, fmt.Errorf(format, args...))
}

type redriveOption func(*redriveOptions)

func (f redriveOption) redrive(o *redriveOptions) { f(o) }

// WithDryRun changes nothing: the results say what would be done, or why not. What
// only the doing can tell, such as that the transport refuses the copy, they do not
// know.
func WithDryRun() RedriveOption {
	return redriveOption(func(o *redriveOptions) { o.dryRun = true })
}

// WithForce redrives also what is refused because it may do harm: a command without an
// idempotency key, which may have taken effect before it failed, and does again; a message of a
// session that has ended; and a dead letter of which an interrupted redrive may have
// stored a copy with another body. It does not help where nobody is left that the
// copy could go to.
func WithForce() RedriveOption {
	return redriveOption(func(o *redriveOptions) { o.force = true })
}

// WithRedriveRate redrives at most so many a second, evenly spread. Fractions are
// fine: 0.1 is one in ten seconds. Default: as fast as the transport stores them.
func WithRedriveRate(perSecond float64) RedriveOption {
	return redriveOption(func(o *redriveOptions) {
		if !(perSecond > 0) || math.IsInf(perSecond, 1) {
			o.bad("rate %v is not a positive number", perSecond)
		}
		o.rate = perSecond
	})
}

// WithRedriveLimit ends RedriveAll when it has redriven n, to see how a few fare.
func WithRedriveLimit(n int) RedriveOption {
	return redriveOption(func(o *redriveOptions) {
		if n < 1 {
			o.bad("limit %d is less than 1", n)
		}
		o.limit = n
	})
}

// WithEach calls f with each result as it comes, on the caller's goroutine. To stop,
// cancel the context.
func WithEach(f func(RedriveResult)) RedriveOption {
	return redriveOption(func(o *redriveOptions) {
		if f == nil {
			o.bad("the function of WithEach is nil")
		}
		o.each = f
	})
}
