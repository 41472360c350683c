package bus

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/jitney-bus/jitney/transport"
)

const (
	// maxTelling bounds the DeadLettered that wait to be published.
	maxTelling = 1000
	// tellAtOnce is how many are published with one call.
	tellAtOnce = 64
)

// deadTeller publishes DeadLettered, on a goroutine of its own while there is
// anything to tell. What it cannot publish it logs: the dead letter is there.
type deadTeller struct {
	b    *Bus
	life context.Context // of what it publishes
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	waiting []news
	running bool
	closed  bool
}

// news is what is to be told, as a consequence of the message that failed.
type news struct {
	DeadLettered
	correlation string
}

func newDeadTeller(b *Bus) *deadTeller {
	t := &deadTeller{b: b}
	t.life, t.stop = context.WithCancel(context.Background())
	return t
}

// tell has a stored dead letter told. It does not wait.
func (t *deadTeller) tell(r *transport.DeadLetter) {
	if r.Message.To.Name == deadLetteredName {
		return // or a listener that fails would go on for ever
	}
	e := news{t.b.deadLettered(r), cmp.Or(r.Message.CorrelationID, r.Message.ID)}
	t.mu.Lock()
	room := !t.closed && len(t.waiting) < maxTelling
	if room {
		t.waiting = append(t.waiting, e)
		if !t.running {
			t.running = true
			t.wg.Go(t.run)
		}
	}
	t.mu.Unlock()
	if !room {
		t.untold(e, errors.New("too many wait to be published, or the bus has closed"))
	}
}

func (t *deadTeller) run() {
	for {
		t.mu.Lock()
		n := min(len(t.waiting), tellAtOnce)
		now := t.waiting[:n:n]
		if t.waiting = t.waiting[n:]; n == 0 {
			t.waiting, t.running = nil, false
		}
		t.mu.Unlock()
		if n == 0 {
			return
		}
		t.publish(now)
	}
}

func (t *deadTeller) publish(es []news) {
	ctx, cancel := context.WithTimeout(t.life, t.b.cfg.PublishTimeout)
	defer cancel()
	as := make([]announcement, 0, len(es))
	told := make([]news, 0, len(es))
	for _, e := range es {
		a, err := t.b.announcement("", deadLetteredID(e.ID), e.DeadLettered)
		if err != nil {
			t.untold(e, err)
			continue
		}
		if e.MessageID != "" {
			a.m.CausationID, a.m.CorrelationID = e.MessageID, e.correlation
		}
		as, told = append(as, a), append(told, e)
	}
	if len(as) == 0 {
		return
	}
	err := t.b.publishAll(ctx, as...)
	if err == nil {
		return
	}
	var pe *transport.PublishError
	each := errors.As(err, &pe) && len(pe.Outcomes) == len(told)
	for i, e := range told {
		switch {
		case !each:
			t.untold(e, err)
		case pe.Outcomes[i].Err != nil:
			t.untold(e, pe.Outcomes[i].Err)
		}
	}
}

func (t *deadTeller) untold(e news, err error) {
	t.b.log.Warn("dead letter stored but not told: DeadLettered is not published", "dead_letter", e.ID,
		"name", e.Name, "id", e.MessageID, "group", e.Group, "handler", e.Handler, "err", err)
}

// close publishes what waits, until ctx ends.
func (t *deadTeller) close(ctx context.Context) {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	defer context.AfterFunc(ctx, t.stop)()
	t.wg.Wait()
	t.stop()
}
