package bustest

import (
	"context"
	"slices"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// A bus tells of its dead letters after they are stored, and beside everything else:
// between the two nothing else may be on its way.

var deadLettered = bus.DeadLettered{}.MessageName()

// alarmWait is how long a DeadLettered is waited for. A dead letter that the test
// stores itself has none.
const alarmWait = time.Second

// alarm is a dead letter whose DeadLettered has not been published yet.
type alarm struct {
	of  *process
	end func()
}

// alarm counts a dead letter that a process has stored.
func (h *Harness) alarm(a alarm) {
	time.AfterFunc(alarmWait, a.end)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alarms = append(h.alarms, a)
}

// alarmed crosses out the first one: a DeadLettered is published, or has failed.
func (h *Harness) alarmed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.alarms) > 0 {
		h.alarms[0].end()
		h.alarms = h.alarms[1:]
	}
}

// silence crosses out those of a process that has closed.
func (h *Harness) silence(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alarms = slices.DeleteFunc(h.alarms, func(a alarm) bool {
		if a.of == p {
			a.end()
		}
		return a.of == p
	})
}

// DeadLetters are the driver's, with what is stored there counted.
func (p *process) DeadLetters() transport.DeadLetters {
	return deadLetters{p.Transport.DeadLetters(), p}
}

type deadLetters struct {
	transport.DeadLetters
	p *process
}

func (d deadLetters) Add(ctx context.Context, l *transport.DeadLetter) error {
	if l == nil || l.Message == nil || l.Message.To.Name == deadLettered {
		return d.DeadLetters.Add(ctx, l)
	}
	end := d.p.h.ledger.begin("a dead letter is being told")
	err := d.DeadLetters.Add(ctx, l)
	if err != nil {
		end()
		return err
	}
	d.p.h.alarm(alarm{d.p, end})
	return nil
}
