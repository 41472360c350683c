package bus

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/jitney-bus/jitney/transport"
)

// DeadLetterQuery selects dead letters and their order. The zero value selects all,
// the oldest first.
type DeadLetterQuery struct {
	DeadLetterFilter
	// Newest lists from the newest to the oldest, as they were stored.
	Newest bool
	// Limit is how many a page has at most. Default 100.
	Limit int
	// Cursor is the Next of the page before, of a query of the same order; "" starts
	// at the end that Newest chooses.
	Cursor string
}

// DeadLetterPage is one page of a listing.
type DeadLetterPage struct {
	Letters []DeadLetter
	// Next is the Cursor of the next page, "" if nothing is left. A page that has a
	// Next is full; what is left may not match any more.
	Next string
}

const (
	defaultDeadPage = 100
	// deadScan is how many dead letters are read from the transport at a time. Each
	// may be as large as a message.
	deadScan = 32
)

// List returns one page of the dead letters that match q. Dead letters that come
// and go between two pages shift nothing: a page begins behind the last one of the
// page before. With a filter that few match it reads many until the page is full;
// ctx bounds that. It is as current as the transport: on NATS one that was removed a
// moment ago may still be listed.
func (d *DeadLetters) List(ctx context.Context, q DeadLetterQuery) (DeadLetterPage, error) {
	const op = "list dead letters"
	var page DeadLetterPage
	after, err := d.prepare(ctx, op, &q)
	if err != nil {
		return page, err
	}
	if q.Limit == 0 {
		q.Limit = defaultDeadPage
	}
	for {
		n := deadScan
		if q.DeadLetterFilter.isZero() {
			n = min(n, q.Limit-len(page.Letters))
		}
		all, err := d.read(ctx, op, transport.DeadLetterQuery{After: after, Newest: q.Newest, Limit: n})
		if err != nil {
			return DeadLetterPage{}, err
		}
		for i, r := range all {
			after = r.Sequence
			if l := d.b.deadLetter(r); q.match(l) {
				page.Letters = append(page.Letters, l)
			}
			if len(page.Letters) == q.Limit {
				if i < len(all)-1 || len(all) == n {
					page.Next = cursor(after, q.Newest)
				}
				return page, nil
			}
		}
		if len(all) < n {
			return page, nil
		}
	}
}

// All goes through the dead letters that match q and were there when it began, page
// by page, so that any number of them takes little memory:
//
//	for d, err := range b.DeadLetters().All(ctx, bus.DeadLetterQuery{}) {
//
// q.Limit is how many there are at most, by default all. An error is the last pair.
func (d *DeadLetters) All(ctx context.Context, q DeadLetterQuery) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		const op = "list dead letters"
		after, err := d.prepare(ctx, op, &q)
		n := 0
		if err == nil {
			err = d.walk(ctx, op, after, q.DeadLetterFilter, q.Newest, func(l DeadLetter) bool {
				n++
				return yield(l, nil) && n != q.Limit
			})
		}
		if err != nil {
			yield(DeadLetter{}, err)
		}
	}
}

// prepare checks a query, and returns the sequence behind which it begins.
func (d *DeadLetters) prepare(ctx context.Context, op string, q *DeadLetterQuery) (after uint64, err error) {
	if err := d.b.open(ctx, op, ""); err != nil {
		return 0, err
	}
	if err := q.check(op); err != nil {
		return 0, err
	}
	if q.Limit < 0 {
		return 0, errorf(CodeInvalid, op, "", "limit %d is negative; 0 is the default", q.Limit)
	}
	after, err = parseCursor(q.Cursor, q.Newest)
	if err != nil {
		return 0, errorf(CodeInvalid, op, "", "%w", err)
	}
	return after, nil
}

// scan calls f for each dead letter that matches and was there when it began, until
// f returns false.
func (d *DeadLetters) scan(ctx context.Context, op string, filter DeadLetterFilter, newest bool, f func(DeadLetter) bool) error {
	if err := d.b.open(ctx, op, ""); err != nil {
		return err
	}
	if err := filter.check(op); err != nil {
		return err
	}
	return d.walk(ctx, op, 0, filter, newest, f)
}

// walk is scan from behind a sequence.
func (d *DeadLetters) walk(ctx context.Context, op string, after uint64, filter DeadLetterFilter, newest bool, f func(DeadLetter) bool) error {
	var last uint64 // what comes later is not looked at, so that it ends
	if !newest {
		st, err := d.stats(ctx, op)
		if last = st.Last; err != nil || last == 0 {
			return err
		}
	}
	for {
		all, err := d.read(ctx, op, transport.DeadLetterQuery{After: after, Newest: newest, Limit: deadScan})
		if err != nil {
			return err
		}
		for _, r := range all {
			after = r.Sequence
			if last > 0 && after > last {
				return nil
			}
			if l := d.b.deadLetter(r); filter.match(l) && !f(l) {
				return nil
			}
		}
		if len(all) < deadScan {
			return nil
		}
	}
}

// read reads one page of the transport.
func (d *DeadLetters) read(ctx context.Context, op string, q transport.DeadLetterQuery) ([]*transport.DeadLetter, error) {
	ctx, cancel := d.step(ctx)
	defer cancel()
	all, err := d.b.tr.DeadLetters().List(ctx, q)
	return all, fromDeadLetters(op, "", err)
}

// cursor names a place in a listing.
func cursor(seq uint64, newest bool) string {
	if newest {
		return "n" + strconv.FormatUint(seq, 36)
	}
	return "o" + strconv.FormatUint(seq, 36)
}

func parseCursor(s string, newest bool) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	number, ok := strings.CutPrefix(s, cursor(0, newest)[:1])
	seq, err := strconv.ParseUint(number, 36, 64)
	if !ok || err != nil || seq == 0 {
		return 0, fmt.Errorf("cursor %q is not the Next of a page of this order", s)
	}
	return seq, nil
}
