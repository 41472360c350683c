package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// idemClaim is a running record of this process's. It is renewed until the handler
// has returned.
type idemClaim struct {
	x        *keyedCall
	revision uint64
	renewed  time.Time // when the last renewal that succeeded was begun

	stop context.CancelFunc
	done chan struct{} // closed when it is renewed no more
}

// claim takes the key for a run. Without one it returns the outcome that is known,
// or nil: another run has the key. waited: a failure that was about to expire has been
// given the time to.
func (x *keyedCall) claim(waited bool) (*idemClaim, *keyedOutcome) {
	store := x.h.scope.bus.tr.Store()
	ctx, cancel := context.WithTimeout(x.k, idemClaimTimeout)
	defer cancel()
	running := x.record(idemRunning).encode()
	for range idemTries {
		c := &idemClaim{x: x, renewed: time.Now()}
		var err error
		if c.revision, err = store.Create(ctx, x.key, running, leaseTTL); err == nil {
			return c, nil
		}
		if !errors.Is(err, transport.ErrExists) {
			return nil, x.unavailable(err)
		}
		e, err := store.Get(ctx, x.key)
		if errors.Is(err, transport.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, x.unavailable(err)
		}
		rec, err := parseIdemRecord(e.Value)
		if err != nil {
			return nil, x.unreadable(err)
		}
		if rec.Run == x.run && rec.State == idemRunning { // its answer was lost
			c.revision = e.Revision
			return c, nil
		}
		if standing, o := x.judge(&rec); standing != standFree {
			return nil, o
		}
		if rec.fading() && !waited {
			cancel()
			faded(x.k, store, x.key, e.Revision)
			return x.claim(true)
		}
		c.renewed = time.Now()
		if c.revision, err = store.Update(ctx, x.key, running, e.Revision, leaseTTL); err == nil {
			return c, nil
		}
		if !errors.Is(err, transport.ErrConflict) {
			return nil, x.unavailable(err)
		}
	}
	return nil, x.unavailable(fmt.Errorf("the record %q is changed by others all the time", x.key))
}

// hold renews the claim until release. A claim that is lost, or cannot be renewed in
// time, cancels the handler, by abort.
func (c *idemClaim) hold(abort func(error)) {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop, c.done = cancel, make(chan struct{})
	go func() {
		defer close(c.done)
		for wait := leaseRenew; sleep(ctx, min(wait, c.left())); {
			wait = leaseRetry
			began := time.Now()
			err := c.renew(ctx)
			switch {
			case err == nil:
				c.renewed, wait = began, leaseRenew
			case ctx.Err() != nil:
				return
			case errors.Is(err, ErrLeaseLost), c.left() <= 0:
				abort(ErrLeaseLost)
				return
			}
		}
	}()
}

// left is how long the claim surely lasts.
func (c *idemClaim) left() time.Duration { return time.Until(c.renewed.Add(idemFence)) }

// release ends the renewals.
func (c *idemClaim) release() {
	c.stop()
	<-c.done
}

// renew writes the running record again. ErrLeaseLost: another run has the key, or
// may have had it.
func (c *idemClaim) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(leaseRenew, c.left()))
	defer cancel()
	store, key := c.x.h.scope.bus.tr.Store(), c.x.key
	for {
		next, err := store.Update(ctx, key, c.x.record(idemRunning).encode(), c.revision, leaseTTL)
		if err == nil {
			c.revision = next
			return nil
		} else if !errors.Is(err, transport.ErrConflict) {
			return err
		}
		e, err := store.Get(ctx, key)
		if errors.Is(err, transport.ErrNotFound) {
			return ErrLeaseLost
		} else if err != nil {
			return err
		}
		if rec, err := parseIdemRecord(e.Value); err != nil || rec.Run != c.x.run {
			return ErrLeaseLost
		}
		c.revision = e.Revision // of a renewal whose answer was lost
	}
}

// conclude replaces the running record. ErrLeaseLost: it is not this run's any more,
// and nothing was written. A success also replaces another run's failure, which has
// freed the key, and is written where the claim has ended and nobody has the key.
func (c *idemClaim) conclude(rec idemRecord, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.x.k), idemRecordTimeout)
	defer cancel()
	store, key, v := c.x.h.scope.bus.tr.Store(), c.x.key, rec.encode()
	revision := c.revision
	for range idemTries {
		var err error
		if revision == 0 {
			_, err = store.Create(ctx, key, v, ttl)
		} else {
			_, err = store.Update(ctx, key, v, revision, ttl)
		}
		var size *transport.SizeError
		switch {
		case errors.As(err, &size) && rec.Result != nil:
			rec.NotKept, rec.Result = err.Error(), nil
			v = rec.encode()
			continue
		case !errors.Is(err, transport.ErrConflict) && !errors.Is(err, transport.ErrExists):
			return err
		}
		e, err := store.Get(ctx, key)
		if errors.Is(err, transport.ErrNotFound) {
			revision = 0
			continue
		} else if err != nil {
			return err
		}
		switch now, err := parseIdemRecord(e.Value); {
		case err != nil:
			return ErrLeaseLost
		case now.Run == rec.Run && now.State == rec.State: // its answer was lost
			return nil
		case now.Run == rec.Run:
			revision = e.Revision
		case now.State == idemFailed && rec.State == idemDone:
			if revision = e.Revision; now.fading() {
				faded(ctx, store, key, e.Revision)
			}
		default:
			return ErrLeaseLost
		}
	}
	return fmt.Errorf("the record %q is changed by others all the time", key)
}

// forget frees the key of a run that did not get as far as the handler.
func (c *idemClaim) forget() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.x.k), idemRecordTimeout)
	defer cancel()
	if err := c.x.h.scope.bus.tr.Store().Delete(ctx, c.x.key, c.revision); err != nil {
		c.x.h.scope.bus.log.Debug("idempotency key not freed; its claim ends by itself", "name", c.x.k.who.name, "err", err)
	}
}
