package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
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

// A copy can also be lost on its way to a reader that closes: the server has
// picked it for the reader's last pull request when it learns that nobody listens.
// It hands the copy out again at once, and counts the first time, although nobody
// had it. The closing reader knows between which sequences that may have happened
// and records it under hb.<stream>.<consumer>.lost.

// maxLost is how many such ranges are remembered for one consumer.
const maxLost = 64

func (p *puller) handBackPrefix() string {
	stream := "e"
	if p.retry {
		stream = "r"
	}
	return "hb." + stream + "." + p.consumer + "."
}

func (d *delivery) handBackKey() string {
	return d.p.handBackPrefix() + strconv.FormatUint(d.stored, 10)
}

func (t *Transport) handBackTTL() time.Duration {
	if t.cfg.MaxAge > 0 {
		return max(min(t.cfg.MaxAge, 365*24*time.Hour), time.Minute)
	}
	return handBackTTL
}

// recordHandBack notes that d goes back unrun.
func (t *Transport) recordHandBack(ctx context.Context, d *delivery) error {
	ctx, cancel := context.WithTimeout(ctx, handBackTry)
	defer cancel()
	ttl := t.handBackTTL()
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
	back, err := t.handedBack(c, d)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("count deliveries: %w", ctx.Err())
	case errors.Is(err, transport.ErrClosed):
		return err
	case err != nil:
		t.log.Warn("cannot read how often a delivery was handed back", "name", d.m.To.Name, "group", d.p.g.sub.Group, "err", err)
		d.back = d.handed - 1
	default:
		d.back = back
	}
	d.counted = true
	return nil
}

// handedBack reads how many of d's deliveries ran nowhere.
func (t *Transport) handedBack(ctx context.Context, d *delivery) (n int, err error) {
	e, err := t.store.Get(ctx, d.handBackKey())
	if err == nil {
		n, _ = strconv.Atoi(string(e.Value))
	} else if !errors.Is(err, transport.ErrNotFound) {
		return 0, err
	}
	if d.handed-n <= 1 {
		return n, nil
	}
	e, err = t.store.Get(ctx, d.p.handBackPrefix()+"lost")
	if errors.Is(err, transport.ErrNotFound) {
		return n, nil
	}
	if inRanges(string(e.Value), d.stored) {
		n++
	}
	return n, err
}

// recordLost notes that copies from first to last may have been lost on their way
// to a reader that closed.
func (t *Transport) recordLost(ctx context.Context, p *puller, first, last uint64) error {
	key, r := p.handBackPrefix()+"lost", fmt.Sprintf("%d-%d", first, last)
	for {
		e, err := t.store.Get(ctx, key)
		switch {
		case errors.Is(err, transport.ErrNotFound):
			_, err = t.store.Create(ctx, key, []byte(r), t.handBackTTL())
		case err == nil:
			all := append(strings.Split(string(e.Value), ","), r)
			all = all[max(len(all)-maxLost, 0):]
			_, err = t.store.Update(ctx, key, []byte(strings.Join(all, ",")), e.Revision, t.handBackTTL())
		}
		if !errors.Is(err, transport.ErrExists) && !errors.Is(err, transport.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// inRanges says whether n is in a list such as "3-5,9-9".
func inRanges(list string, n uint64) bool {
	for r := range strings.SplitSeq(list, ",") {
		a, b, _ := strings.Cut(r, "-")
		first, err1 := strconv.ParseUint(a, 10, 64)
		last, err2 := strconv.ParseUint(b, 10, 64)
		if err1 == nil && err2 == nil && first <= n && n <= last {
			return true
		}
	}
	return false
}
