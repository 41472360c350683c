package hostile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
)

const orders = "jitney.evt._.shop.order"

// TestBodies: what cannot be decoded is a dead letter at once, no handler has seen
// it, and the next event goes its way.
func TestBodies(t *testing.T) {
	l := newLab(t)
	dead := 0
	for _, c := range []struct{ name, header, body string }{
		{"no body", "", ""},
		{"null bytes", "", "\x00\x00\x00\x00"},
		{"cut off", "", `{"ID":"cut`},
		{"more behind it", "", `{"ID":"two"}{"ID":"three"}`},
		{"not JSON", "", "\x1b[2J\x1b]0;owned\x07"},
		{"an array", "", `[1,2,3]`},
		{"a number for text", "", `{"ID":1}`},
		{"a number that is too large", "", `{"ID":"n","N":2147483648}`},
		{"a number that is no integer", "", `{"ID":"n","N":1e-400}`},
		{"a huge exponent", "", `{"ID":"n","N":1e999999999}`},
		{"a number of 100,000 digits", "", `{"ID":"n","N":` + strings.Repeat("9", 100_000) + `}`},
		{"a huge number in any", "", `{"ID":"n","Any":1e400}`},
		{"NaN", "", `{"ID":"n","N":NaN}`},
		{"100,000 arrays", "", `{"Any":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`},
		{"100,000 objects", "", strings.Repeat(`{"Any":`, 100_000) + "1" + strings.Repeat("}", 100_000)},
		{"100,000 open arrays", "", strings.Repeat("[", 100_000)},
		{"deep in what is skipped", "", `{"Other":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`},
		{"of an unknown type", head("Content-Type: application/x-java-serialized-object"), `{"ID":"x"}`},
		{"of a type with control characters", head("Content-Type: \x1b[31mred"), `{"ID":"x"}`},
		{"of no type", head("Content-Type: ;;"), `{"ID":"x"}`},
		{"of another known type", head("Content-Type: application/octet-stream"), `{"ID":"x"}`},
		{"of two types", head("Content-Type: application/json", "Content-Type: text/plain"), `{"ID":"x"}`},
	} {
		ran, _ := l.runs(whatever)
		require.Empty(t, l.raw(hpubOrPub(orders, c.header, c.body)), c.name)
		dead++
		d := l.letters(dead)[dead-1]
		require.Equal(t, bus.CodeInvalid, d.Code, c.name)
		require.Equal(t, 0, d.Attempts, c.name)
		body, err := d.Body()
		require.NoError(t, err, c.name)
		require.Equal(t, c.body, string(body), "%s: the bytes as they came", c.name)
		now, _ := l.runs(whatever)
		require.Len(t, now, len(ran), "%s: no handler has seen it", c.name)
		l.goesOn()
	}
	// What JSON allows, even if nobody should write it.
	for _, c := range []struct {
		name, body string
		want       Order
	}{
		{"keys that repeat", `{"ID":"a","ID":"repeat"}`, Order{ID: "repeat"}},
		{"bytes that are no text", "{\"ID\":\"utf\xff\xfe\"}", Order{ID: "utf\uFFFD\uFFFD"}},
		{"half a surrogate", `{"ID":"half\ud800"}`, Order{ID: "half\uFFFD"}},
		{"fields that nobody has", `{"ID":"extra","__proto__":{"x":1},"$type":"System.Exec"}`, Order{ID: "extra"}},
		{"an exact large number", `{"ID":"max","N":2147483647}`, Order{ID: "max", N: 2147483647}},
	} {
		require.Empty(t, l.raw(hpubOrPub(orders, "", c.body)), c.name)
		require.Equal(t, c.want, l.await(1, orderIs(c.want.ID))[0].what, c.name)
	}
	l.letters(dead)
}

func hpubOrPub(subject, header, body string) string {
	if header == "" {
		return fmt.Sprintf("PUB %s %d\r\n%s\r\n", subject, len(body), body)
	}
	return hpub(subject, header, body)
}

// TestHeaders: an envelope that breaks the rules is a dead letter with the code
// invalid, and no handler has seen it.
func TestHeaders(t *testing.T) {
	l := newLab(t)
	dead := 0
	for _, c := range []struct{ name, subject, header string }{
		{"two ids", orders, head("Jitney-Id: a", "Jitney-Id: b")},
		{"two sessions", "jitney.evt.s1.shop.order", head("Jitney-Session: s1", "Jitney-Session: s1")},
		{"two times", orders, head("Jitney-Sent: 2026-01-01T00:00:00Z", "Jitney-Sent: 2026-01-01T00:00:00Z")},
		{"no time", orders, head("Jitney-Sent: yesterday")},
		{"a time of 100 digits", orders, head("Jitney-Sent: " + strings.Repeat("9", 100))},
		{"a bad escape", orders, head("Jitney-Escaped: 1", "Jitney-Id: %zz")},
		{"a session beside the bus's token", orders, head("Jitney-Session: s1")},
		{"another session", "jitney.evt.s1.shop.order", head("Jitney-Session: s2")},
		{"a session that is too long", orders, head("Jitney-Session: " + strings.Repeat("s", 129))},
		{"a session that is no text", orders, head("Jitney-Session: \xff\xfe")},
		{"a token in lower case", "jitney.evt.a=2fb.shop.order", head()},
		{"a token that need not be escaped", "jitney.evt.=41.shop.order", head()},
		{"a token that ends in an escape", "jitney.evt.a=2.shop.order", head()},
		{"a token of no digits", "jitney.evt.a=zz.shop.order", head()},
		{"a token of no text", "jitney.evt.=FF.shop.order", head()},
		{"a token of a null byte", "jitney.evt.a$b.shop.order", head()},
		{"a token that is a slash", "jitney.evt.a/b.shop.order", head()},
		{"a token of another alphabet", "jitney.evt.sessiön.shop.order", head()},
		{"a token that is too long", "jitney.evt." + strings.Repeat("s", 129) + ".shop.order", head()},
		{"a line without a colon", orders, head("this is no header")},
		{"no version", orders, "HTTP/1.1 200 OK\r\n\r\n"},
		{"no end", orders, "NATS/1.0\r\nJitney-Id: a\r\n"},
		{"nothing but noise", orders, "\x00\x01\x02\xff\xfe"},
	} {
		ran, _ := l.runs(whatever)
		require.Empty(t, l.raw(hpub(c.subject, c.header, `{"ID":"fail"}`)), c.name)
		dead++
		d := l.letters(dead)[dead-1]
		require.Equal(t, bus.CodeInvalid, d.Code, c.name)
		require.NotEmpty(t, d.Malformed, c.name)
		require.Equal(t, "shop.order", d.Name, c.name)
		now, _ := l.runs(whatever)
		require.Len(t, now, len(ran), "%s: no handler has seen it", c.name)
		_, err := l.bus.DeadLetters().Redrive(t.Context(), d.ID, bus.WithForce())
		require.ErrorIs(t, err, bus.ErrNotRedrivable, c.name)
		l.goesOn()
	}
}

// TestStatus: a message that looks like the server's word about a pull request is an
// event like any other.
func TestStatus(t *testing.T) {
	l := newLab(t)
	for i, status := range []string{"100", "100 Idle Heartbeat", "404 No Messages", "408 Timeout", "409 Consumer Deleted", "503"} {
		id := fmt.Sprintf("status-%d", i)
		require.Empty(t, l.raw(hpub(orders, "NATS/1.0 "+status+"\r\n\r\n", fmt.Sprintf(`{"ID":%q}`, id))))
		l.await(1, orderIs(id))
		require.Empty(t, l.raw(hpub(orders, "NATS/1.0 "+status+"\r\n\r\n", "")))
		l.letters(i + 1)
		l.goesOn()
	}
}

// spoofed are headers of the bus's own that mean nothing on an event for everybody.
var spoofed = []string{
	"Jitney-Handler: nobody", "Jitney-Attempt: 99", "Jitney-First: 2020-01-01T00:00:00.000Z",
	"Jitney-Then: nobody=5!@2020-01-01T00:00:00.000Z", "Jitney-Search: 10", "Jitney-Origin: somebody", "Jitney-Sequence: 7",
	"Jitney-Redriven: dead", "Jitney-Copy: c", "Jitney-Generation: 9", "Jitney-Edited: 1",
	`Jitney-History: [{"code":"failed","attempts":3}]`,
	"Jitney-Error: failed", "Jitney-Receipt: 1", "Jitney-Service: evil", "Jitney-Idempotency-Key: key", "Jitney-Asked: 5",
	"Jitney-Repeated: 1", "Jitney-Nil: 1", "Jitney-Paced: token", "Jitney-Timeout: 1", "Jitney-Status: busy",
	"Jitney-Dead-Kind: command", "Jitney-Dead-Group: other", "Jitney-Dead-Handler: other", "Jitney-Dead-Name: shop.charge",
	"Jitney-Dead-Code: panic", "Jitney-Dead-Error: \x1b[2Jspoofed", "Jitney-Dead-Attempts: 99",
	"Jitney-Dead-Header-Jitney-Handler: other", "Jitney-Dead-Malformed: no", "Jitney-Dead-Size: 5", "Jitney-Dead-To-Session: s",
	"Jitney-Unknown: x", "traceparent: 00-zz-\x07-ff", "tracestate: \xff", "X-User: kept",
}

// TestSpoofedHeaders: the bus's own headers mean nothing on an event that anybody may
// publish, neither on the event itself nor on the copy that is made of it for a
// retry.
func TestSpoofedHeaders(t *testing.T) {
	retry := resilience.Retry{MaxRetries: 1, Initial: time.Millisecond, Max: time.Millisecond, Jitter: resilience.NoJitter}
	t.Run("event", func(t *testing.T) { spoofHeaders(newLabWith(t, retry)) })
	retry.Within = time.Hour // so that a copy keeps when it failed first
	t.Run("copy", func(t *testing.T) { spoofHeaders(newLabWith(t, retry)) })
}

func spoofHeaders(l *lab) {
	t := l.T
	require.Empty(t, l.raw(hpub(orders, head(append(spoofed, "Nats-Msg-Id: good")...), `{"ID":"good"}`)))
	r := l.await(1, orderIs("good"))[0]
	require.Equal(t, "good", r.meta.ID)
	require.Equal(t, 1, r.meta.Attempt)
	require.Zero(t, r.meta.Generation)
	require.Empty(t, r.meta.IdempotencyKey)
	require.Equal(t, "shop", r.meta.Group)
	require.Empty(t, r.meta.Session)
	l.letters(0)

	require.Empty(t, l.raw(hpub(orders, head(append(spoofed, "Nats-Msg-Id: fail")...), `{"ID":"fail"}`)))
	d := l.letters(1)[0]
	for i, r := range l.await(2, orderIs("fail")) {
		require.Equal(t, i+1, r.meta.Attempt)
		require.Zero(t, r.meta.Generation)
	}
	require.Equal(t, bus.KindEvent, d.Kind)
	require.Equal(t, "shop.order", d.Name)
	require.Equal(t, "shop", d.Group)
	require.Equal(t, "count", d.Handler)
	require.Equal(t, bus.CodeFailed, d.Code)
	require.Equal(t, "it fails", d.Err)
	require.Equal(t, 2, d.Attempts)
	require.Zero(t, d.Generation)
	require.False(t, d.Edited)
	require.Empty(t, d.History)
	require.Empty(t, d.Malformed)
	require.Empty(t, d.Session)
	require.Equal(t, []string{"kept"}, d.Header()["X-User"])

	// It goes back to what failed, and to nothing else.
	_, err := l.bus.DeadLetters().Redrive(t.Context(), d.ID)
	require.NoError(t, err)
	for i, r := range l.await(4, orderIs("fail"))[2:] {
		require.Equal(t, i+1, r.meta.Attempt)
		require.Equal(t, 1, r.meta.Generation)
	}
	l.goesOn()
}

// TestServerHeaders: headers of the server's are its own business. It refuses some,
// and what it takes harms nobody.
func TestServerHeaders(t *testing.T) {
	l := newLab(t)
	l.goesOn()
	before := l.stored("JITNEY_EVT")
	for i, h := range []string{
		"Nats-Rollup: all", "Nats-Rollup: sub", "Nats-TTL: 1s", "Nats-Expected-Stream: OTHER", "Nats-Expected-Last-Sequence: 1",
		"Nats-Trace-Dest: jitney.evt._.shop.order", "Nats-Schedule: @every 1s", "Nats-Schedule-Target: jitney.evt._.shop.order",
		"Nats-Sequence: 18446744073709551615", "Nats-Last-Sequence: 18446744073709551615", "Nats-Stream: OTHER",
		"Nats-Subject: jitney.evt._.other", "Nats-Time-Stamp: never", "Nats-Num-Pending: x", "Nats-Scheduler: x",
		"Nats-Msg-Id: @", "Nats-Msg-Id: @_.shop.order", "Nats-Msg-Id: " + strings.Repeat("i", 20_000), "Nats-Batch-Id: b", "Nats-Pending-Messages: -1",
		"Nats-Service-Error: x", "KV-Operation: PURGE", "Nats-Marker-Reason: MaxAge", "Nats-Last-Consumer: 5", "Nats-Consumer-Stalled: x",
	} {
		require.Empty(t, l.raw(hpub(orders, head(h), fmt.Sprintf(`{"ID":"server-%d"}`, i))), h)
		l.goesOn()
	}
	require.Greater(t, l.stored("JITNEY_EVT"), before, "nothing was rolled up")
	l.letters(0)
}

// TestSubjects: names of other shapes are nobody's.
func TestSubjects(t *testing.T) {
	l := newLab(t)
	for _, subject := range []string{
		"jitney.evt", "jitney.evt._", "jitney.evt.shop.order", "jitney.evt._.shop", "jitney.evt._.shop.order.more", "jitney.evt._.SHOP.order",
		"jitney.evt._.shop.ORDER", "jitney.evt.$JS.API.STREAM.DELETE.JITNEY_EVT", "jitney.evt._.shop." + strings.Repeat("x", 1000),
		"jitney.evt._._INBOX", "jitney.due._", "jitney.due.x", "jitney.sched.x.y", "jitney.retry.shop", "jitney.retry.shop.other",
		"jitney.retry.SHOP.shop.order", "jitney.live._.shop.order", "jitney.live.x", "jitney", "jitney.cmd", "jitney.cmd._", "jitney.cmd._.shop",
		"jitney.cmd._.shop.charge.more", "jitney.cmd.s1.shop.charge", "jitney.nothing.x", "$SRV.PING", "$SRV.INFO.jitney", "$SRV.STATS.jitney.x.y",
	} {
		ran, _ := l.runs(whatever)
		require.Empty(t, l.raw(fmt.Sprintf("PUB %s reply 2\r\n{}\r\n", subject)), subject)
		now, _ := l.runs(whatever)
		require.Len(t, now, len(ran), subject)
	}
	// What the server takes of these it stores as it is. A group of the event gets the first.
	for _, subject := range []string{"jitney.evt.*.shop.order", "jitney.evt.>", "jitney.evt._.shop.*"} {
		l.raw(fmt.Sprintf("PUB %s 13\r\n{\"ID\":\"wild\"}\r\n", subject))
	}
	l.goesOn()
	require.Equal(t, bus.CodeInvalid, l.letters(1)[0].Code)
	for _, r := range l.all() {
		require.Contains(t, fmt.Sprint(r.what), "witness")
	}
}

func (l *lab) all() []run {
	all, _ := l.runs(whatever)
	return all
}

// TestSizes: the server's limit is for who breaks it; up to that a dead letter keeps
// what fits.
func TestSizes(t *testing.T) {
	l := newLab(t)
	const limit = 1 << 20
	require.Contains(t, l.raw(hpubOrPub(orders, "", strings.Repeat(" ", limit+1))), "Maximum Payload")
	l.goesOn()
	require.Contains(t, l.raw(hpub(orders, head("X: "+strings.Repeat("x", limit)), "{}")), "-ERR")
	l.goesOn()
	require.NotEmpty(t, l.raw(fmt.Sprintf("PUB %s 2\r\n{}\r\n", "jitney.evt._.shop.order"+strings.Repeat("x", 10_000))), "over the control line")
	l.goesOn()

	require.Empty(t, l.raw(hpubOrPub(orders, "", strings.Repeat(" ", limit))))
	d := l.letters(1)[0]
	require.Equal(t, bus.CodeInvalid, d.Code)
	require.Contains(t, d.Malformed, "was cut")
	l.goesOn()

	// Headers that take more than the bus allows, one large and many small.
	require.Empty(t, l.raw(hpub(orders, head("Nats-Msg-Id: fail-large", "X-Large: "+strings.Repeat("x", 60_000)), `{"ID":"fail-large"}`)))
	l.letters(2)
	l.await(2, orderIs("fail-large"))
	many := []string{"Nats-Msg-Id: fail-many"}
	for i := range 5_000 {
		many = append(many, fmt.Sprintf("X%d: y", i))
	}
	require.Empty(t, l.raw(hpub(orders, head(many...), `{"ID":"fail-many"}`)))
	l.letters(3)
	l.await(2, orderIs("fail-many"))
	l.goesOn()

	// An id of any length is one.
	require.Empty(t, l.raw(hpub(orders, head("Jitney-Id: "+strings.Repeat("i", 50_000)), `{"ID":"fail-id"}`)))
	l.letters(4)
	l.goesOn()
}

// TestRetryCopies: whoever may write on a group's subject of retries is believed to be
// the bus; nonsense there still harms nobody.
func TestRetryCopies(t *testing.T) {
	l := newLab(t)
	dead := 0
	const retries = "jitney.retry.shop.shop.order"
	throw := func(id string, lines ...string) {
		t.Helper()
		require.Empty(t, l.raw(hpub(retries, head(lines...), fmt.Sprintf(`{"ID":%q}`, id))))
	}
	throw("bare")
	require.Equal(t, 1, l.await(1, orderIs("bare"))[0].meta.Attempt)
	throw("for-nobody", "Jitney-Handler: nobody", "Jitney-Search: 10", "Jitney-Then: nobody=1,nobody=1,=,!,a=b=c,count=-5")
	dead += 3 // for "nobody", and for "a" and "count", which waited for it
	for _, d := range l.letters(dead) {
		require.Equal(t, bus.CodeNoHandler, d.Code)
	}
	throw("numbers", "Jitney-Handler: count", "Jitney-Attempt: 99999999999999999999", "Jitney-Sequence: -1", "Jitney-First: 9999-99-99")
	require.Equal(t, 1, l.await(1, orderIs("numbers"))[0].meta.Attempt, "what is no number is none")
	throw("many", "Jitney-Handler: count", "Jitney-Attempt: 2147483647")
	l.await(1, orderIs("many"))
	throw("fail-many", "Jitney-Handler: count", "Jitney-Attempt: 2147483647")
	dead++
	l.letters(dead)
	l.await(1, orderIs("fail-many"))
	throw("redriven", "Jitney-Redriven: *.>", "Jitney-Copy: x", "Jitney-Generation: 99999999999999999999", "Jitney-History: [[[[")
	require.Zero(t, l.await(1, orderIs("redriven"))[0].meta.Generation)
	throw("no-id", "Jitney-Id: ", "Jitney-Origin: \x1b[31m", "Jitney-Session: =5F")
	require.Equal(t, "=5F", l.await(1, orderIs("no-id"))[0].meta.Session, "a session's id is any text")
	throw("two", "Jitney-Session: a", "Jitney-Session: b")
	dead++
	l.letters(dead)

	l.goesOn()
}

// TestSchedules: a schedule reaches no subject that its stream has not got.
func TestSchedules(t *testing.T) {
	l := newLab(t)
	for i, target := range []string{
		"jitney.evt._.shop.order", "jitney.dlq.x.event.shop.shop.order", "jitney.cmd._.shop.charge", "$JS.API.STREAM.DELETE.JITNEY_EVT",
		"$KV.JITNEY_STATE.owner.shop.charge", "jitney.sched.*", "jitney.>", "_INBOX.x", "",
	} {
		m := natsgo.NewMsg(fmt.Sprintf("jitney.sched.hostile%d", i))
		m.Header.Set("Nats-Schedule", "@at 2020-01-01T00:00:00Z")
		m.Header.Set("Nats-Schedule-Target", target)
		m.Data = []byte(`{"ID":"scheduled"}`)
		js, err := l.nc.JetStream()
		require.NoError(t, err)
		_, err = js.PublishMsg(m)
		require.Error(t, err, target)
	}
	for i, at := range []string{"@every 1ns", "@at never", "* * * * *", strings.Repeat("9", 1000), "@at 9999-12-31T23:59:59Z"} {
		m := natsgo.NewMsg(fmt.Sprintf("jitney.sched.when%d", i))
		m.Header.Set("Nats-Schedule", at)
		m.Header.Set("Nats-Schedule-Target", "jitney.due._.shop.nothing")
		_ = l.nc.PublishMsg(m)
	}
	// One that is allowed is an event like any other: what is due is decoded as it is.
	for i, c := range []struct{ target, body string }{
		{"jitney.due._.shop.order", "{"}, {"jitney.due.a=zz.shop.order", `{"ID":"x"}`}, {"jitney.retry.shop.shop.order", "]"},
	} {
		m := natsgo.NewMsg(fmt.Sprintf("jitney.sched.due%d", i))
		m.Header.Set("Nats-Schedule", "@at 2020-01-01T00:00:00Z")
		m.Header.Set("Nats-Schedule-Target", c.target)
		m.Data = []byte(c.body)
		l.keep(m)
	}
	for _, d := range l.letters(3) {
		require.Equal(t, bus.CodeInvalid, d.Code)
	}
	l.goesOn()
	found, _ := l.runs(orderIs("scheduled"))
	require.Empty(t, found)
}
