package hostile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// TestForgedDeadLetters: whatever is stored where dead letters are can be listed,
// printed and removed, keeps no other one from it, and is redriven only if it says
// what to whom.
func TestForgedDeadLetters(t *testing.T) {
	l := newLab(t)
	js, err := l.nc.JetStream()
	require.NoError(t, err)
	forge := func(subject, header, body string) {
		t.Helper()
		require.Empty(t, l.raw(hpub(subject, header, body)), subject)
	}
	const where = "jitney.dlq.%s.event.shop.shop.order"
	kind := "Jitney-Dead-Kind: event"
	at := func(id string) string { return fmt.Sprintf(where, id) }
	n := 0
	for _, header := range []string{
		head(), head("no header at all"), "NATS/1.0\r\n\r\n\r\nJitney-Dead-Kind: event\r\n\r\n", "\x00\x01\xff", "NATS/1.0\r\nX: y\r\n",
		"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Subject: jitney.dlq.x.event.a.b\r\n\r\nhidden\r\n\r\n",
		"NATS/1.0\r\nNats-Sequence: 18446744073709551615\r\nNats-Subject: x\r\n\r\nhidden\r\n\r\n",
		"NATS/1.0 204\r\nNats-Num-Pending: 7\r\n\r\nhidden\r\n\r\n", "NATS/1.0\r\nStatus: 404\r\n\r\nhidden\r\n\r\n", head("Status: 204", "Nats-Num-Pending: 0"),
		head(kind, "Jitney-Dead-Code: \x1b[31mred", "Jitney-Dead-Error: %1B]0;owned%07%0D%0A", "Jitney-Dead-Handler: %1b[2J", "Jitney-Id: \x1b[A", "Jitney-Key: \u202eevil"),
		head(kind, kind), head(kind, "Jitney-Dead-Attempts: -1"), head(kind, "Jitney-Dead-Attempts: 99999999999999999999999"),
		head(kind, "Jitney-Dead-First: 0000-00-00", "Jitney-Dead-Last: 9999-12-31T23:59:59.999999999+23:59", "Jitney-Dead-Stream-Sequence: x"),
		head(kind, "Jitney-Dead-Error: %zz"), head("Jitney-Dead-Kind: neither\x1b[0m"), head("Jitney-Dead-Kind: session"),
		head(kind, "Jitney-Dead-Name: ../../etc/passwd", "Jitney-Dead-Group: *"), head(kind, "Jitney-Dead-Name: shop.order", "Jitney-Dead-Group: >"),
		head(kind, "Jitney-Dead-Name: shop.order", "Jitney-Dead-Group: shop", "Jitney-Dead-Header-%0D%0AX: y"),
		head(kind, "Jitney-Dead-Name: shop.order", "Jitney-Dead-Group: shop", "Jitney-Dead-Header-Nats-Rollup: all"),
		head(kind, "Jitney-Dead-Name: shop.order", "Jitney-Dead-Group: shop", "Jitney-Dead-Header-Jitney-Id: a", "Jitney-Dead-Header-%zz: b"),
		head(kind, "Jitney-Dead-Size: 99999999999", "Jitney-Dead-Left-Out: 5"), head(kind, "Jitney-Session: "+strings.Repeat("s", 500)),
		head(kind, "Jitney-History: ["+strings.Repeat("{},", 15_000)+"{}]"), head(kind, "Jitney-History: "+strings.Repeat("[", 60_000)),
		head(kind, "Jitney-Generation: 99999999999999999999", "Jitney-Edited: no", "Jitney-Redriven: *"),
	} {
		forge(at(fmt.Sprintf("F%d", n)), header, "{")
		n++
	}
	for _, subject := range []string{
		"jitney.dlq.x", "jitney.dlq.x.y", "jitney.dlq.a$b.event.shop.shop.order", "jitney.dlq._seq-1.event.shop.shop.order",
		"jitney.dlq." + strings.Repeat("i", 200) + ".event.a.b", "jitney.dlq.\u00fc.event.a.b", "jitney.dlq.x\x1b[31m.event.a.b",
	} {
		forge(subject, head(kind), "{}")
		n++
	}
	// The stream takes one after the other: when it has this one it has them all.
	l.keep(&natsgo.Msg{Subject: at("last"), Header: natsgo.Header{"Jitney-Dead-Kind": {"event"}}, Data: []byte("{}")})
	n++
	require.Greater(t, int(l.stored("JITNEY_DLQ")), n*9/10, "the server takes nearly all of it")
	n = int(l.stored("JITNEY_DLQ"))
	letters := l.letters(n)
	seen := map[string]bool{}
	for _, d := range letters {
		require.False(t, seen[d.ID], "%s is listed once", d.ID)
		seen[d.ID] = true
		printable(t, "id", d.ID)
		require.LessOrEqual(t, len(d.History), 8)
		require.GreaterOrEqual(t, d.Attempts, 0)
		_ = d.Header()
		_, err := bus.DeadLetterValue[Order](d)
		require.Error(t, err)
		got, err := l.bus.DeadLetters().Get(t.Context(), d.ID)
		require.NoError(t, err)
		require.Equal(t, d.String(), got.String())
	}
	newest, err := l.bus.DeadLetters().List(t.Context(), bus.DeadLetterQuery{Newest: true, Limit: 1000})
	require.NoError(t, err)
	require.Len(t, newest.Letters, n)
	small := 0
	for page, err := range l.bus.DeadLetters().All(t.Context(), bus.DeadLetterQuery{}) {
		require.NoError(t, err)
		require.Equal(t, letters[small].ID, page.ID)
		small++
	}
	require.Equal(t, n, small)
	count, err := l.bus.DeadLetters().Count(t.Context(), bus.DeadLetterFilter{Group: "shop"})
	require.NoError(t, err)
	require.Less(t, count, n)

	// One that is real, among them: it is redriven, and of the others what says enough.
	require.NoError(t, bus.Publish(t.Context(), l.bus, Order{ID: "fail-real"}))
	l.letters(n + 1)
	report, err := l.bus.DeadLetters().RedriveAll(t.Context(), bus.DeadLetterFilter{}, bus.WithForce())
	require.NoError(t, err)
	require.Equal(t, n+1, report.Redriven+report.Refused+report.Failed)
	require.GreaterOrEqual(t, report.Redriven, 1)
	for _, res := range report.Results {
		if res.Err != nil {
			printable(t, "error of a redrive", res.Err.Error())
			require.NotEmpty(t, bus.CodeOf(res.Err))
		} else if res.MessageID != "" && !errors.Is(res.Err, bus.ErrNotRedrivable) {
			require.Equal(t, "shop.order", res.Name)
		}
	}
	l.await(4, orderIs("fail-real"))
	for _, r := range l.all() {
		require.Equal(t, Order{ID: "fail-real"}, r.what, "nothing ran with what was forged")
	}
	l.goesOn()

	// What was redriven fails again, and is a dead letter a moment later.
	require.Eventually(t, func() bool {
		purged, err := l.bus.DeadLetters().Purge(t.Context(), bus.DeadLetterFilter{})
		require.NoError(t, err)
		return purged == 0
	}, patience, 20*time.Millisecond)
	_, err = js.StreamInfo("JITNEY_DLQ")
	require.NoError(t, err)
}

// TestForgedDeadCommand: a record of a command that never was is executed only by
// force, and then as what it says.
func TestForgedDeadCommand(t *testing.T) {
	l := newLab(t)
	forge := func(id, body string, lines ...string) {
		m := natsgo.NewMsg("jitney.dlq." + id + ".command._.shop.charge")
		for _, line := range lines {
			k, v, _ := strings.Cut(line, ": ")
			m.Header.Add(k, v)
		}
		m.Data = []byte(body)
		l.keep(m)
	}
	forge("C1", `{"Order":"forged"}`, "Jitney-Dead-Kind: command", "Jitney-Dead-Name: shop.charge")
	_, err := l.bus.DeadLetters().Redrive(t.Context(), "C1")
	require.ErrorIs(t, err, bus.ErrNotRedrivable)
	require.Empty(t, l.all())
	forge("C2", `{"Order":"forged"}`, "Jitney-Dead-Kind: command", "Jitney-Dead-Name: shop.charge", "Jitney-Idempotency-Key: "+strings.Repeat("k", 500))
	_, err = l.bus.DeadLetters().Redrive(t.Context(), "C2")
	require.Equal(t, bus.CodeInvalid, bus.CodeOf(err))
	require.Empty(t, l.all())
	forge("C3", `{"Order":"forged"}`, "Jitney-Dead-Kind: command", "Jitney-Dead-Name: shop.charge", "Jitney-Session: gone", "Jitney-Dead-To-Session: gone", "Jitney-Idempotency-Key: k")
	_, err = l.bus.DeadLetters().Redrive(t.Context(), "C3")
	require.ErrorIs(t, err, bus.ErrSessionClosed)
	forge("C4", `{`, "Jitney-Dead-Kind: command", "Jitney-Dead-Name: shop.charge")
	_, err = l.bus.DeadLetters().Redrive(t.Context(), "C4", bus.WithForce())
	require.Equal(t, bus.CodeInvalid, bus.CodeOf(err))
	require.Empty(t, l.all())
	l.goesOn()
}

// TestPrivateListener: events with headers that hide those of the server do not stop
// who hears events as they are stored, nor make it hear any twice.
func TestPrivateListener(t *testing.T) {
	l := newLab(t)
	other := l.open("other")
	heard := make(chan string, 1000)
	_, err := bus.Subscribe(t.Context(), other, func(_ context.Context, o Order) error {
		heard <- o.ID
		return nil
	}, bus.WithPrivate())
	require.NoError(t, err)
	expect := func(id string) {
		t.Helper()
		require.NoError(t, bus.Publish(t.Context(), l.bus, Order{ID: id}))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		select {
		case got := <-heard:
			require.Equal(t, id, got)
		case <-ctx.Done():
			require.Fail(t, "not heard", "%s; the log:\n%s", id, l.log.String())
		}
	}
	expect("first")
	for i, header := range []string{
		"NATS/1.0\r\nNats-Stream: JITNEY_EVT\r\nNats-Subject: " + orders + "\r\nNats-Sequence: 9000000000000000000\r\nNats-Last-Sequence: 0\r\n\r\nhidden\r\n\r\n",
		"NATS/1.0\r\nNats-Stream: JITNEY_EVT\r\nNats-Subject: " + orders + "\r\nNats-Sequence: 1\r\nNats-Last-Sequence: 0\r\n\r\nhidden\r\n\r\n",
		head("no header"), "NATS/1.0\r\n\r\nhidden\r\n\r\n", "\x00\x01",
		head("Nats-Stream: JITNEY_EVT", "Nats-Sequence: 9000000000000000000", "Nats-Last-Sequence: 9000000000000000000"),
	} {
		require.Empty(t, l.raw(hpub(orders, header, "{")))
		expect(fmt.Sprintf("after-%d", i))
	}
	// Stray messages where the server republishes are not of the stream.
	require.Empty(t, l.raw(hpub("jitney.live._.shop.order", head("Nats-Stream: OTHER", "Nats-Sequence: 9", "Nats-Last-Sequence: 9"), `{"ID":"stray"}`)))
	require.Empty(t, l.raw(hpub("jitney.live._.shop.order", head("Nats-Sequence: 9", "Nats-Last-Sequence: -9"), `{"ID":"stray"}`)))
	require.Empty(t, l.raw("PUB jitney.live._.shop.order 14\r\n{\"ID\":\"stray\"}\r\n"))
	expect("last")
	require.Empty(t, heard)
}
