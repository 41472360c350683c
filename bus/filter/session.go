package filter

import (
	"fmt"
	"slices"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/session"
)

// Sessions passes events of these sessions; "" is what belongs to none. With up to
// 32 sessions, none of them "", a private subscription of the bus then hears these
// sessions only, and no other event crosses the network for it.
func Sessions(ids ...string) bus.Filter {
	label, err := sessions("sessions", ids)
	if err != nil {
		return bus.Filter{Name: label, Err: err}
	}
	ids = slices.Clone(ids)
	return bus.Filter{Name: label, Sessions: ids, Pass: func(m *bus.Message) bool { return slices.Contains(ids, m.Session) }}
}

// NotSessions passes events of other sessions than these, and those of none;
// NotSessions("") passes events that belong to any session.
func NotSessions(ids ...string) bus.Filter {
	label, err := sessions("not sessions", ids)
	if err != nil {
		return bus.Filter{Name: label, Err: err}
	}
	ids = slices.Clone(ids)
	return bus.Filter{Name: label, Pass: func(m *bus.Message) bool { return !slices.Contains(ids, m.Session) }}
}

func sessions(kind string, ids []string) (name string, err error) {
	quoted := make([]string, len(ids))
	for i, id := range ids {
		quoted[i] = fmt.Sprintf("%q", id)
		if id != "" && err == nil {
			err = session.Validate(id)
		}
	}
	if len(ids) == 0 {
		err = fmt.Errorf("give at least one session")
	}
	return label(kind, quoted), err
}
