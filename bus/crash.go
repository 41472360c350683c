package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// A process that is killed says nothing, and takes with it the event that killed it,
// those that ran beside it and those that waited in its buffer: all of them come again,
// delivered once more. So an event that has been delivered too often is a suspect and no
// more. Suspects run one at a time in a process, and leave a mark in the store while
// they do: one that comes with a mark was running when its process ended.

const (
	// crashSlack is how many deliveries beyond its attempts an event has before it is a
	// dead letter. The last of them is the one with a mark.
	crashSlack = 2

	crashPrefix = "crash."
	// crashTTL is how long a mark is kept: much longer than it takes until the event
	// comes again.
	crashTTL = 24 * time.Hour
)

// trial is what a suspect holds while it runs.
type trial struct {
	mark     string // its key in the store, "" for none
	isolated bool   // no other suspect runs in this process
}

// isSuspect reports whether the event has been delivered more often than its attempts
// and a crash account for. A private listener ends with its process.
func (f *flight) isSuspect() bool {
	limit := 0
	for _, run := range f.runs {
		limit = max(limit, run.l.retry.Attempts())
	}
	return f.d.Deliveries() >= limit+crashSlack && f.r.key.group != ""
}

// accuse marks a suspect, and returns an error for one that is marked already. The mark
// is gone when absolve returns.
func (f *flight) accuse() error {
	b := f.r.b
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.r.s.work), buryTimeout)
	defer cancel()
	key := crashPrefix + digest(f.r.key.group, f.r.key.name, f.m.Session, f.id,
		strconv.FormatUint(f.sequence(), 10), f.target, f.redriven())
	_, err := b.tr.Store().Create(ctx, key, []byte(strconv.Itoa(f.d.Deliveries())), crashTTL)
	switch {
	case err == nil:
		f.try().mark = key
	case errors.Is(err, transport.ErrExists):
		return fmt.Errorf("delivered %d times without being settled, and running when its process ended: its handler may be ending the process", f.d.Deliveries())
	default:
		b.log.Warn("event that may be ending its processes not marked; it runs all the same",
			"name", f.r.key.name, "id", f.id, "group", f.r.key.group, "deliveries", f.d.Deliveries(), "err", err)
	}
	return nil
}

// isolate waits until no other suspect runs in this process. It reports false if the
// reader closes meanwhile.
func (f *flight) isolate() bool {
	select {
	case f.r.b.suspects <- struct{}{}:
		f.try().isolated = true
		return true
	case <-f.r.stopping:
		return false
	}
}

func (f *flight) try() *trial {
	if f.trial == nil {
		f.trial = new(trial)
	}
	return f.trial
}

// absolve ends what isolate and accuse began: the process lives.
func (f *flight) absolve() {
	t := f.trial
	if t == nil {
		return
	}
	f.trial = nil
	if t.mark != "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(f.r.s.work), buryTimeout)
		defer cancel()
		if err := f.r.b.tr.Store().Delete(ctx, t.mark, 0); err != nil {
			f.r.b.log.Warn("mark of an event not deleted that did not end its process; if it is delivered again it is a dead letter",
				"name", f.r.key.name, "id", f.id, "group", f.r.key.group, "err", err)
		}
	}
	if t.isolated {
		<-f.r.b.suspects
	}
}

// tried are the flights that are not marked already; the others are refused. What was
// marked here is absolved by absolveAll.
func tried(flights []*flight) (left []*flight) {
	for _, f := range flights {
		if f != nil && f.isSuspect() {
			if err := f.accuse(); err != nil {
				f.refuse(CodeFailed, err)
				continue
			}
		}
		left = append(left, f)
	}
	return left
}

func absolveAll(flights []*flight) {
	for _, f := range flights {
		if f != nil {
			f.absolve()
		}
	}
}
