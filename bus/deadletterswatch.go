package bus

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// DeadLetterNews is one new dead letter, as Watch tells it.
type DeadLetterNews struct {
	DeadLetter
	// Missed is how many came since the one before and were gone before Watch read
	// them: redriven, discarded, or dropped because there were too many. Whether the
	// filter would have let them pass is not known.
	Missed int
}

const (
	// watchEvery is how often Watch looks.
	watchEvery = time.Second
	// watchRetry is how long it waits when the transport does not answer.
	watchRetry = 5 * time.Second
)

// Watch yields the dead letters that match f as they come, from when the loop over
// it begins, the oldest first, until ctx ends:
//
//	for news, err := range b.DeadLetters().Watch(ctx, bus.DeadLetterFilter{}) {
//
// It looks once a second and keeps one page in memory: a loop that is slow misses
// nothing but what is gone by then, and is told how many those are. An error of
// CodeClosed or CodeInvalid is the last pair. Any other one is passing: a loop that
// goes on gets what came meanwhile. To resume where an earlier loop ended, List what
// came since then.
func (d *DeadLetters) Watch(ctx context.Context, f DeadLetterFilter) iter.Seq2[DeadLetterNews, error] {
	return func(yield func(DeadLetterNews, error) bool) {
		const op = "watch dead letters"
		if err := f.check(op); err != nil {
			yield(DeadLetterNews{}, err)
			return
		}
		w := deadWatch{d: d, f: f, yield: yield}
		for wait := time.Duration(0); wait == 0 || sleep(ctx, wait); {
			err := d.b.open(ctx, op, "")
			if err == nil {
				err = w.look(ctx, op)
			}
			switch {
			case w.left || ctx.Err() != nil:
				return
			case err == nil:
				wait = watchEvery
			case !yield(DeadLetterNews{}, err) || errors.Is(err, ErrClosed):
				return
			default:
				wait = watchRetry
			}
		}
	}
}

// deadWatch is one loop of Watch.
type deadWatch struct {
	d      *DeadLetters
	f      DeadLetterFilter
	yield  func(DeadLetterNews, error) bool
	begun  bool
	left   bool   // the loop was left
	after  uint64 // the last one that was read
	missed int
}

// look yields what has come.
func (w *deadWatch) look(ctx context.Context, op string) error {
	if !w.begun {
		st, err := w.d.stats(ctx, op)
		w.after, w.begun = st.Last, err == nil
		return err
	}
	for {
		all, err := w.d.read(ctx, op, transport.DeadLetterQuery{After: w.after, Limit: deadScan})
		if err != nil {
			return err
		}
		for _, r := range all {
			w.missed += int(r.Sequence - w.after - 1)
			w.after = r.Sequence
			l := w.d.b.deadLetter(r)
			if !w.f.match(l) {
				continue
			}
			if w.left = !w.yield(DeadLetterNews{l, w.missed}, nil); w.left {
				return nil
			}
			w.missed = 0
		}
		if len(all) < deadScan {
			return nil
		}
	}
}
