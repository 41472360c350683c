package hostile

import (
	"context"
	"fmt"
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

const charges = "jitney.cmd._.shop.charge"

// request sends a command with any header block, and returns the reply.
func (l *lab) request(subject, header, body string) *natsgo.Msg {
	l.Helper()
	inbox := l.nc.NewInbox()
	sub, err := l.nc.SubscribeSync(inbox)
	require.NoError(l, err)
	require.NoError(l, l.nc.Flush())
	defer sub.Unsubscribe()
	if header == "" {
		require.Empty(l, l.raw(fmt.Sprintf("PUB %s %s %d\r\n%s\r\n", subject, inbox, len(body), body)))
	} else {
		require.Empty(l, l.raw(hpub(subject+" "+inbox, header, body)))
	}
	reply, err := sub.NextMsg(patience)
	require.NoError(l, err)
	return reply
}

// TestCommands: a command that is not one gets the error invalid, and the handler has
// not run.
func TestCommands(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct{ name, header, body string }{
		{"no body", "", ""},
		{"cut off", "", `{"Order":"x`},
		{"100,000 arrays", "", strings.Repeat("[", 100_000)},
		{"a number that is too large", "", `{"N":1e99}`},
		{"of an unknown type", head("Content-Type: text/x-evil\x1b[31m"), `{"Order":"x"}`},
		{"of two types", head("Content-Type: application/json", "Content-Type: application/json"), `{"Order":"x"}`},
		{"two ids", head("Jitney-Id: a", "Jitney-Id: b"), `{"Order":"x"}`},
		{"a session that is too long", head("Jitney-Session: " + strings.Repeat("s", 129)), `{"Order":"x"}`},
		{"two timeouts", head("Jitney-Timeout: 1000", "Jitney-Timeout: 1000"), `{"Order":"x"}`},
		{"no timeout", head("Jitney-Timeout: soon"), `{"Order":"x"}`},
		{"a negative timeout", head("Jitney-Timeout: -1"), `{"Order":"x"}`},
		{"a timeout over all", head("Jitney-Timeout: 99999999999999999999"), `{"Order":"x"}`},
		{"a bad escape", head("Jitney-Escaped: 1", "X: %0"), `{"Order":"x"}`},
		{"headers that cannot be read", head("no header"), `{"Order":"x"}`},
		{"an empty idempotency key", head("Jitney-Idempotency-Key: "), `{"Order":"x"}`},
		{"an idempotency key with control characters", head("Jitney-Escaped: 1", "Jitney-Idempotency-Key: a%0D%0Ab%1B[31m"), `{"Order":"x"}`},
		{"an idempotency key that is no text", head("Jitney-Idempotency-Key: \xff"), `{"Order":"x"}`},
		{"an idempotency key that is too long", head("Jitney-Idempotency-Key: " + strings.Repeat("k", 129)), `{"Order":"x"}`},
		{"two idempotency keys", head("Jitney-Idempotency-Key: a", "Jitney-Idempotency-Key: b"), `{"Order":"x"}`},
	} {
		reply := l.request(charges, c.header, c.body)
		require.Equal(t, "invalid", reply.Header.Get("Jitney-Error"), c.name)
		printable(t, c.name, fmt.Sprint(reply.Header))
		printable(t, c.name, string(reply.Data))
		require.Empty(t, l.all(), c.name)
	}
	l.goesOn()
	l.letters(0)
}

// TestSpoofedCommandHeaders: what says that a message is a retry or a dead letter says
// nothing on a command.
func TestSpoofedCommandHeaders(t *testing.T) {
	l := newLab(t)
	var lines []string
	for _, line := range spoofed {
		if !strings.HasPrefix(line, "Jitney-Idempotency-Key") && !strings.HasPrefix(line, "Jitney-Timeout") {
			lines = append(lines, line)
		}
	}
	reply := l.request(charges, head(lines...), `{"Order":"spoofed"}`)
	require.Empty(t, reply.Header.Get("Jitney-Error"))
	require.Equal(t, `"spoofed"`, string(reply.Data))
	require.Equal(t, "shop", reply.Header.Get("Jitney-Service"), "it asked for a receipt")
	m := l.await(1, chargeIs("spoofed"))[0].meta
	require.Equal(t, 1, m.Attempt)
	require.Empty(t, m.Group)
	require.Empty(t, m.Session)
	l.goesOn()
}

// TestConfusedDeputy: a server answers to inboxes. A reply subject that is the bus's
// or the server's own would make it publish what its caller may not.
func TestConfusedDeputy(t *testing.T) {
	l := newLab(t)
	l.goesOn()
	before := l.stored("JITNEY_EVT")
	for i, reply := range []string{
		"jitney.evt._.shop.order", "jitney.evt._.x", "jitney.due._.shop.order", "jitney.retry.shop.shop.order", "jitney.sched.x",
		"jitney.dlq.x.event.shop.shop.order", charges, "jitney.live._.shop.order", "jitney.x",
		"$JS.API.STREAM.DELETE.JITNEY_EVT", "$KV.JITNEY_STATE.owner.shop.charge", "$SYS.REQ.SERVER.PING", "$JS.ACK.x", "$SRV.PING",
	} {
		order := fmt.Sprintf("deputy-%d", i)
		require.NoError(t, l.nc.PublishRequest(charges, reply, fmt.Appendf(nil, `{"Order":%q}`, order)))
		require.NoError(t, l.nc.PublishRequest(charges, reply, []byte(`{`)))
		require.NoError(t, l.nc.PublishRequest("$SRV.PING", reply, nil))
		require.NoError(t, l.nc.PublishRequest("$SRV.INFO", reply, nil))
		require.NoError(t, l.nc.Flush())
		l.ask(order + "-after") // on the same connection: those before have arrived
		found, _ := l.runs(chargeIs(order))
		require.Empty(t, found, reply)
	}
	require.Equal(t, before, l.stored("JITNEY_EVT"), "nothing was published")
	require.Zero(t, l.stored("JITNEY_RETRY"))
	l.letters(0)
	l.goesOn()
	// Without a reply subject there is nobody to tell.
	require.NoError(t, l.nc.Publish(charges, []byte(`{"Order":"no-reply"}`)))
	l.await(1, chargeIs("no-reply"))
	l.goesOn()
}

// TestForgedReplies: whatever answers a command, its caller gets a result or a typed
// error, and nothing to print.
func TestForgedReplies(t *testing.T) {
	l := newLab(t)
	caller := l.open("caller")
	type forged struct{ name, header, body string }
	cases := []forged{
		{"nothing", "", ""},
		{"another type", "", `{"a":1}`},
		{"cut off", "", `"ab`},
		{"100,000 arrays", "", strings.Repeat("[", 100_000)},
		{"an unknown content type", head("Content-Type: \x1b[31mx"), `"a"`},
		{"an error without a body", head("Jitney-Error: failed"), ""},
		{"an error that is not JSON", head("Jitney-Error: failed"), "\x1b[2J"},
		{"an error with a code that is none", head("Jitney-Error: \x1b[31m no code"), `{"code":"x","message":"m"}`},
		{"an error with an empty code", head("Jitney-Error: "), `{}`},
		{"an error of an error", head("Jitney-Error: failed"), `{"error":"jitney.idempotency_conflict","attempts":-5,"details":{"a":null}}`},
		{"an error of 900,000 bytes", head("Jitney-Error: failed"), `{"message":"` + strings.Repeat("m", 900_000) + `"}`},
		{"two errors", head("Jitney-Error: failed", "Jitney-Error: panic"), `{}`},
		{"two ids", head("Jitney-Id: a", "Jitney-Id: b"), `"a"`},
		{"two content types", head("Content-Type: a/b", "Content-Type: a/b"), `"a"`},
		{"a bad escape", head("Jitney-Escaped: 1", "Jitney-Error: %zz"), `"a"`},
		{"headers that cannot be read", head("no header"), `"a"`},
		{"half a status", "NATS/1.0 5\r\n\r\n", ""},
		{"a status", "NATS/1.0 404 Not Found\r\n\r\n", ""},
		{"noise", "\x00\xff", ""},
	}
	next := make(chan forged, 1)
	sub, err := l.nc.QueueSubscribe("jitney.cmd._.shop.refund", "jitney", func(m *natsgo.Msg) {
		c := <-next
		if c.header == "" {
			l.raw(fmt.Sprintf("PUB %s %d\r\n%s\r\n", m.Reply, len(c.body), c.body))
			return
		}
		l.raw(hpub(m.Reply, c.header, c.body))
	})
	require.NoError(t, err)
	defer sub.Unsubscribe()
	require.NoError(t, l.nc.Flush())
	for _, c := range cases {
		next <- c
		_, err := bus.Execute(t.Context(), caller, Refund{Order: "x"})
		var e *bus.Error
		require.ErrorAs(t, err, &e, c.name)
		require.NotEmpty(t, e.Code, c.name)
		printable(t, c.name, err.Error())
		printable(t, c.name, string(bus.CodeOf(err)))
		require.Less(t, len(err.Error()), 1<<20)
	}
	next <- forged{body: `"well"`}
	got, err := bus.Execute(t.Context(), caller, Refund{Order: "x"})
	require.NoError(t, err)
	require.Equal(t, "well", got)

	// Two answers, and one to a request that nobody has made.
	twice, err := l.nc.QueueSubscribe("jitney.cmd._.shop.ship", "jitney", func(m *natsgo.Msg) {
		number := strings.LastIndexByte(strings.Join(strings.Split(m.Reply, ".")[:2], "."), '.')
		_ = l.nc.Publish(m.Reply[:number]+".zzzz.0.id", []byte(`"nobody's"`))
		_ = l.nc.Publish(m.Reply, []byte(`"first"`))
		_ = l.nc.Publish(m.Reply, []byte(`"second"`))
	})
	require.NoError(t, err)
	defer twice.Unsubscribe()
	require.NoError(t, l.nc.Flush())
	for range 20 {
		got, err := bus.Execute(t.Context(), caller, Ship{Order: "x"})
		require.NoError(t, err)
		require.Equal(t, "first", got)
	}
}

// Refund and Ship are commands that the attacker serves.
type Refund struct {
	bus.Command[string]
	Order string
}

func (Refund) MessageName() string { return "shop.refund" }

type Ship struct {
	bus.Command[string]
	Order string
}

func (Ship) MessageName() string { return "shop.ship" }

// TestSessions: a session's handlers get what names the session, and nothing that
// only looks like it.
func TestSessions(t *testing.T) {
	l := newLab(t)
	s, err := l.bus.Session(t.Context(), "a*>b")
	require.NoError(t, err)
	own := make(chan string, 100)
	_, err = bus.Subscribe(t.Context(), s, func(_ context.Context, o Order) error {
		own <- o.ID
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, bus.Handle(t.Context(), s, func(_ context.Context, c Charge) (string, error) {
		own <- c.Order
		return "session's", nil
	}))
	for _, token := range []string{"a", "b", "a*>b", "a=2a=3eb", "a=2A=3E", "_", "=5F", "A=2A=3Eb", "a=2A=3Eb=", "a=2A=3Eb=0", "a.b"} {
		require.Empty(t, l.raw(hpub("jitney.evt."+token+".shop.order", head(), `{"ID":"not-its-own"}`)), token)
		l.raw(fmt.Sprintf("PUB jitney.cmd.%s.shop.charge 24\r\n{\"Order\":\"not-its-own-c\"}\r\n", token))
	}
	reply := l.request("jitney.cmd.a=2A=3Eb.shop.charge", head("Jitney-Session: other"), `{"Order":"torn"}`)
	require.Equal(t, "invalid", reply.Header.Get("Jitney-Error"))
	reply = l.request("jitney.cmd.a=2A=3Eb.shop.charge", head("Jitney-Session: a*>b"), `{"Order":"own"}`)
	require.Equal(t, `"session's"`, string(reply.Data))
	require.Equal(t, "own", <-own)
	require.NoError(t, bus.Publish(t.Context(), s, Order{ID: "last"}))
	require.Equal(t, "last", <-own, "and nothing before it")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, s.Close(ctx))
	require.Empty(t, own)
	for _, id := range []string{"", "\xff", strings.Repeat("s", 129), strings.Repeat("\u00fc", 65)} {
		_, err := l.bus.Session(t.Context(), id)
		require.Equal(t, bus.CodeInvalid, bus.CodeOf(err), "%q", id)
	}
	l.goesOn()
}
