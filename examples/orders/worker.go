package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// worker handles the commands. Several processes share them.
type worker struct {
	b       *bus.Bus
	name    string
	work    time.Duration // how long a row takes, at least
	handled atomic.Int64
}

// start registers the handler, which is live from then on.
func (w *worker) start(ctx context.Context, concurrency int) error {
	return bus.Handle(ctx, w.b, w.importOrder, bus.WithConcurrency(concurrency))
}

// importOrder is idempotent: what it does for a row is to store one event under
// the row's own id. A shop would write to its database here, with the order's id
// as the key.
func (w *worker) importOrder(ctx context.Context, c ImportOrder) (Accepted, error) {
	if w.work > 0 && !sleep(ctx, w.work) {
		return Accepted{}, context.Cause(ctx)
	}
	o := c.Order
	err := bus.Publish(ctx, w.b, OrderImported{
		Job: c.Job, Line: c.Line, OrderID: o.ID, Total: o.Total(), Currency: o.Currency, Worker: w.name,
	}, bus.WithID(rowKey(c.Job, o.ID)))
	if err != nil {
		return Accepted{}, err
	}
	w.handled.Add(1)
	return Accepted{Worker: w.name}, nil
}
