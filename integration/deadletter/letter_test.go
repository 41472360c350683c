package deadletter_test

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// letter is the record of an event that failed, as the bus makes it.
func letter(w *world.World, id string) *transport.DeadLetter {
	now := time.Now()
	m := &transport.Message{
		To: transport.Address{Name: "user.created"}, ID: "evt-" + id, CorrelationID: "evt-" + id, SentAt: now,
		Header: transport.Header{"Tenant": {"t1"}},
	}
	fill(w, m, world.UserCreated{ID: world.UserID(id)})
	return &transport.DeadLetter{
		ID: id, Message: m, Kind: "event", Group: "svc", Handler: "default", Code: "failed", Error: "oops",
		Attempts: 4, First: now, Last: now, Service: "svc", Host: "h", StreamSequence: 1,
	}
}

// fill gives m its content, the way the transport carries it.
func fill(w *world.World, m *transport.Message, e world.UserCreated) {
	if w.InProcess {
		m.Value = e
	} else {
		m.Body = fmt.Appendf(nil, `{"ID":%q,"Note":%q}`, e.ID, e.Note)
	}
}

// add stores records as they are.
func add(w *world.World, tr transport.Transport, ds ...*transport.DeadLetter) {
	w.Helper()
	for _, d := range ds {
		require.NoError(w, tr.DeadLetters().Add(w.Context(), d))
	}
}

// addNumbered stores the records from to to-1.
func addNumbered(w *world.World, tr transport.Transport, from, to int) {
	w.Helper()
	for i := from; i < to; i++ {
		add(w, tr, letter(w, fmt.Sprint(i)))
	}
}

func letterIDs(ls []bus.DeadLetter) []string {
	ids := make([]string, len(ls))
	for i, l := range ls {
		ids[i] = l.ID
	}
	return ids
}

// numbered is the ids from first to last, counting up or down.
func numbered(first, last int) []string {
	ids := []string{fmt.Sprint(first)}
	for first != last {
		if first < last {
			first++
		} else {
			first--
		}
		ids = append(ids, fmt.Sprint(first))
	}
	return ids
}
