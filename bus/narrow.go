package bus

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/jitney-bus/jitney/transport"
)

// maxNarrow is the number of sessions that a private listener reads one by one.
// With more it reads all, and its filters do the rest.
const maxNarrow = 32

// narrowed returns the sessions that the filters of a private listener leave, if
// it is to read these only.
func narrowed(filters []Filter) (ids []string, ok bool) {
	for _, f := range filters {
		switch {
		case f.Sessions == nil:
		case !ok:
			ids, ok = slices.Clone(f.Sessions), true
		default:
			ids = slices.DeleteFunc(ids, func(id string) bool { return !slices.Contains(f.Sessions, id) })
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return ids, ok && len(ids) <= maxNarrow && !slices.Contains(ids, "")
}

// read subscribes at the transport. A private listener of the bus gets no more
// than its filters let pass by session.
func (s *scope) read(ctx context.Context, sub transport.Subscription, filters []Filter) (transport.Source[transport.Delivery], error) {
	ids, ok := narrowed(filters)
	if !ok || sub.Group != "" || sub.Session != "" {
		return s.bus.tr.Subscribe(ctx, sub)
	}
	var sources []transport.Source[transport.Delivery]
	for _, id := range ids {
		sub.Session = id
		src, err := s.bus.tr.Subscribe(ctx, sub)
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
			defer cancel()
			return nil, errors.Join(err, closeAll(ctx, sources))
		}
		sources = append(sources, src)
	}
	if len(sources) == 1 {
		return sources[0], nil
	}
	return newMerged(sources), nil
}

func closeAll(ctx context.Context, sources []transport.Source[transport.Delivery]) error {
	var errs []error
	for _, src := range sources {
		errs = append(errs, src.Close(ctx))
	}
	return errors.Join(errs...)
}

// merged reads several sources of private deliveries as one, and none as one that
// has ended. What each hands out stays in its order.
type merged struct {
	sources []transport.Source[transport.Delivery]
	items   chan item
	closing chan struct{} // closed by Close
	once    sync.Once
	ended   chan struct{} // closed when every source has ended
}

// item is what Next of a source returned.
type item struct {
	d   transport.Delivery
	err error
}

func newMerged(sources []transport.Source[transport.Delivery]) *merged {
	m := &merged{sources: sources, items: make(chan item), closing: make(chan struct{}), ended: make(chan struct{})}
	var wg sync.WaitGroup
	for _, src := range sources {
		wg.Go(func() { m.follow(src) })
	}
	go func() { // Close waits for it
		defer close(m.ended)
		wg.Wait()
	}()
	return m
}

// follow hands on the items of one source until it is closed.
func (m *merged) follow(src transport.Source[transport.Delivery]) {
	for {
		d, err := src.Next(context.Background())
		if errors.Is(err, transport.ErrClosed) {
			return
		}
		select {
		case m.items <- item{d, err}:
		case <-m.closing: // what a private source has not handed out ends with it
			return
		}
	}
}

// Next and Close implement transport.Source.
func (m *merged) Next(ctx context.Context) (transport.Delivery, error) {
	select {
	case it := <-m.items:
		return it.d, it.err
	case <-m.closing:
		return nil, transport.ErrClosed
	case <-m.ended:
		return nil, transport.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *merged) Close(ctx context.Context) error {
	m.once.Do(func() { close(m.closing) })
	err := closeAll(ctx, m.sources)
	select {
	case <-m.ended:
		return err
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	}
}
