package middleware

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/jitney-bus/jitney/bus"
)

// claim is one event of a batch whose run is the batch's.
type claim struct {
	key   string
	event *bus.Message
}

// errCopy is the error of an event whose copy is in the same batch.
var errCopy = errors.New("not handled: a copy of it is in the same batch")

// batch runs next with the events of a batch that have not succeeded within the
// window.
func (d *dedup) batch(ctx context.Context, m *bus.Message, next bus.Func) (v any, err error) {
	var claims []claim
	var done map[*bus.Message]bool
	defer func() { // also when the chain panics
		for _, c := range claims {
			d.release(c.key, done[c.event])
		}
	}()
	d.claimEach(ctx, m, &claims)
	v, err = next(ctx, m)
	done = succeeded(m.Events, err)
	if d.options.shared {
		for _, c := range claims {
			if done[c.event] {
				d.enter(ctx, c.event, c.key)
			}
		}
	}
	return v, err
}

// claimEach takes the runs of the events that are to be handled, and the others out
// of the batch. It takes them in one order everywhere, so that no two batches wait
// for each other.
func (d *dedup) claimEach(ctx context.Context, m *bus.Message, claims *[]claim) {
	type candidate struct {
		claim
		ctx context.Context
	}
	var all []candidate
	for i, e := range m.Events {
		if refused, _ := e.Refused(); !refused {
			ctx := bus.ItemContext(ctx, i)
			all = append(all, candidate{claim{keyOf(ctx, e), e}, ctx})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(a.key, b.key) })
	for _, c := range all {
		if n := len(*claims); n > 0 && (*claims)[n-1].key == c.key {
			c.event.Refuse(bus.RetryAfter(0, errCopy))
			continue
		}
		handled, err := d.claim(c.ctx, c.event, c.key)
		if !handled && err == nil {
			if handled, err = d.recall(c.ctx, c.event, c.key); !handled && err == nil {
				*claims = append(*claims, c.claim)
				continue
			}
			d.release(c.key, false)
		}
		c.event.Refuse(err) // nil if it is handled
	}
}

// succeeded returns the events of a batch that the rest of the chain was given and
// has handled, by what it returned. See bus.ItemErrors.
func succeeded(events []*bus.Message, err error) map[*bus.Message]bool {
	var given []*bus.Message
	for _, e := range events {
		if refused, _ := e.Refused(); !refused {
			given = append(given, e)
		}
	}
	var items bus.ItemErrors
	if err != nil && (!errors.As(err, &items) || len(items) == 0) {
		return nil
	}
	for i := range items {
		if i < 0 || i >= len(given) {
			return nil
		}
	}
	done := map[*bus.Message]bool{}
	for i, e := range given {
		done[e] = items[i] == nil
	}
	return done
}
