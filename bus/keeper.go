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
	ackWait, maxRun time.Duration

	mu    sync.Mutex
	first *flight // oldest first is not needed: the list is walked whole
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// extendAtOnce bounds the extensions under way.
const extendAtOnce = 32

func newKeeper(r *reader) *keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{ackWait: r.b.cfg.AckWait, maxRun: r.b.cfg.MaxRun, stop: cancel}
	k.wg.Go(func() { k.loop(ctx) })
	return k
}

func (k *keeper) add(f *flight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f.extended = f.began
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
// extended a second and a third time before its lease ends.
func (k *keeper) loop(ctx context.Context) {
	every := k.ackWait / 6
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			k.tend(ctx, now, every)
		}
	}
}

func (k *keeper) tend(ctx context.Context, now time.Time, timeout time.Duration) {
	var due []*flight
	k.mu.Lock()
	for f := k.first; f != nil; f = f.next {
		due = append(due, f)
	}
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, extendAtOnce)
	for _, f := range due {
		switch k.need(f, now) {
		case keepLost:
			f.lose()
		case keepOverrun:
			f.abort(ErrMaxRun)
		case keepExtend:
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := f.d.Extend(ctx); err != nil {
					f.r.b.log.Debug("delivery not extended", "name", f.r.key.name, "id", f.id, "err", err)
					return
				}
				k.mu.Lock()
				f.extended = now
				k.mu.Unlock()
			})
		}
	}
	wg.Wait()
}

type keepNeed uint8

const (
	keepNothing keepNeed = iota
	keepExtend
	keepLost
	keepOverrun
)

// need decides about one delivery.
func (k *keeper) need(f *flight, now time.Time) keepNeed {
	lease := f.d.Lease()
	if !lease.IsZero() && now.After(lease) {
		return keepLost
	}
	if f.overran(now, k.maxRun) {
		return keepOverrun
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !lease.IsZero() && now.Sub(f.extended) >= k.ackWait/4 {
		return keepExtend
	}
	return keepNothing
}

func (k *keeper) close() {
	k.stop()
	k.wg.Wait()
}
