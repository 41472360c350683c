package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/metrics"
)

// Pay is a command. Its handler asks a provider that is not always there.
type Pay struct {
	bus.Command[bus.None]
	Order int
}

func (Pay) MessageName() string { return "order.pay" }

// OrderPaid is published for each payment, PageViewed by the hundred.
type OrderPaid struct{ Order int }

func (OrderPaid) MessageName() string { return "order.paid" }

type PageViewed struct{ Page int }

func (PageViewed) MessageName() string { return "page.viewed" }

// The provider is down for the last downFor of every downEvery.
const (
	downEvery = 20 * time.Second
	downFor   = 4 * time.Second
)

// queueSize is that of PublishAsync. It is a batch.
const queueSize = 100

type shop struct {
	b     *bus.Bus
	began time.Time
	order atomic.Int64
	seen  sightings
}

func (s *shop) isDown() bool { return time.Since(s.began)%downEvery >= downEvery-downFor }

// trade runs the shop until ctx ends, and returns what was seen of it.
func trade(ctx context.Context, b *bus.Bus) (*sightings, error) {
	s := &shop{b: b, began: time.Now().Add(downFor - downEvery + 3*time.Second)} // down after three seconds
	if err := s.register(ctx); err != nil {
		return &s.seen, err
	}
	var wg sync.WaitGroup
	for _, f := range []func(context.Context){s.customers, s.visitors, s.jobs} {
		wg.Go(func() { f(ctx) })
	}
	every(ctx, 50*time.Millisecond, func() { s.seen.look(metrics.Snapshot(b)) })
	wg.Wait()
	return &s.seen, nil
}

func (s *shop) register(ctx context.Context) error {
	err := bus.HandleNone(ctx, s.b, func(ctx context.Context, p Pay) error {
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(2*time.Millisecond)))
		if s.isDown() || rand.N(50) == 0 {
			return errors.New("the payment provider does not answer")
		}
		return bus.Publish(ctx, s.b, OrderPaid{Order: p.Order})
	})
	_, sub := bus.Subscribe(ctx, s.b, func(_ context.Context, e OrderPaid) error {
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(5*time.Millisecond)))
		switch {
		case e.Order%50 == 0:
			return bus.Permanent(errors.New("no such mailbox")) // a dead letter
		case rand.N(20) == 0:
			return errors.New("the mail server is busy") // and is asked again
		}
		return nil
	}, bus.WithGroup("mailer"))
	_, count := bus.SubscribeBatch(ctx, s.b, func(context.Context, []PageViewed) error {
		time.Sleep(10 * time.Millisecond)
		return nil
	}, bus.WithGroup("statistics"))
	return errors.Join(err, sub, count)
}

// customers pay.
func (s *shop) customers(ctx context.Context) {
	every(ctx, 5*time.Millisecond, func() {
		_ = bus.Do(ctx, s.b, Pay{Order: int(s.order.Add(1))}) // an error is a sight too
	})
}

// visitors come in bursts that are too much for the queue.
func (s *shop) visitors(ctx context.Context) {
	come := func(n int) {
		for i := range n {
			_, _ = bus.PublishAsync(ctx, s.b, PageViewed{Page: i}) // rejected, when it is full
		}
	}
	every(ctx, 500*time.Millisecond, func() {
		come(queueSize * 9 / 10) // which is no batch yet, and waits for one
		s.seen.look(metrics.Snapshot(s.b))
		come(5 * queueSize)
	})
}

// jobs have a session each.
func (s *shop) jobs(ctx context.Context) {
	n := 0
	every(ctx, time.Second, func() {
		n++
		_ = bus.InSession(ctx, s.b, fmt.Sprintf("job-%d", n), func(ctx context.Context, job *bus.Session) error {
			_, err := bus.Subscribe(ctx, job, func(context.Context, PageViewed) error { return nil })
			if err != nil {
				return err
			}
			time.Sleep(700 * time.Millisecond)
			return bus.Publish(ctx, job, PageViewed{})
		})
	})
}

// every calls f again and again until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f()
		}
	}
}
