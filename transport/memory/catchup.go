package memory

import (
	"context"
	"slices"

	"github.com/jitney-bus/jitney/transport"
)

// privateSource is a private reader.
type privateSource struct{ source }

var _ transport.CatchUpper = (*privateSource)(nil)

// catchUp is one goroutine in CatchUp. The transport's lock guards it until done
// is closed.
type catchUp struct {
	upTo   uint64 // the last event stored before the call
	left   int
	coming int // how many of the events up to there Next has still to hand out
	held   int // how many it has handed out that are unsettled
	err    error
	done   chan struct{}
}

// CatchUp implements transport.CatchUpper. What Config.MaxPrivate made the reader
// drop is not waited for.
func (s *privateSource) CatchUp(ctx context.Context, left int) error {
	t, q := s.t, s.q
	t.mu.Lock()
	if s.closed || t.closed {
		t.mu.Unlock()
		return transport.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		t.mu.Unlock()
		return err
	}
	c := &catchUp{upTo: t.log.seq, left: max(left, 0), held: q.held, done: make(chan struct{})}
	c.coming = q.fresh.n + q.again.n + q.delayed.len()
	if c.isOver() {
		t.mu.Unlock()
		return nil
	}
	q.catching = append(q.catching, c)
	t.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-c.done: // at the same time
		return c.err
	default:
		q.dropCatchUp(c)
		return ctx.Err()
	}
}

func (c *catchUp) isOver() bool { return c.coming == 0 && c.held <= c.left }

// moved tells those in CatchUp that an event has moved: how many more are to be
// handed out now, and how many more are handed out and unsettled.
func (q *queue) moved(e *entry, coming, held int) {
	for i := len(q.catching) - 1; i >= 0; i-- {
		c := q.catching[i]
		if e.seq > c.upTo {
			continue
		}
		c.coming += coming
		c.held += held
		if c.isOver() {
			q.dropCatchUp(c)
			close(c.done)
		}
	}
}

func (q *queue) dropCatchUp(c *catchUp) {
	q.catching = slices.DeleteFunc(q.catching, func(o *catchUp) bool { return o == c })
}

// endCatchUps tells those in CatchUp that the reader is closed.
func (q *queue) endCatchUps() {
	for _, c := range q.catching {
		c.err = transport.ErrClosed
		close(c.done)
	}
	q.catching = nil
}
