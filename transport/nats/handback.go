package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// A copy that goes back unrun is delivered again, and the server counts that like
// any redelivery. The group keeps its own count of hand-backs in the Store, under
// hb.<stream>.<consumer>.<sequence>, so that a shutdown never looks like a
// failure. It is written before the copy is given back and read only for a copy
// that was delivered before.

// handBackTTL is how long a hand-back is remembered where events have no age.
const handBackTTL = 7 * 24 * time.Hour

// handBackTry bounds writing or reading one record.
const handBackTry = 3 * time.Second

func (d *delivery) handBackKey() string {
	stream := "e"
	if d.p.retry {
		stream = "r"
	}
	return "hb." + stream + "." + d.p.consumer + "." + strconv.FormatUint(d.stored, 10)
}

// recordHandBack notes that d goes back unrun.
func (t *Transport) recordHandBack(ctx context.Context, d *delivery) error {
	ctx, cancel := context.WithTimeout(ctx, handBackTry)
	defer cancel()
	ttl := handBackTTL
	if t.cfg.MaxAge > 0 {
		ttl = max(min(t.cfg.MaxAge, 365*24*time.Hour), time.Minute)
	}
	key := d.handBackKey()
	for {
		if d.handed == 1 {
			_, err := t.store.Create(ctx, key, []byte("1"), ttl)
			if !errors.Is(err, transport.ErrExists) {
				return err
			}
		}
		e, err := t.store.Get(ctx, key)
		switch {
		case errors.Is(err, transport.ErrNotFound):
			_, err = t.store.Create(ctx, key, []byte("1"), ttl)
		case err == nil:
			n, convErr := strconv.Atoi(string(e.Value))
			if convErr != nil {
				n = 0
			}
			_, err = t.store.Update(ctx, key, []byte(strconv.Itoa(n+1)), e.Revision, ttl)
		}
		if !errors.Is(err, transport.ErrExists) && !errors.Is(err, transport.ErrConflict) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// countHandBacks finds out how many of d's deliveries were handed back unrun.
// If that cannot be read, every earlier one is taken for handed back: a failure
// is then counted late, which is better than counting one that was none.
func (t *Transport) countHandBacks(ctx context.Context, d *delivery) error {
	if d.counted || d.handed <= 1 {
		return nil
	}
	c, cancel := context.WithTimeout(ctx, handBackTry)
	defer cancel()
	e, err := t.store.Get(c, d.handBackKey())
	switch {
	case errors.Is(err, transport.ErrNotFound):
	case ctx.Err() != nil:
		return fmt.Errorf("count deliveries: %w", ctx.Err())
	case errors.Is(err, transport.ErrClosed):
		return err
	case err != nil:
		t.log.Warn("cannot read how often a delivery was handed back", "name", d.m.To.Name, "group", d.p.g.sub.Group, "err", err)
		d.back = d.handed - 1
	default:
		d.back, _ = strconv.Atoi(string(e.Value))
	}
	d.counted = true
	return nil
}
