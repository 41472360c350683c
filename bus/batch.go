package bus

import (
	"context"
	"fmt"
	"reflect"
	"time"
)

// SubscribeBatch registers fn as a listener that is given several events at once:
// up to 100 (WithBatchSize) or 1 MiB (WithBatchBytes), or what has come 100 ms
// after the first (WithLinger). It is Subscribe in everything that is not said
// here. One batch is handled at a time in this process, unless WithConcurrency
// says otherwise; its events are in the order in which they came.
//
// A batch handler has its group's interest in the event alone: another handler of
// the event in the same group and process is refused with CodeConflict, either
// way. In a session, and with WithPrivate, it stands beside the others.
//
// What fn returns decides for all events of the batch as Subscribe says: nil, an
// error, Permanent or RetryAfter; ItemErrors decides for each. Every event has its
// own attempts and dead letter. The last attempt of an event runs alone, so that
// none becomes a dead letter because of another one; a failure of the whole batch that
// the retry policy calls final (Final, Within) is followed by one more run of each,
// at once and alone. A panic is an error for all.
// What cannot be decoded, is invalid or is filtered does not reach fn and is dealt
// with alone.
//
// The metadata of the event at index i are MetaAt(ctx, i); MetaFrom tells nothing.
// What fn sends with its ctx belongs to the session and the correlation of the
// batch's events if they share one, and names no cause; sent with ItemContext(ctx,
// i) it is caused by that event. Middleware, of the bus and of the handler, wraps the
// batch as one message, with its events in Message.Events; filters see each event.
//
// Every event is kept alive from when it was fetched. When one loses its lease all
// the same, ctx is cancelled with ErrLeaseLost, and the others go back to the group
// without a failed attempt if fn then returns an error. Close hands a batch back
// that has not begun, and waits for one that runs.
func SubscribeBatch[E any](ctx context.Context, s Scope, fn func(context.Context, []E) error, opts ...BatchOption) (*Subscription, error) {
	if fn == nil {
		return nil, errorf(CodeInvalid, "subscribe", "", "batch handler of %v is nil", reflect.TypeFor[E]())
	}
	all := []SubscribeOption{subscribeOption(func(o *subscribeOptions) {
		o.concurrency = 1
		o.batch = &batching{size: defaultBatchSize, bytes: defaultBatchBytes, linger: defaultLinger, slice: slice[E]}
	})}
	for _, opt := range opts {
		all = append(all, subscribeOption(opt.batch))
	}
	return s.scope().subscribe(ctx, reflect.TypeFor[E](), func(ctx context.Context, v any) (err error) {
		defer recovered(&err)
		events, ok := v.([]E)
		if !ok {
			return errorf(CodeInvalid, "", "", "batch of type %T where the handler takes %T", v, events)
		}
		err = fn(ctx, events)
		if items, ok := err.(ItemErrors); ok && !items.any() {
			return nil // so that the chain sees a success
		}
		return err
	}, all)
}

const (
	defaultLinger = 100 * time.Millisecond
	maxBatchSize  = 10_000
)

// batching is what bounds the batches of a listener, and what they are made of.
type batching struct {
	size, bytes int
	linger      time.Duration
	slice       func(events []any) (any, error) // an []E
}

func slice[E any](events []any) (any, error) {
	es := make([]E, len(events))
	for i, v := range events {
		e, err := convert[E](v)
		if err != nil {
			return nil, err
		}
		es[i] = e
	}
	return es, nil
}

// WithBatchSize is how many events a batch has at the most, from 1 to 10,000 and
// not above Config.MaxAckPending. Default 100.
func WithBatchSize(n int) BatchOption {
	return batchOption(func(o *subscribeOptions) {
		if n < 1 || n > maxBatchSize {
			o.bad("batch size %d is not between 1 and %d", n, maxBatchSize)
		}
		o.batch.size = n
	})
}

// WithBatchBytes is how large the encoded events of a batch may be together, at
// least 1; a larger event is a batch of its own. Values that stay in the process
// are not measured. Default 1 MiB.
func WithBatchBytes(n int) BatchOption {
	return batchOption(func(o *subscribeOptions) {
		if n < 1 {
			o.bad("batch bytes %d is not positive", n)
		}
		o.batch.bytes = n
	})
}

// WithLinger is how long after the first event of a batch others are waited for,
// above 0. Default 100 ms.
func WithLinger(d time.Duration) BatchOption {
	return batchOption(func(o *subscribeOptions) {
		if d <= 0 {
			o.bad("linger %v is not positive", d)
		}
		o.batch.linger = d
	})
}

// checkBatch finds what no single option can see.
func (o *subscribeOptions) checkBatch(b *Bus) {
	if o.batch != nil && o.batch.size > b.cfg.MaxAckPending {
		o.bad("batch size %d is over Config.MaxAckPending %d: it would never be reached", o.batch.size, b.cfg.MaxAckPending)
	}
}

// MetaAt returns the metadata of the event at index i of the batch that is being
// handled in ctx, and false for an index that the batch does not have, and outside a
// batch handler.
func MetaAt(ctx context.Context, i int) (Meta, bool) {
	if k := batchFrom(ctx).item(i); k != nil {
		return k.meta(), true
	}
	return Meta{}, false
}

// ItemContext returns ctx as a handler of the event at index i alone would have it:
// MetaFrom, DerivedID and what is sent with it are that event's. It returns ctx
// itself for an index that the batch does not have, and outside a batch handler.
func ItemContext(ctx context.Context, i int) context.Context {
	if k := batchFrom(ctx).item(i); k != nil {
		return itemContext{ctx, k}
	}
	return ctx
}

type itemContext struct {
	context.Context
	item *call
}

// Value implements context.Context.
func (c itemContext) Value(key any) any {
	switch key.(type) {
	case callKey, sessionKey:
		return c.item
	}
	return c.Context.Value(key)
}

// ItemErrors is what a batch handler returns when only some events of the batch have
// failed: their errors, by index. The others are done. An error may be Permanent or
// RetryAfter; one that is nil is no failure, and an empty ItemErrors is success. It counts also where it is wrapped, and
// a Permanent or RetryAfter around it holds for each of its errors that is neither.
// With an index that the batch does not have all events have failed.
type ItemErrors map[int]error

// any reports whether an event has failed.
func (e ItemErrors) any() bool {
	for _, err := range e {
		if err != nil {
			return true
		}
	}
	return false
}

// Error says how many events have failed.
func (e ItemErrors) Error() string {
	n := 0
	for _, err := range e {
		if err != nil {
			n++
		}
	}
	if n == 1 {
		return "1 event of the batch failed"
	}
	return fmt.Sprintf("%d events of the batch failed", n)
}
