package nats

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

var _ transport.CatchUpper = (*liveReader)(nil)

// liveCatchUp is one goroutine in CatchUp.
//
// It asks the stream's leader what is stored; run makes sure that all of it is
// queued for Next, whatever was heard; from then on it counts what Next and the
// settlements still have to do.
type liveCatchUp struct {
	left int
	seq  uint64        // the last event that was stored before the call
	done chan struct{} // closed when nothing is left to wait for

	// r.mu guards the rest.
	upTo   uint64 // the place of that event, or of a later one that is out already
	coming int    // how many events up to there Next has still to hand out
	held   int    // how many it has handed out that are unsettled
	gone   bool   // the goroutine no longer waits
}

// CatchUp implements transport.CatchUpper. While the server cannot be reached it
// waits. What is stored until the server has answered is taken in.
func (r *liveReader) CatchUp(ctx context.Context, left int) error {
	if r.life.Err() != nil {
		return transport.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	c := &liveCatchUp{left: max(left, 0), upTo: r.newest, done: make(chan struct{})}
	r.mu.Unlock()
	var err error
	if c.seq, err = r.lastStored(ctx); err != nil {
		if r.life.Err() != nil {
			return transport.ErrClosed
		}
		return err
	}
	r.mu.Lock()
	r.asked = append(r.asked, c)
	r.mu.Unlock()
	r.wake()
	select {
	case <-c.done:
		return nil
	case <-r.life.Done():
		err = transport.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-c.done: // at the same time
		return nil
	default:
	}
	c.gone = true
	r.asked = slices.DeleteFunc(r.asked, c.is)
	r.catching = slices.DeleteFunc(r.catching, c.is)
	return err
}

func (c *liveCatchUp) is(o *liveCatchUp) bool { return o == c }

func (c *liveCatchUp) isOver() bool { return c.coming == 0 && c.held <= c.left }

// lastStored asks the leader for the sequence of the last event, 0 if there is
// none. It has the events of every Publish that returned.
func (r *liveReader) lastStored(ctx context.Context) (last uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.life, cancel)()
	err = r.c.try(ctx, fmt.Sprintf("catch up with %s", r.filter), func(ctx context.Context, js jetstream.JetStream) error {
		m, err := fromLeader(ctx, js, r.stream, msgRequest{LastFor: r.filter})
		switch {
		case err == nil:
			last = m.Sequence
		case !isNoMessage(err):
			return err
		}
		return nil
	})
	return last, err
}

// beginCatchUps takes those that wait for run, and reports whether some of them
// need more than what is queued already.
func (r *liveReader) beginCatchUps() bool {
	r.mu.Lock()
	r.begun = append(r.begun, r.asked...)
	r.asked = nil
	r.mu.Unlock()
	r.reachCatchUps(false)
	return len(r.begun) > 0
}

// reachCatchUps goes on with those whose events are all queued by now; at the end
// of the stream, with all of them.
//
// In a chain nothing is missing before an event that was heard. Otherwise only
// what was read or counted is sure. What is stored may also end before what was
// heard: then events were removed, or the stream is another one, which is known
// at its end only.
func (r *liveReader) reachCatchUps(end bool) {
	reached := r.sure
	if r.chain {
		reached = r.cur
	}
	r.begun = slices.DeleteFunc(r.begun, func(c *liveCatchUp) bool {
		queued := end || c.seq <= reached && r.base+c.seq >= c.upTo
		if queued {
			r.countCatchUp(c)
		}
		return queued
	})
}

// countCatchUp counts what c waits for; what moves afterwards is told by moved.
func (r *liveReader) countCatchUp(c *liveCatchUp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.gone {
		return
	}
	// Above cur only if the event was removed or the stream made anew.
	c.upTo = max(c.upTo, r.base+min(c.seq, r.cur))
	for d := range r.unsettled {
		switch {
		case d.place > c.upTo:
		case d.out:
			c.held++
		default:
			c.coming++
		}
	}
	for _, w := range r.again {
		if w.place <= c.upTo {
			c.coming++
		}
	}
	if c.isOver() {
		close(c.done)
	} else {
		r.catching = append(r.catching, c)
	}
}

// handOut notes that Next returns d.
func (r *liveReader) handOut(d *liveDelivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.out = true
	r.moved(d.place, -1, +1)
}

// moved tells those in CatchUp that an event has moved: how many more are to be
// handed out now, and how many more are handed out and unsettled. The caller holds
// r.mu.
func (r *liveReader) moved(place uint64, coming, held int) {
	for i := len(r.catching) - 1; i >= 0; i-- {
		c := r.catching[i]
		if place > c.upTo {
			continue
		}
		c.coming += coming
		c.held += held
		if c.isOver() {
			r.catching = slices.Delete(r.catching, i, i+1)
			close(c.done)
		}
	}
}
