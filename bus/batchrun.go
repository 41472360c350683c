package bus

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// handleBatch takes a batch through its listener.
func (r *reader) handleBatch(b *gathering) {
	var refusing sync.WaitGroup
	defer refusing.Wait()
	if len(b.refused) > 0 {
		refusing.Go(func() {
			for _, x := range b.refused {
				x.f.refuse(x.code, x.err)
			}
		})
	}
	if len(b.flights) == 0 {
		return
	}
	defer settleAll(b.flights) // also when the listener ends this goroutine
	r.runBatch(b.flights)
}

// runBatch runs a batch handler once and judges the outcome for each event.
func (r *reader) runBatch(flights []*flight) {
	l := flights[0].runs[0].l
	_, entered := flights[0].enter(l)
	if entered && r.s.expired("", "") != nil {
		l.leave()
		entered = false
	}
	if !entered {
		return // the verdict of a run that has none is to hand back
	}
	defer l.leave()
	k := newBatchCall(l, flights)
	var values []any
	for _, f := range flights {
		if f.begin(&k.call, true) {
			k.flights, values = append(k.flights, f), append(values, f.value)
		} else {
			f.runs[0].verdict = verdict{fate: fateLost}
		}
	}
	if len(k.flights) == 0 {
		return
	}
	k.events = int32(len(k.flights))
	began := time.Now()
	err := error(errGoexit)
	defer func() { k.judge(err, began) }()
	events, err := l.batch.slice(values)
	if err == nil {
		err = errGoexit
		err = sane(l.handleBatch(k, events))
	}
}

// handleBatch runs a batch handler. A panic is an error.
func (l *listener) handleBatch(k *batchCall, events any) (err error) {
	if l.run == nil {
		return l.inner(k, events)
	}
	m := k.message(events)
	m.Batch = len(k.flights)
	_, err = l.run(k, m)
	return err
}

// batchCall is one run of a batch handler.
type batchCall struct {
	call
	flights []*flight
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
	k := &batchCall{}
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

// item is the call of one event of the batch, as its handler alone would have it.
func (k *batchCall) item(i int) *call {
	c, f := new(call), k.flights[i]
	f.fill(c, f.runs[0])
	return c
}

// judge gives each event its verdict, when the handler has run.
func (k *batchCall) judge(err error, began time.Time) {
	r := k.flights[0].r
	stopping, aborted := context.Cause(r.s.work) != nil, k.aborted()
	results, whole := itemResults(err, len(k.flights))
	failed := false
	for i, f := range k.flights {
		f.finish(&k.call)
		run := f.runs[0]
		run.err = results[i]
		switch {
		case f.isLost():
			run.verdict = judge(run.err, run.attempt, run.l.retry, ErrLeaseLost, stopping)
		case run.err != nil && errors.Is(aborted, ErrLeaseLost):
			run.verdict = verdict{fate: fateReturn} // cut short because of another event
		default:
			run.verdict = judge(run.err, run.attempt, run.l.retry, nil, stopping)
		}
		if run.verdict.fate == fateReturn {
			continue
		}
		if r.b.observed() {
			r.b.observeHandled(k.item(i), f.value, began, run.err)
		}
		if run.err != nil && !whole {
			r.b.logFailure(k.item(i), run.err)
		}
		failed = failed || run.err != nil
	}
	if failed && whole {
		r.b.logFailure(&k.call, err)
	}
}

const (
	// settleAtOnce bounds the settlements of one batch that are under way.
	settleAtOnce = 16
	// slowSettle is from when on a settlement is taken to wait for the broker.
	slowSettle = 500 * time.Microsecond
)

// settleAll settles deliveries one after the other where that is only a message to
// the broker, and side by side where each has to be waited for.
func settleAll(flights []*flight) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1) - 1); i < len(flights); i = int(next.Add(1) - 1) {
			if f := flights[i]; f != nil {
				f.settle()
			}
		}
	}
	if len(flights) > 1 {
		slow := false
		for _, f := range flights {
			slow = slow || f == nil || len(f.runs) != 1 || f.runs[0].verdict.fate != fateDone
		}
		if !slow {
			began := time.Now()
			next.Store(1)
			flights[0].settle()
			slow = time.Since(began) > slowSettle
		}
		if slow {
			var wg sync.WaitGroup
			defer wg.Wait()
			for range min(settleAtOnce, len(flights)) - 1 {
				wg.Go(work)
			}
		}
	}
	work()
}
