package bus

import (
	"cmp"
	"context"

	"github.com/jitney-bus/jitney/transport"
)

// batchCall is one run of a batch handler: the context that it sees.
type batchCall struct {
	call
	r        *reader
	l        *listener
	flights  []*flight  // what the handler is given
	refused  []refusal  // what a middleware has taken out
	messages []*Message // of flights, until the handler runs; nil without middleware
}

func newBatchCall(l *listener, flights []*flight) *batchCall {
	f := flights[0]
	// What all share is the batch's; without one correlation it begins its own.
	shared := &transport.Message{Session: f.m.Session, CorrelationID: f.correlationID()}
	attempt := 0
	for _, f := range flights {
		if f.m.Session != shared.Session {
			shared.Session = ""
		}
		if f.correlationID() != shared.CorrelationID {
			shared.CorrelationID = ""
		}
		attempt = max(attempt, f.runs[0].attempt)
	}
	k := &batchCall{l: l, r: f.r}
	f.fill(&k.call, f.runs[0])
	k.from, k.msgID, k.attempt = shared, "", int32(attempt)
	return k
}

// correlationID is as in Meta.
func (f *flight) correlationID() string { return cmp.Or(f.m.CorrelationID, f.id) }

type batchKey struct{}

// batchFrom returns the batch that ctx belongs to, or nil.
func batchFrom(ctx context.Context) *batchCall {
	b, _ := ctx.Value(batchKey{}).(*batchCall)
	return b
}

// Value implements context.Context.
func (k *batchCall) Value(key any) any {
	if _, ok := key.(batchKey); ok {
		return k
	}
	return k.call.Value(key)
}

// itemCall is the call of one event of a batch, as a handler of that alone would have
// it.
func itemCall(f *flight) *call {
	c := new(call)
	f.fill(c, f.runs[0])
	return c
}

// item is the call of the event at index i, nil if there is none.
func (k *batchCall) item(i int) *call {
	if k == nil || i < 0 || i >= len(k.flights) {
		return nil
	}
	return itemCall(k.flights[i])
}

// run runs the handler in its chain. A panic is an error.
func (k *batchCall) run() error {
	if k.l.run == nil {
		return k.handle(k)
	}
	events, err := k.slice()
	if err != nil {
		return err
	}
	for _, f := range k.flights {
		k.messages = append(k.messages, itemCall(f).message(f.value))
	}
	m := k.message(events)
	m.in, m.Events = k, k.messages
	_, err = k.l.run(k, m)
	return err
}

// handle runs the handler itself, with the events that no middleware has refused.
func (k *batchCall) handle(ctx context.Context) error {
	k.sift()
	if len(k.flights) == 0 {
		return nil
	}
	events, err := k.slice()
	if err != nil {
		return err
	}
	return k.l.inner(ctx, events)
}

// sift takes out what a middleware has refused, once.
func (k *batchCall) sift() {
	kept := k.flights[:0:0]
	for i, m := range k.messages {
		if f := k.flights[i]; m.refused {
			k.refused = append(k.refused, refusal{f: f, err: m.refusal})
		} else {
			kept = append(kept, f)
		}
	}
	if k.messages != nil {
		k.flights, k.messages = kept, nil
	}
}

// slice returns the events as the handler takes them.
func (k *batchCall) slice() (any, error) {
	values := make([]any, len(k.flights))
	for i, f := range k.flights {
		values[i] = f.value
	}
	return k.l.batch.slice(values)
}
