package bus

import (
	"context"
	"sync"
	"time"
)

// keeper keeps the deliveries that a reader has taken alive: it extends them
// while they are handled or wait for a retry, cancels what runs for too long,
// and cancels what has lost its lease. One goroutine serves them all.
type keeper struct {
	ackWait, maxRun, slow time.Duration

	mu    sync.Mutex
	first *flight // in no order: the list is walked whole

	stop context.CancelFunc
	wg   sync.WaitGroup // loop, and the one extension of all that are due
}

// extendAtOnce bounds the extensions under way.
const extendAtOnce = 32

func newKeeper(r *reader) *keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{ackWait: r.b.cfg.AckWait, maxRun: r.b.cfg.MaxRun, slow: r.b.cfg.SlowHandler, stop: cancel}
	k.wg.Go(func() { k.loop(ctx) })
	return k
}

func (k *keeper) add(f *flight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f.next = k.first
	if k.first != nil {
		k.first.prev = f
	}
	k.first = f
}

func (k *keeper) remove(f *flight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case f.prev != nil:
		f.prev.next = f.next
	case k.first == f:
		k.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	}
	f.prev, f.next = nil, nil
}

// loop looks at every delivery six times in AckWait: often enough that one is
// extended a second and a third time before its lease ends, and that a handler
// whose lease has ended, after four fifths of AckWait, is cancelled before the
// rest of it is over. Nothing that the broker keeps waiting may delay that, so
// deliveries are extended beside it.
func (k *keeper) loop(ctx context.Context) {
	every := k.ackWait / 6
	t := time.NewTicker(every)
	defer t.Stop()
	var look <-chan time.Time
	if k.slow > 0 {
		t := time.NewTicker(slowLook(k.slow))
		defer t.Stop()
		look = t.C
	}
	extended := make(chan struct{}, 1)
	extended <- struct{}{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look:
			for _, f := range k.all() {
				f.tellSlow(now, k.slow)
			}
		case now := <-t.C:
			due := k.tend(now)
			if len(due) == 0 {
				continue
			}
			select {
			case <-extended:
				k.wg.Go(func() {
					k.extend(ctx, due, now, every)
					extended <- struct{}{}
				})
			default: // the broker is slow; those that are due stay so
			}
		}
	}
}

// tend cancels what has lost its lease or runs for too long, and returns what is
// to be extended.
func (k *keeper) tend(now time.Time) (due []*flight) {
	for _, f := range k.all() {
		lease := f.d.Lease()
		switch {
		case !lease.IsZero() && now.After(lease):
			f.lose()
		case f.abortOverrun(now, k.maxRun):
		case !lease.IsZero() && k.sinceExtended(f, now) >= k.ackWait/4:
			due = append(due, f)
		}
	}
	return due
}

// all returns the deliveries that are taken.
func (k *keeper) all() (all []*flight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for f := k.first; f != nil; f = f.next {
		all = append(all, f)
	}
	return all
}

func (k *keeper) sinceExtended(f *flight, now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Sub(f.began) - f.extended
}

// extend extends deliveries, some at once, for as long as timeout.
func (k *keeper) extend(ctx context.Context, due []*flight, now time.Time, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, extendAtOnce)
	for _, f := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f.d.Extend(ctx); err != nil {
				f.r.b.log.Debug("delivery not extended", "name", f.r.key.name, "id", f.id, "err", err)
				return
			}
			k.mu.Lock()
			f.extended = now.Sub(f.began)
			k.mu.Unlock()
		})
	}
	wg.Wait()
}

func (k *keeper) close() {
	k.stop()
	k.wg.Wait()
}
